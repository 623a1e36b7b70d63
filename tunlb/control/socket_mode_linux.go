package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// listenUnix makes a socket that nobody can open before it has its mode: bind(2) takes over that of the descriptor, less the umask,
// so others get theirs afterwards. The umask itself is the whole process's, and other goroutines make files.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	const owner = 0o600
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var failed error
		err := conn.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), uint32(mode.Perm()&owner)) })
		return errors.Join(err, failed)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil || path[0] == '@' {
		return l, err
	}
	if err := os.Chmod(path, mode.Perm()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
