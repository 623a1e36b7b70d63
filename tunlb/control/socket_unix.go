//go:build unix

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"
)

// namespaceID is the inode of the process's network namespace, which names it on this machine; "0"
// where there are no namespaces.
func namespaceID() string {
	info, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return "0"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(uint64(st.Ino), 10)
	}
	return "0"
}

// listenUnix sets the umask for the moment in which the socket is made: a chmod afterwards would
// leave it open to others for an instant.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	old := syscall.Umask(int(^mode.Perm() & 0o777))
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}

// trusted wants a folder of sockets to be root's or our own, and nobody else's to write: whoever can
// write there can be taken for the daemon.
func trusted(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || st.Uid != 0 && int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: %w: the folder is somebody else's, or others may write to it", dir, fs.ErrPermission)
	}
	return nil
}

// listening is nil if a descriptor is a socket that listens.
func listening(fd int) error {
	switch on, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); {
	case err != nil:
		return err
	case on == 0:
		return errors.New("it does not listen")
	}
	return nil
}
