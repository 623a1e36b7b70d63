package control

import (
	"context"
	"errors"
	"net/http"

	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// LVS is what the daemon does for ipvsadm. All methods are called concurrently.
type LVS interface {
	// LVS is the running services as ipvsadm sees them, whoever has configured them, and what each of them
	// has counted.
	LVS() (ipvs.State, []ipvs.Entry)
	// LVSCommand carries out a command that changes the table, or that zeroes counters. What ipvsadm says
	// when it fails is an *ipvs.Error.
	LVSCommand(ipvs.Command) error
}

// Table is the answer of GET /v1/ipvs. Entries are parallel to the state's specs.
type Table struct {
	ipvs.State
	Entries []ipvs.Entry `json:"entries"`
}

func (a *api) lvsTable(w http.ResponseWriter, r *http.Request) {
	if _, err := parameters(r); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	var t Table
	if t.State, t.Entries = a.d.LVS(); t.Entries == nil {
		t.Entries = []ipvs.Entry{} // a list, for who is not of Go
	}
	reply(w, http.StatusOK, t)
}

func (a *api) lvsCommand(w http.ResponseWriter, r *http.Request) {
	var c ipvs.Command
	if _, err := parameters(r); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if !decode(w, r, &c) {
		return
	}
	if !c.Verb.Changes() && c.Verb != ipvs.ZeroCounters {
		fail(w, http.StatusBadRequest, errors.New("verb: want one that changes the table, or zero"))
		return
	}
	err := a.d.LVSCommand(c)
	line := a.changed(r, err).Str("verb", string(c.Verb)).Stringer("service", c.Service)
	if c.Server.Address.IsValid() {
		line = line.Stringer("server", c.Server.Address).Int("weight", c.Server.Weight)
	}
	line.Msg("ipvsadm on the control socket")
	var refused *ipvs.Error
	switch {
	case errors.As(err, &refused):
		reply(w, http.StatusConflict, &Error{Message: refused.Message, Exit: refused.Code})
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
	default:
		reply(w, http.StatusOK, struct{}{})
	}
}

// LVS asks for the services as ipvsadm sees them.
func (c *Client) LVS(ctx context.Context) (Table, error) {
	var t Table
	return t, c.call(ctx, http.MethodGet, "/v1/ipvs", nil, nil, &t)
}

// LVSCommand has one of ipvsadm's commands carried out. What ipvsadm says when it fails is an *ipvs.Error.
func (c *Client) LVSCommand(ctx context.Context, command ipvs.Command) error {
	err := c.call(ctx, http.MethodPost, "/v1/ipvs", nil, command, &struct{}{})
	var refused *Error
	if errors.As(err, &refused) && refused.Exit != 0 {
		return &ipvs.Error{Message: refused.Message, Code: refused.Exit}
	}
	return err
}
