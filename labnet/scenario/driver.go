package scenario

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/tunlb/control"
)

// Driver makes labs real. Implementations: labnet/namespaces ("netns") and labnet/sim ("sim").
type Driver interface {
	// Name is how --driver calls it.
	Name() string
	// Up builds the network of a file and starts its servers and its director, which answers when Up returns.
	// On an error nothing is left.
	Up(ctx context.Context, f *File) (Lab, error)
}

// Lab is a network that is up. Whoever brought it up closes it. Safe for concurrent use.
type Lab interface {
	// Dial connects from a host, "tcp" or "udp", to address:port. Deadlines of ctx are real time; see After.
	Dial(ctx context.Context, host, network string, to netip.AddrPort) (net.Conn, error)
	// Ping sends one echo request and waits for its answer.
	Ping(ctx context.Context, host string, to netip.Addr) (time.Duration, error)
	// Behave changes how a host's server program at a port answers.
	Behave(host string, port uint16, b Behaviour) error
	// Impair changes what the link of a host (or of the director) to a network does.
	Impair(host, network string, i Impairment) error
	// Control asks the director's tunlb.
	Control() *control.Client
	// Exec runs a command on a host and returns its exit code. An error says that it could not be started.
	Exec(ctx context.Context, host string, argv []string, std Stdio) (code int, err error)
	// Ended is what the director's tunlb has ended with though nobody told it to; nil while it runs.
	Ended() error
	// Now is the lab's clock, which may run faster than ours.
	Now() time.Duration
	// After is a context that ends once d has passed on the lab's clock (context.DeadlineExceeded as its cause).
	After(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
	// Close takes all down: nothing is left of it. Idempotent.
	Close() error
}

// Stdio is what a command reads and writes.
type Stdio struct {
	In       io.Reader // nil: nothing to read
	Out, Err io.Writer
	// Terminal says that the command is to have a terminal of its own (Err is not used then); Resize, which may be nil,
	// tells its size, first and on each change.
	Terminal bool
	Resize   <-chan Size
	// Env is NAME=VALUE that the command gets beside what is set in the lab.
	Env []string
}

// Size is a terminal's, in characters.
type Size struct{ Columns, Rows uint16 }
