package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace without a name: a descriptor keeps it alive, so that nothing is left
// when the process ends in whatever way. Its methods are safe for concurrent use. Whoever made
// it closes it. The zero value is of no use.
type NS struct {
	name   string
	file   *os.File
	handle *netlink.Handle

	mu     sync.Mutex
	closed bool
	owned  map[io.Closer]struct{} // what Close ends: captures, idle connections, the starter
	start  *starter               // made for the first child process
}

// New makes a namespace with loopback up and settings that don't depend on the host's: no
// forwarding, no reverse path filter, no duplicate address detection, no autoconfiguration. The name is for messages.
func New(name string) (*NS, error) {
	ns := &NS{name: name, owned: make(map[io.Closer]struct{})}
	err := visit(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, ns.setUp)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("make namespace %s: %w", name, refused(err))
	}
	return ns, nil
}

// setUp runs inside the new namespace.
func (ns *NS) setUp() (err error) {
	if ns.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if ns.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	// A new namespace inherits IPv4 settings from the host's own network.
	for _, s := range [...][2]string{
		{"ipv4/ip_forward", "0"},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
		{"ipv6/conf/all/accept_dad", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		{"ipv6/conf/default/router_solicitations", "0"},
	} {
		// A kernel without IPv6 has no such file.
		if err := writeSysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	lo, err := ns.handle.LinkByName("lo")
	if err != nil {
		return err
	}
	return ns.handle.LinkSetUp(lo)
}

// Do calls f with its thread inside the namespace: sockets and devices that f makes belong to it
// for good, wherever they are used later. Goroutines that f starts run outside.
func (ns *NS) Do(f func() error) error {
	return visit(func() error {
		// Control holds the descriptor, so that no Close gives its number to another file meanwhile.
		raw, err := ns.file.SyscallConn()
		if err != nil {
			return fmt.Errorf("namespace %s: %w", ns.name, net.ErrClosed)
		}
		var entered error
		if raw.Control(func(fd uintptr) { entered = unix.Setns(int(fd), unix.CLONE_NEWNET) }) != nil {
			return fmt.Errorf("namespace %s: %w", ns.name, net.ErrClosed)
		}
		return entered
	}, f)
}

// visit calls enter, which moves the thread into another network namespace, then f, and moves
// the thread back.
func visit(enter, f func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { // deferred for a test's FailNow in f
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			// Not unlocked: this thread must serve nobody else, and ends with its goroutine.
			err = errors.Join(err, fmt.Errorf("leave namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// Name is what New was told.
func (ns *NS) Name() string { return ns.name }

// Path names the namespace to other processes, and to this one, for as long as it isn't closed.
func (ns *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// Handle configures the namespace from any thread. It is closed with the namespace.
func (ns *NS) Handle() *netlink.Handle { return ns.handle }

// Sysctl writes a setting below /proc/sys/net: "ipv4/ip_forward".
func (ns *NS) Sysctl(path, value string) error {
	return ns.Do(func() error { return writeSysctl(path, value) })
}

func writeSysctl(path, value string) error {
	path = strings.TrimPrefix(path, "net/")
	if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}

// Close ends the namespace's child processes, captures and idle HTTP connections and gives the
// namespace up; the kernel removes it when its last socket is closed. Idempotent.
func (ns *NS) Close() error {
	ns.mu.Lock()
	owned := ns.owned
	ns.closed, ns.owned = true, nil
	ns.mu.Unlock()
	var errs []error
	for c := range owned {
		errs = append(errs, c.Close())
	}
	if ns.handle != nil {
		ns.handle.Close()
	}
	if ns.file != nil {
		if err := ns.file.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// own has Close close c; false if that has happened already.
func (ns *NS) own(c io.Closer) bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if !ns.closed {
		ns.owned[c] = struct{}{}
	}
	return !ns.closed
}

func (ns *NS) disown(c io.Closer) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	delete(ns.owned, c)
}
