package control

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// checksPeers says whether this system tells who is at the other end.
const checksPeers = true

// peerOf asks the kernel who has opened a Unix connection (SO_PEERCRED: as it was at that moment).
func peerOf(conn net.Conn) (peer, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, errors.New("no Unix socket")
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *syscall.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, asked); err != nil {
		return peer{}, err
	}
	return peer{uid: cred.Uid, gid: cred.Gid, pid: cred.Pid}, nil
}

// commandOf is what a process calls itself, or "" if there is none any more, or /proc does not tell.
func commandOf(pid int32) string {
	if pid <= 0 {
		return ""
	}
	name, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}
