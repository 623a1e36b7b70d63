package control

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/tunlb/tunlb/tunlb/gate"
)

// Upgrader is a Daemon that can be replaced by another program in place.
type Upgrader interface {
	// Upgrade tries binary, "" for the one that the daemon was started by, and has the daemon replaced by it soon after. On an error
	// everything goes on as before.
	Upgrade(ctx context.Context, binary string) (Upgrade, error)
}

// Upgrade is the answer of POST /v1/upgrade. It is given before the daemon is replaced: Info.Started tells when it has been. A plain value.
type Upgrade struct {
	Binary string `json:"binary"`
	From   string `json:"from"` // versions
	To     string `json:"to"`
}

func (a *api) upgrade(w http.ResponseWriter, r *http.Request) {
	q, err := parameters(r, "binary")
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	binary := q.Get("binary")
	u, ok := a.d.(Upgrader)
	switch {
	case !ok:
		fail(w, http.StatusNotImplemented, errors.New("this tunlb is part of another program, which has to be started again"))
		return
	case binary != "" && !callerOf(gate.Of(r.Context()).NetConn()).Rank:
		// It would be run with all that the daemon may do.
		fail(w, http.StatusForbidden, errors.New("only root and the daemon's own user may say which binary; leave it out to take the one that is there now"))
		return
	}
	result, err := u.Upgrade(r.Context(), binary)
	line := a.changed(r, err).Str("binary", result.Binary).Str("to", result.To)
	if err != nil {
		line.Msg("upgrade asked for on the control socket")
		fail(w, http.StatusConflict, err)
		return
	}
	line.Msg("upgrade asked for on the control socket")
	reply(w, http.StatusOK, result)
}

// Upgrade has the daemon replaced by binary, "" for the one that it was started by. It returns when the binary has been found good, which
// is before it has taken over.
func (c *Client) Upgrade(ctx context.Context, binary string) (Upgrade, error) {
	q := url.Values{}
	if binary != "" {
		q.Set("binary", binary)
	}
	var r Upgrade
	return r, c.call(ctx, http.MethodPost, "/v1/upgrade", q, nil, &r)
}
