package fdstore

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A keeper's socket is in a folder that only its user may enter, and root. By a name without a file (unix(7), abstract) anybody could send to it, and what is
// passed has to be closed before it is known who passed it: one close(2) of a socket that lingers takes as long as the stranger likes.

const (
	folderPattern = "tunlb-supervisor-*"
	socketName    = "notify"
)

// listen makes the folder and the socket in the first of the usual places that will do.
func listen() (*net.UnixConn, error) {
	var errs []error
	for _, place := range []string{"/run", os.Getenv("XDG_RUNTIME_DIR"), os.TempDir()} {
		if !filepath.IsAbs(place) {
			continue
		}
		conn, err := listenIn(place)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no place for it, set TMPDIR: %w", errors.Join(errs...))
}

func listenIn(place string) (*net.UnixConn, error) {
	if err := safe(place); err != nil {
		return nil, err
	}
	sweep(place)
	folder, err := os.MkdirTemp(place, folderPattern) // of mode 0700
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, socketName), Net: "unixgram"})
	if err != nil {
		return nil, errors.Join(err, os.Remove(folder))
	}
	return conn, nil
}

// safe is nil if nobody but this user, and root, can put another folder in the place of one that is made there.
func safe(place string) error {
	info, err := os.Stat(place)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	ours := ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) && info.Mode().Perm()&0o022 == 0
	if !info.IsDir() || !ours && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("%s: others could change what is in it", place)
	}
	return nil
}

// remove removes the socket, which net leaves, and its folder.
func remove(path string) error { return errors.Join(os.Remove(path), os.Remove(filepath.Dir(path))) }

// sweep removes what keepers of this user's have left that were killed.
func sweep(place string) {
	folders, _ := filepath.Glob(filepath.Join(place, folderPattern)) // the pattern is a good one
	for _, folder := range folders {
		info, err := os.Lstat(folder)
		if err != nil {
			continue
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
			continue
		}
		path := filepath.Join(folder, socketName)
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
		switch {
		case err == nil:
			conn.Close()
		case errors.Is(err, unix.ECONNREFUSED): // it is there, and nobody's any more
			_ = remove(path)
		}
	}
}
