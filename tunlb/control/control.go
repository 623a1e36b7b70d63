// Package control is the way to a running tunlb: HTTP and JSON on a Unix socket, the server in the
// daemon and its client in the commands.
//
// It owns the wire format, the socket and its place. It does not own what the answers say (package
// tunlb) nor how they are shown (cmd/tunlb).
package control

import (
	"context"
	"errors"
	"time"

	"github.com/tunlb/tunlb/tunlb"
)

// ErrNoDaemon is wrapped by a client's error where nobody answers on the socket.
var ErrNoDaemon = errors.New("no tunlb is running here")

// Info says which daemon answers.
type Info struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Config  string    `json:"config"`
	Started time.Time `json:"started"`
}

// Status is the answer of GET /v1/status.
type Status struct {
	Daemon Info `json:"daemon"`
	tunlb.Status
}

// ReloadResult is the answer of POST /v1/reload. With errors nothing was changed.
type ReloadResult struct {
	Changes []string `json:"changes"`
	Errors  []string `json:"errors,omitempty"`
	// Invalid says that the errors are the file's.
	Invalid bool `json:"invalid,omitempty"`
}

// Daemon is what the server serves.
type Daemon interface {
	Info() Info
	Status() tunlb.Status
	Conns(visit func(tunlb.Conn) bool)
	Reload(ctx context.Context) ReloadResult
}
