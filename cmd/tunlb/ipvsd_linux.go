package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// The life of a daemon that ipvsadm has started: it is to the network namespace what the kernel's table
// would be, and ends with it. As long as it runs the namespace cannot go away by itself, so it looks
// whether anybody else still has it: by a name, a process or an open file.

const (
	namespacePoll = time.Second
	// secondLook comes so soon after a first one that found nobody.
	secondLook = namespacePoll / 10
	// logLimit bounds the log of a daemon whose operator does not know that it has one.
	logLimit = 1 << 20
)

// logVariable names the log that a daemon was started with, which is its own and goes with it; empty of one
// without a name.
const logVariable = "TUNLB_STARTED_LOG"

// watchNamespace calls stop when nobody but this process has its network namespace any more. It ends with ctx,
// and takes the log along: what a daemon has to say that was told to end is of no use to anybody.
func watchNamespace(ctx context.Context, stop context.CancelFunc, log zerolog.Logger) {
	ownLog, started := os.LookupEnv(logVariable)
	if ownLog != "" {
		defer os.Remove(ownLog)
	}
	h := holders{proc: "/proc", self: os.Getpid()}
	look := time.NewTimer(namespacePoll)
	defer look.Stop()
	for gone := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if started {
			boundLog(os.Stderr)
		}
		held, err := h.any()
		switch {
		case err != nil:
			log.Error().Err(err).Msg("cannot tell whether the network namespace is still in use; stop this tunlb by hand when it is not")
			<-ctx.Done()
			return
		case held:
			gone = false
			look.Reset(namespacePoll)
		case !gone:
			// A look takes its time, and misses who comes behind it and goes before it.
			gone = true
			look.Reset(secondLook)
		default:
			log.Info().Msg("nobody has this network namespace any more: the end")
			stop()
			return
		}
	}
}

// boundLog starts a log file over that has become too long.
func boundLog(f *os.File) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > logLimit {
		_ = f.Truncate(0) // fails if others have sealed it; then it grows
	}
}

// holders finds who has the network namespace of a process.
type holders struct {
	proc  string // where /proc is
	self  int    // who does not count
	ns    string // the link that names the namespace; "" before the first look
	first bool   // it is that of process 1, which never goes away
	last  string // where it was seen last: most looks end there
}

// any says whether anybody has it.
func (h *holders) any() (bool, error) {
	if h.ns == "" {
		ns, err := os.Readlink(filepath.Join(h.proc, strconv.Itoa(h.self), "ns/net"))
		if err != nil {
			return false, fmt.Errorf("network namespace: %w", err)
		}
		h.ns, h.first = ns, h.is(filepath.Join(h.proc, "1/ns/net"), ns)
	}
	if h.first || h.last != "" && h.is(h.last, h.ns) {
		return true, nil
	}
	h.last = ""
	named, err := h.named()
	return named || err == nil && h.used(), err
}

// is says whether a link leads to a namespace.
func (h *holders) is(link, ns string) bool {
	to, err := os.Readlink(link)
	return err == nil && to == ns
}

// named says whether the namespace is mounted somewhere, as `ip netns add` does.
func (h *holders) named() (bool, error) {
	b, err := os.ReadFile(filepath.Join(h.proc, strconv.Itoa(h.self), "mountinfo"))
	if err != nil {
		return false, fmt.Errorf("mounts: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		// proc_pid_mountinfo(5): ID, parent, device, root, ...; the root of such a mount is the namespace.
		if fields := bytes.Fields(lines.Bytes()); len(fields) > 3 && string(fields[3]) == h.ns {
			return true, nil
		}
	}
	return false, nil
}

// used says whether another process has a thread in the namespace or a file open on it. Those that may not
// be looked into are passed over: they are of somebody with more rights, who has no need of a namespace of
// ours.
func (h *holders) used() bool {
	processes, err := os.ReadDir(h.proc)
	if err != nil {
		return true // nothing is known, so nothing ends
	}
	for _, where := range []string{"task/*/ns/net", "fd/*"} {
		for _, p := range processes {
			pid, err := strconv.Atoi(p.Name())
			if err != nil || pid == h.self {
				continue
			}
			links, _ := filepath.Glob(filepath.Join(h.proc, p.Name(), where))
			for _, link := range links {
				if h.is(link, h.ns) {
					h.last = link
					return true
				}
			}
		}
	}
	return false
}

// detach keeps what this process has inherited from being handed on: a lock or a pipe of the script that
// calls ipvsadm must not stay open for as long as the daemon lives.
func detach() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range fds {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// lockFile takes a lock that ends with this process, or says that somebody else has it.
func lockFile(path string) (*os.File, bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		f.Close()
		return nil, false, nil
	}
	// Its last owner may have removed it between the two.
	here, errHere := os.Stat(path)
	mine, errMine := f.Stat()
	if err == nil && (errHere != nil || errMine != nil || !os.SameFile(here, mine)) {
		f.Close()
		return nil, false, nil
	}
	if err != nil {
		f.Close()
		return nil, false, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	return f, true, nil
}
