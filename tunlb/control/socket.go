package control

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// DefaultSockets are the places of the socket of this network namespace's daemon, best first: the
// system's, the user's, the temporary one. The namespace is part of the name, so that every namespace
// can have a daemon and its commands find it without being told.
func DefaultSockets() []string {
	name := "net-" + namespaceID() + ".sock"
	places := []string{filepath.Join("/run/tunlb", name)}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		places = append(places, filepath.Join(dir, "tunlb", name))
	}
	return append(places, filepath.Join(os.TempDir(), "tunlb-"+strconv.Itoa(os.Getuid()), name))
}

// findSocket is the first default place that has a socket, or the best one if none has.
func findSocket() string {
	places := DefaultSockets()
	for _, place := range places {
		if _, err := os.Stat(place); err == nil && trusted(filepath.Dir(place)) == nil {
			return place
		}
	}
	return places[0]
}

// Why a path is not free for a socket, and not ours to free.
var (
	errLiving   = errors.New("another tunlb answers there; stop it, or give this one another socket")
	errNoSocket = errors.New("something that is no socket is in its place; remove it or name another path")
)

// Found are the places in which a daemon may have left something: path alone, or for "" the default ones whose
// folder is there and is nobody else's.
func Found(path string) []string {
	if path != "" {
		return []string{path}
	}
	return slices.DeleteFunc(DefaultSockets(), func(place string) bool { return trusted(filepath.Dir(place)) != nil })
}

// RemoveStale removes what a killed daemon has left at path, or at the default places, and says what that was.
func RemoveStale(path string) (removed []string, err error) {
	for _, place := range Found(path) {
		switch stale, err := removeStale(place); {
		case stale:
			removed = append(removed, place)
		case err != nil && !errors.Is(err, errLiving) && !errors.Is(err, errNoSocket):
			return removed, err
		}
	}
	return removed, nil
}

// removeStale frees path of the socket of a daemon that was killed, which is one that nobody answers on.
// Anything else stays and is an error.
func removeStale(path string) (removed bool, err error) {
	conn, dialed := net.DialTimeout("unix", path, time.Second)
	switch {
	case dialed == nil:
		conn.Close()
		return false, fmt.Errorf("control socket %s: %w", path, errLiving)
	case errors.Is(dialed, fs.ErrPermission):
		return false, fmt.Errorf("control socket: %w", dialed)
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return false, nil // nothing there, or nothing that Listen will not report
	case info.Mode()&fs.ModeSocket == 0:
		return false, fmt.Errorf("control socket %s: %w", path, errNoSocket)
	case !errors.Is(dialed, connectionRefused): // somebody is there, whose queue is full for example
		return false, fmt.Errorf("control socket %s: %w (%w)", path, errLiving, dialed)
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("control socket: %w", err)
	}
	return true, nil
}

// Listen makes the socket at path, or for "" at the first default place that can be had, with the
// given permissions from its first instant. What a daemon that is gone left there is replaced; a
// living daemon is an error. Serve refuses all but root, the daemon's own user and those that allow adds;
// for these the socket is open to everybody whatever the mode says, since the check is by name.
func Listen(path string, mode fs.FileMode, allow Allow) (net.Listener, error) {
	if !allow.none() {
		if !checksPeers {
			return nil, errNoPeers
		}
		mode |= 0o666
	}
	l, err := listen(path, mode)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, allow: allow}, nil
}

func listen(path string, mode fs.FileMode) (net.Listener, error) {
	var errs []error
	for place, err := range Places(path) {
		if err == nil {
			var l net.Listener
			if l, err = listenAt(place, mode); err == nil || path != "" || !errors.Is(err, fs.ErrPermission) {
				return l, err
			}
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no place for the control socket: %w; name one: control: {socket: PATH}", errors.Join(errs...))
}

// Places are where Listen tries to make the socket, best first: path alone, or for "" the default ones, each
// with its folder made, or with the error that it cannot be had.
func Places(path string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if path != "" {
			yield(path, nil)
			return
		}
		for _, place := range DefaultSockets() {
			err := os.MkdirAll(filepath.Dir(place), 0o755)
			if err == nil {
				err = trusted(filepath.Dir(place))
			}
			if !yield(place, err) {
				return
			}
		}
	}
}

func listenAt(path string, mode fs.FileMode) (net.Listener, error) {
	if _, err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := listenUnix(path, mode)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}
