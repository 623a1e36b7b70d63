// Package control is the way to a running tunlb: HTTP and JSON on a Unix socket, the server in the
// daemon and its client in the commands.
//
// It owns the wire format, the socket, its place and who may use it. It does not own what the answers
// say (package tunlb) nor how they are shown (cmd/tunlb).
package control

import (
	"context"
	"errors"
	"time"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/gate"
	"github.com/tunlb/tunlb/tunlb/logging"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// ErrNoDaemon is wrapped by a client's error where nobody answers on the socket.
var ErrNoDaemon = errors.New("no tunlb is running here")

// Info says which daemon answers.
type Info struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Config  string    `json:"config"`
	Started time.Time `json:"started"`
	// Log counts the lines that are not in its log.
	Log logging.Counts `json:"log"`
}

// Status is the answer of GET /v1/status.
type Status struct {
	Daemon Info `json:"daemon"`
	// Control is of the connections to the control socket.
	Control gate.Counts `json:"control"`
	tunlb.Status
}

// Conn is a line of GET /v1/conns: a connection, and the ID by which DELETE knows it.
type Conn struct {
	ID string `json:"id"`
	tunlb.Conn
}

// ReloadResult is the answer of POST /v1/reload. With errors nothing was changed.
type ReloadResult struct {
	Changes []string `json:"changes"`
	Errors  []string `json:"errors,omitempty"`
	// Invalid says that the errors are the file's.
	Invalid bool `json:"invalid,omitempty"`
	// DryRun says that nothing was changed in any case: these are the changes that there would be.
	DryRun bool `json:"dry_run,omitempty"`
}

// OrderResult is the answer of POST /v1/servers: what has changed, which is nothing if all was so before.
type OrderResult struct {
	Events []tunlb.Event `json:"events"`
}

// KillResult is the answer of DELETE /v1/conns.
type KillResult struct {
	Killed int `json:"killed"`
}

// Error is what a server says when it refuses or fails: the body of every answer but those of success and
// of a refused reload. A plain value.
type Error struct {
	Status  int    `json:"-"` // of HTTP
	Message string `json:"error"`
	Exit    int    `json:"exit,omitempty"` // what ipvsadm exits with; valid iff one of its commands has failed
}

func (e *Error) Error() string { return e.Message }

// Daemon is what the server serves. All methods are called concurrently.
type Daemon interface {
	Info() Info
	Status() tunlb.Status
	Conns(filter tunlb.ConnFilter, visit func(tunlb.Conn) bool)
	Events(ctx context.Context, since uint64, follow bool, visit func(tunlb.Event) bool)
	Order(tunlb.ServerOrder) ([]tunlb.Event, error)
	Kill(id string) error
	Explain(tunlb.Question) (tunlb.Explanation, error)
	// Watch subscribes to packets' journeys; whoever asks closes the subscription.
	Watch(watch.Options) *watch.Subscription
	// Reload reads the file again; with dryRun it only says what that would change.
	Reload(ctx context.Context, dryRun bool) ReloadResult
	LVS
}
