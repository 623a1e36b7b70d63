package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// capabilities are a set of them, a bit each.
type capabilities uint64

func (c capabilities) has(n int) bool { return c&(1<<n) != 0 }

// String names those that tunlb may keep.
func (c capabilities) String() string {
	var names []string
	for n := range 64 {
		switch {
		case !c.has(n):
		case n == unix.CAP_NET_ADMIN:
			names = append(names, "net_admin")
		case n == unix.CAP_NET_RAW:
			names = append(names, "net_raw")
		case n == unix.CAP_NET_BIND_SERVICE:
			names = append(names, "net_bind_service")
		case n == unix.CAP_SYS_ADMIN:
			names = append(names, "sys_admin")
		case n == unix.CAP_SYS_PTRACE:
			names = append(names, "sys_ptrace")
		default:
			names = append(names, strconv.Itoa(n))
		}
	}
	return strings.Join(names, " ")
}

// capabilities are what the daemon and its successors need: devices, routes, rules and nf_tables take NET_ADMIN; packet ports, and the checks
// and sockets of services that a reload may bring, NET_RAW. A successor goes into the ports' network namespaces once more, and binds the metrics' port.
func (d *daemon) capabilities() capabilities {
	keep := capabilities(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW)
	for _, n := range d.networks {
		if n.port.NetNS != "" {
			keep |= 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_PTRACE
		}
	}
	if at, err := netip.ParseAddrPort(d.cfg.Metrics.Listen); err == nil && at.Port() < 1024 {
		keep |= 1 << unix.CAP_NET_BIND_SERVICE
	}
	return keep
}

// dropCapabilities leaves all threads of this process no more than keep, and what it executes nothing, unless raiseAmbient says otherwise.
func dropCapabilities(keep capabilities, log zerolog.Logger) {
	dropped, err := drop(keep)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		log.Warn().Msg("capabilities are kept: this binary was built with cgo, where they can't be given up for all threads; build it with CGO_ENABLED=0")
	case err != nil:
		log.Warn().Err(err).Msg("capabilities are kept")
	default:
		log.Info().Stringer("kept", dropped).Msg("capabilities given up")
	}
}

// drop returns what is left.
func drop(keep capabilities) (capabilities, error) {
	permitted, err := permittedCapabilities()
	if err != nil {
		return 0, err
	}
	keep &= permitted
	// The first call tells whether there may be any more: it changes nothing that this process makes use of.
	if err := everyThread("PR_SET_NO_NEW_PRIVS", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return 0, err
	}
	if permitted.has(unix.CAP_SETPCAP) {
		for n := range 64 {
			if bounded, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil {
				break // the kernel knows no more
			} else if keep.has(n) || bounded == 0 {
				continue
			}
			if err := everyThread("PR_CAPBSET_DROP", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n), 0); err != nil {
				return 0, err
			}
		}
		// User 0 gets nothing by being user 0. A command that checks a server's health runs as this user.
		const noRoot = 1<<0 | 1<<1 // SECBIT_NOROOT, and locked
		if err := everyThread("PR_SET_SECUREBITS", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noRoot, 0); err != nil {
			return 0, err
		}
	}
	if err := everyThread("PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return 0, err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		word := uint32(keep >> (32 * i))
		data[i] = unix.CapUserData{Effective: word, Permitted: word, Inheritable: word}
	}
	// capset(2) goes for the thread that calls it.
	err = everyThread("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	return keep, err
}

// raiseAmbient has the program that is executed next keep what this one has. No other process gets it: whoever calls it executes next.
func raiseAmbient() error {
	if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || n == 0 {
		return err // nothing was given up
	}
	permitted, err := permittedCapabilities()
	if err != nil {
		return err
	}
	for n := range 64 {
		if !permitted.has(n) {
			continue
		}
		if err := everyThread("PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n)); err != nil {
			return fmt.Errorf("hand on capability %v: %w", capabilities(1<<n), err)
		}
	}
	return nil
}

func permittedCapabilities() (capabilities, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, os.NewSyscallError("capget", err)
	}
	return capabilities(data[0].Permitted) | capabilities(data[1].Permitted)<<32, nil
}

// everyThread makes a system call in all threads of the process, those to come included. Arguments may be pointers, converted in the call itself: the
// directive has what they point to stay where it is until the call returns, which the stack, that grows by moving, does not.
//
//go:uintptrescapes
func everyThread(name string, trap, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}
