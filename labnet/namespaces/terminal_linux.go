package namespaces

import (
	"errors"
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// openTerminal makes a pseudo-terminal. Reads of the screen can be given a deadline.
func openTerminal() (screen, tty *os.File, err error) {
	blocking, tty, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, nil, errors.Join(err, tty.Close())
	}
	return os.NewFile(uintptr(fd), blocking.Name()), tty, nil
}

// setSize fails if the terminal is closed, when it is of no interest.
func setSize(screen *os.File, s scenario.Size) {
	raw, err := screen.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Columns})
	})
}
