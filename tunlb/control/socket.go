package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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

// RemoveStale removes what a killed daemon has left at path, or at the default places, and says what that was.
func RemoveStale(path string) (removed []string, err error) {
	places := []string{path}
	if path == "" {
		places = DefaultSockets()
	}
	for _, place := range places {
		if info, err := os.Lstat(place); err != nil || info.Mode()&fs.ModeSocket == 0 {
			continue
		}
		if conn, err := net.DialTimeout("unix", place, time.Second); err == nil {
			conn.Close()
			continue
		}
		if err := os.Remove(place); err != nil {
			return removed, fmt.Errorf("control socket: %w", err)
		}
		removed = append(removed, place)
	}
	return removed, nil
}

// Listen makes the socket at path, or for "" at the first default place that can be had, with the
// given permissions from its first instant. What a daemon that is gone left there is replaced; a
// living daemon is an error.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	if path != "" {
		return listenAt(path, mode)
	}
	var errs []error
	for _, place := range DefaultSockets() {
		err := os.MkdirAll(filepath.Dir(place), 0o755)
		if err == nil {
			err = trusted(filepath.Dir(place))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l, err := listenAt(place, mode)
		if err == nil || !errors.Is(err, fs.ErrPermission) {
			return l, err
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no place for the control socket: %w; name one: control: {socket: PATH}", errors.Join(errs...))
}

func listenAt(path string, mode fs.FileMode) (net.Listener, error) {
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return nil, fmt.Errorf("control socket %s: another tunlb answers there; stop it, or give this one another socket", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Nobody answers: what is left is a socket of a daemon that was killed. Anything else stays.
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("control socket %s: something that is no socket is in its place; remove it or name another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	l, err := listenUnix(path, mode)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}
