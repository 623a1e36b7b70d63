//go:build !linux

package netns

import (
	"io"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
)

// NS is a network namespace, of which this operating system has none.
type NS struct{}

func unsupported() error {
	return &Unsupported{What: "network namespaces on " + runtime.GOOS, How: "labs of the kernel's namespaces need Linux"}
}

// Enter fails.
func Enter() (code int, ran bool, err error) { return 0, false, unsupported() }

// Main calls run.
func Main(run func() int) int { return run() }

// Check fails.
func Check() error { return unsupported() }

// CheckTUN fails.
func CheckTUN() error { return unsupported() }

// New fails.
func New(string) (*NS, error) { return nil, unsupported() }

// Connect fails.
func Connect(End, End) error { return unsupported() }

// Do fails.
func (*NS) Do(func() error) error { return unsupported() }

// Name is empty.
func (*NS) Name() string { return "" }

// Path is empty.
func (*NS) Path() string { return "" }

// Handle is nil.
func (*NS) Handle() *netlink.Handle { return nil }

// Sysctl fails.
func (*NS) Sysctl(string, string) error { return unsupported() }

// Bridge fails.
func (*NS) Bridge(string, ...string) error { return unsupported() }

// Up fails.
func (*NS) Up(string) error { return unsupported() }

// Settle fails.
func (*NS) Settle() error { return unsupported() }

// AddAddress fails.
func (*NS) AddAddress(string, netip.Prefix) error { return unsupported() }

// MACs fails.
func (*NS) MACs() (map[string]MAC, error) { return nil, unsupported() }

// Neighbour fails.
func (*NS) Neighbour(netip.Addr) (n Neighbour, ok bool, err error) {
	return Neighbour{}, false, unsupported()
}

// Neighbours fails.
func (*NS) Neighbours() ([]Neighbour, error) { return nil, unsupported() }

// AddNeighbour fails.
func (*NS) AddNeighbour(string, netip.Addr, MAC) error { return unsupported() }

// FlushNeighbours fails.
func (*NS) FlushNeighbours() error { return unsupported() }

// AddRoute fails.
func (*NS) AddRoute(Route) error { return unsupported() }

// SetOffload fails.
func (*NS) SetOffload(string, bool) error { return unsupported() }

// Offload fails.
func (*NS) Offload(string) (checksum, segmentation bool, err error) {
	return false, false, unsupported()
}

// Close does nothing.
func (*NS) Close() error { return nil }

// Start fails.
func (*Cmd) Start() error { return unsupported() }

func (*NS) own(io.Closer) bool { return true }

func (*NS) disown(io.Closer) {}

func (*NS) openCapture(string) (capture, error) { return nil, unsupported() }
