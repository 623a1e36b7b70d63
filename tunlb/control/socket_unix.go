//go:build unix

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// connectionRefused is what the kernel says of a socket that nobody listens on, and of nothing else.
const connectionRefused = syscall.ECONNREFUSED

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

// trusted wants a folder of sockets in which nobody can be taken for the daemon: root's or our own and nobody else's to write, or one that root has
// given to the daemon's user. That shows in the folder above, in which only root can have put it: as a folder, or as a link to one, which is what
// RuntimeDirectory= of a systemd unit with DynamicUser= makes.
func trusted(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if above, err := os.Stat(filepath.Dir(dir)); err == nil && onlyWrittenBy(above, 0) {
		if info, err = os.Stat(dir); err != nil {
			return err
		}
		if info.IsDir() && info.Mode().Perm()&0o022 == 0 {
			return nil
		}
	}
	if !info.IsDir() || !onlyWrittenBy(info, 0) && !onlyWrittenBy(info, os.Getuid()) {
		return fmt.Errorf("%s: %w: the folder is somebody else's, or others may write to it", dir, fs.ErrPermission)
	}
	return nil
}

// onlyWrittenBy says whether nobody but the user, and root, can write there.
func onlyWrittenBy(info fs.FileInfo, uid int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid && info.Mode().Perm()&0o022 == 0
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
