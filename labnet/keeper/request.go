package keeper

import (
	"errors"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// What can be asked for.
const (
	doInfo    = "info"
	doExec    = "exec"
	doImpair  = "impair"
	doPublish = "publish"
	doDown    = "down"
)

// request is the first frame of a connection. Which fields are valid Do says.
type request struct {
	Do         string
	Host       string              // exec, impair
	Network    string              // impair
	Impairment scenario.Impairment // impair
	Argv       []string            // exec
	In         bool                // exec: there is input
	Terminal   bool                // exec
	Env        []string            `json:",omitempty"` // exec
	Publish    Publication         // publish
}

// reply is the last frame of a connection.
type reply struct {
	Err       string `json:",omitempty"`
	NotUp     bool   `json:",omitempty"` // exec: Err says that the command did not start
	Info      *Info  `json:",omitempty"`
	Code      int    // exec: the command's exit code
	Published *Publication
	Warning   string `json:",omitempty"` // down: what was wrong with the lab before
}

func (r reply) err() error {
	if r.Err == "" {
		return nil
	}
	return errors.New(r.Err)
}

// Info is what a keeper says of its lab. A plain value.
type Info struct {
	Name      string        `json:"name"`
	Driver    string        `json:"driver"`
	File      string        `json:"file"` // as it was named
	Began     time.Time     `json:"began"`
	Director  string        `json:"director"`
	Client    string        `json:"client"` // the host that published ports connect from if nobody says which
	Hosts     []string      `json:"hosts"`  // but for the director
	Published []Publication `json:"published"`
	Broken    string        `json:"broken,omitempty"` // why the director does not work
}

// Publication is a port of the machine that leads to a service in a lab.
type Publication struct {
	Listen string `json:"listen"` // ADDRESS:PORT on the machine
	From   string `json:"from"`   // the host that connects; "" leaves it to the keeper
	To     string `json:"to"`     // ADDRESS:PORT in the lab
}
