package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/tunlb/control"
)

// startPatience bounds the start of a daemon, or the wait for one that somebody else is starting.
const startPatience = 10 * time.Second

// startIPVSD starts a daemon in this network namespace that outlives the caller, unless one is there, and
// returns when it answers. Of several callers at once one starts it, and the others wait for it.
func startIPVSD(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	before := existing(socket)
	var errs []error
	for place, err := range control.Places(socket) {
		if err == nil {
			if err = startAt(ctx, place); err != nil && socket == "" && !before[place] {
				os.Remove(filepath.Dir(place)) // made for nothing; stays if somebody else uses it
			}
			if err == nil || socket != "" || !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no place for a socket: %w; name one by TUNLB_SOCKET, or run it as root", errors.Join(errs...))
}

// existing says at which default places there is a folder already.
func existing(socket string) map[string]bool {
	there := map[string]bool{}
	if socket == "" {
		for _, place := range control.DefaultSockets() {
			_, err := os.Lstat(filepath.Dir(place))
			there[place] = err == nil
		}
	}
	return there
}

func startAt(ctx context.Context, place string) error {
	unlock, err := lockStart(ctx, place)
	if err != nil {
		return fmt.Errorf("start tunlb: %w", err)
	}
	defer unlock()
	if _, err := control.NewClient(place).Status(ctx); !errors.Is(err, control.ErrNoDaemon) {
		return err // somebody else has been faster, or may not be asked
	}
	log, err := openLog(place)
	if err != nil {
		return fmt.Errorf("start tunlb: log: %w", err)
	}
	defer log.Close()
	err = launch(ctx, place, log)
	if err == nil {
		return nil
	}
	if path := logOf(place); path != "" {
		os.Remove(path) // the error has its end; a daemon that has ended has taken it along
	}
	if !mayNetwork() {
		return fmt.Errorf("%w: no tunlb answers at %s, and to start one takes CAP_NET_ADMIN; run it as root, or in namespaces of your own: unshare -rn", errNoRights, place)
	}
	return err
}

// mayNetwork says whether this process may set up a network.
func mayNetwork() bool {
	var sets [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])
	return err != nil || sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// lockStart waits for the right to start a daemon at place. An abstract socket needs none: it can be bound
// only once.
func lockStart(ctx context.Context, place string) (unlock func(), err error) {
	if strings.HasPrefix(place, "@") {
		return func() {}, nil
	}
	path := strings.TrimSuffix(place, ".sock") + ".lock"
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		f, mine, err := lockFile(path)
		if err != nil {
			return nil, err
		}
		if mine {
			return func() {
				os.Remove(path) // while it is locked, so that nobody holds one that others do not see
				f.Close()
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another ipvsadm has been starting tunlb for %v: %w", startPatience, ctx.Err())
		case <-retry.C:
		}
	}
}

// openLog makes the file beside the socket that the daemon logs to; watchNamespace bounds and removes it. Of an
// abstract socket there is no beside: that log has no name, and ends with the start as far as anybody can see.
func openLog(place string) (*os.File, error) {
	if path := logOf(place); path != "" {
		return os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	}
	f, err := os.CreateTemp("", "tunlb-*.log")
	if err != nil {
		return nil, err
	}
	// It is truncated while it is written to, so each write has to look for the end.
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND)
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// logOf is where the log of a daemon with this socket is; "" of an abstract one, which has no place.
func logOf(place string) string {
	if strings.HasPrefix(place, "@") {
		return ""
	}
	return strings.TrimSuffix(place, ".sock") + ".log"
}

// launch starts the daemon as a session of its own, without anything of the caller's.
func launch(ctx context.Context, place string, log *os.File) error {
	self, err := os.Executable()
	if err == nil {
		_, err = os.Stat(self)
	}
	if err != nil {
		self = "/proc/self/exe" // the file has been replaced by another
	}
	cmd := exec.Command(self, "run", "--ipvsadm", "--socket", place)
	cmd.Args[0] = "tunlb"
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = append(os.Environ(), logVariable+"="+logOf(place))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := detach(); err != nil {
		return fmt.Errorf("start tunlb: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start tunlb: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the daemon, or with this process
		defer close(ended)
		_ = cmd.Wait() // its log says why
	}()
	client := control.NewClient(place)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		_, err := client.Status(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			// On an abstract socket another call's daemon may have been faster.
			if _, err := client.Status(ctx); err == nil {
				return nil
			}
			return fmt.Errorf("tunlb has ended at once:\n%s", tail(log))
		case <-ctx.Done():
			_ = cmd.Process.Kill() // fails if it has ended
			<-ended
			return fmt.Errorf("tunlb does not answer: %w; its log ends with:\n%s", err, tail(log))
		case <-time.After(pause):
		}
	}
}

// tail is the end of a log.
func tail(log *os.File) []byte {
	const most = 2 << 10
	b := make([]byte, most)
	info, err := log.Stat()
	if err != nil {
		return nil
	}
	n, _ := log.ReadAt(b, max(0, info.Size()-most))
	return bytes.TrimSpace(b[:n])
}
