package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
)

// Adopt is Listen with the listening socket of a predecessor, which clients wait at that have come meanwhile. mode and allow are
// as with Listen. It fails if the socket is another one than Listen would make, or its path is gone. The descriptor is the listener's
// from now on, and closed on an error.
func Adopt(fd int, path string, mode fs.FileMode, allow Allow) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "control")
	if f == nil {
		return nil, fmt.Errorf("control socket: inherited descriptor %d: %w", fd, fs.ErrInvalid)
	}
	defer f.Close() // the listener has a duplicate
	if !allow.none() {
		if !checksPeers {
			return nil, errNoPeers
		}
		mode |= 0o666
	}
	l, err := adopt(fd, f, path, mode)
	if err != nil {
		return nil, fmt.Errorf("control socket: inherited descriptor %d: %w", fd, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(true)
	return &listener{Listener: l, allow: allow}, nil
}

func adopt(fd int, f *os.File, path string, mode fs.FileMode) (net.Listener, error) {
	if err := listening(fd); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if err := fit(l, path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// fit wants an inherited socket to be at the path that Listen would take, and gives it the permissions.
func fit(l net.Listener, path string, mode fs.FileMode) error {
	at, ok := l.Addr().(*net.UnixAddr)
	if !ok {
		return fmt.Errorf("it is a socket of %s", l.Addr().Network())
	}
	for place, err := range Places(path) {
		if err != nil || place != at.Name {
			continue
		}
		if abstract(place) {
			return nil
		}
		info, err := os.Lstat(place)
		switch {
		case err != nil:
			return err
		case info.Mode()&fs.ModeSocket == 0:
			return fmt.Errorf("%s: %w", place, errNoSocket)
		case info.Mode().Perm() != mode.Perm():
			return os.Chmod(place, mode.Perm())
		}
		return nil
	}
	return fmt.Errorf("it is at %s", at.Name)
}

func abstract(path string) bool { return len(path) > 0 && path[0] == '@' }

// Keep has the path of a listener of this package stay when it is closed, for a successor that inherits the socket. Remove removes it.
func Keep(l net.Listener) {
	if u := unixListener(l); u != nil {
		u.SetUnlinkOnClose(false)
	}
}

// Remove removes the path of a listener. That it is gone is no error.
func Remove(l net.Listener) error {
	u := unixListener(l)
	if u == nil {
		return nil
	}
	path := u.Addr().String()
	if path == "" || abstract(path) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// WithDescriptor has do done with the descriptor of a listener's socket, which is borrowed. A file of it (File) would make the
// socket block, and with it whoever wants to close it.
func WithDescriptor(l net.Listener, do func(fd int) error) error {
	u := unixListener(l)
	if u == nil {
		return errors.New("control socket: it has no descriptor")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	var done error
	return errors.Join(raw.Control(func(fd uintptr) { done = do(int(fd)) }), done)
}

func unixListener(l net.Listener) *net.UnixListener {
	if wrapped, ok := l.(*listener); ok {
		l = wrapped.Listener
	}
	u, _ := l.(*net.UnixListener)
	return u
}
