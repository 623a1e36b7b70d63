package fdstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// claim has an inherited descriptor closed on exec, and tells whether it is there at all.
func claim(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return err == nil
}

func duplicate(fd int) (int, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstInherited)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return own, nil
}

func closeFD(fd int) { unix.Close(fd) }

// same asks the kernel, since 6.10 by fcntl(2), before by kcmp(2), which not every kernel has.
func same(a, b int) sameness {
	if r, err := unix.FcntlInt(uintptr(a), unix.F_DUPFD_QUERY, b); err == nil {
		return verdict(r == 1)
	}
	const kcmpFile = 0
	pid := uintptr(os.Getpid())
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	if errno != 0 {
		return unknown
	}
	return verdict(r == 0)
}

func verdict(equal bool) sameness {
	if equal {
		return isSame
	}
	return isOther
}
