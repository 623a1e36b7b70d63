package health

import (
	"net"
	"net/netip"
	"os"
	"syscall"
)

// openDatagramPing opens an ICMP socket that takes no privilege. Scoped addresses are left to raw sockets.
func openDatagramPing(addr netip.Addr) (net.Conn, error) {
	family, proto := syscall.AF_INET, syscall.IPPROTO_ICMP
	level, option := syscall.IPPROTO_IP, syscall.IP_RECVERR
	var to syscall.Sockaddr
	switch {
	case addr.Is4():
		to = &syscall.SockaddrInet4{Addr: addr.As4()}
	case addr.Zone() != "":
		return nil, syscall.EAFNOSUPPORT
	default:
		family, proto = syscall.AF_INET6, syscall.IPPROTO_ICMPV6
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR
		to = &syscall.SockaddrInet6{Addr: addr.As16()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()                                                     // FileConn takes a copy
	if err := syscall.SetsockoptInt(fd, level, option, 1); err != nil { // as hearErrors
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Connect(fd, to); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}
