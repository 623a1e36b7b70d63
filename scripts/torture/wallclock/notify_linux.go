package wallclock

import (
	"errors"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filter puts a filter before this thread and those that come of it: who asks for the wall clock waits until the descriptor's
// reader has answered. They get no new privileges from then on, so that this takes none.
func filter() (asked int, err error) {
	const (
		number, argument = 0, 16 // offsets in struct seccomp_data: the call, and the lower half of its first argument (little endian)
		load             = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal            = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		result           = unix.BPF_RET | unix.BPF_K
	)
	program := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_CLOCK_GETTIME, Jf: 3},
		{Code: load, K: argument},
		{Code: equal, K: unix.CLOCK_REALTIME, Jt: 2},
		{Code: equal, K: unix.CLOCK_REALTIME_COARSE, Jt: 1},
		{Code: result, K: unix.SECCOMP_RET_ALLOW},
		{Code: result, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// question is struct seccomp_notif, 80 bytes.
type question struct {
	id         uint64
	pid, flags uint32
	call       int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// reply is struct seccomp_notif_resp, 24 bytes.
type reply struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

// answer answers those who ask for the time.
func (p *page) answer(asked int) {
	for {
		var q question
		switch err := control(asked, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q)); {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // who asked has been interrupted
			continue
		case err != nil:
			panic(err) // the program waits for ever
		}
		p.asked.Add(1)
		r := reply{id: q.id}
		if err := p.tell(int(q.pid), uintptr(q.args[1])); err != nil {
			r.errno = -int32(unix.EFAULT)
		}
		_ = control(asked, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // fails if who asked is no longer there
	}
}

// tell writes the time as struct timespec to a thread's memory.
func (p *page) tell(thread int, to uintptr) error {
	now := unix.NsecToTimespec(time.Now().UnixNano() + p.ahead.Load())
	b := unsafe.Slice((*byte)(unsafe.Pointer(&now)), unsafe.Sizeof(now))
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	_, err := unix.ProcessVMWritev(thread, local, []unix.RemoteIovec{{Base: to, Len: len(b)}}, 0)
	return err
}

func control(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
