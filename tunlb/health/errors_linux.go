package health

import (
	"strings"
	"syscall"
)

// hearErrors has the kernel report all ICMP errors to sockets that are not TCP's. By itself it tells them of
// closed ports but not of hosts that nobody answers for.
func hearErrors(network, _ string, c syscall.RawConn) error {
	level, option := syscall.IPPROTO_IP, syscall.IP_RECVERR
	switch {
	case strings.HasPrefix(network, "tcp"):
		return nil
	case strings.HasPrefix(network, "udp6") || strings.HasPrefix(network, "ip6"):
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR
	}
	var err error
	if failed := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), level, option, 1) }); failed != nil {
		return failed
	}
	return err
}
