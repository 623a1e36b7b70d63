package ipvs

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// number reads a decimal number as C does: space and a sign may precede it, nothing may follow.
func number(s string, least, most int64) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimLeft(s, " \t\n\v\f\r"), 10, 64)
	return n, err == nil && least <= n && n <= most
}

// place reads host, host:port, IPv6 address or [IPv6 address]:port. Without a port it is 0 and not given.
func (n Names) parsePlace(s string, proto uint8) (addr netip.Addr, port uint16, given, ok bool) {
	if addr, ok := parse6(s); ok {
		return addr, 0, false, true
	}
	host, service, given := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		end := strings.Index(s, "]")
		if end < 0 || !strings.HasPrefix(s[end+1:], ":") {
			return addr, 0, false, false
		}
		if addr, ok = parse6(s[1:end]); !ok {
			return addr, 0, false, false
		}
		service, given = s[end+2:], true
	} else if addr, ok = n.parseHost(host, given); !ok {
		return addr, 0, false, false
	}
	if given {
		if port, ok = n.parsePort(service, proto); !ok {
			return addr, 0, false, false
		}
	}
	return addr, port, given, true
}

// parse6 reads an IPv6 address. One that stands for an IPv4 address is none: services of the two families are
// different things, and it could be meant for either.
func parse6(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr, err == nil && addr.Is6() && !addr.Is4In6() && addr.Zone() == ""
}

// parseHost reads an IPv4 address or asks for a name. A bare number without a port is neither.
func (n Names) parseHost(host string, port bool) (netip.Addr, bool) {
	if _, bare := number(host, 0, 1<<32-1); bare && !port {
		return netip.Addr{}, false
	}
	if addr, ok := parse4(host); ok {
		return addr, true
	}
	if n.Addr == nil || host == "" {
		return netip.Addr{}, false
	}
	addr, ok := n.Addr(host)
	return addr, ok && addr.Is4()
}

// parse4 reads an IPv4 address as C's library does, which takes less than four parts (10.1 is 10.0.0.1), and
// octal and hexadecimal ones.
func parse4(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var addr uint64
	for i, part := range parts {
		if part == "" || strings.ContainsAny(part, "_oObB+-") && !strings.HasPrefix(strings.ToLower(part), "0x") {
			return netip.Addr{}, false
		}
		room := 8 // bits
		if i == len(parts)-1 {
			room = 32 - 8*i
		}
		v, err := strconv.ParseUint(part, 0, 64)
		if err != nil || strings.Contains(part, "_") || v>>room != 0 {
			return netip.Addr{}, false
		}
		addr = addr<<room | v
	}
	return from4(uint32(addr)), true
}

func from4(addr uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], addr)
	return netip.AddrFrom4(b)
}

func (n Names) parsePort(s string, proto uint8) (uint16, bool) {
	if port, ok := number(s, 0, 1<<16-1); ok {
		return uint16(port), true
	}
	if n.Port == nil {
		return 0, false
	}
	return n.Port(s, proto)
}

// maskText is a netmask as ipvsadm prints it.
func maskText(hostBits int, is4 bool) string {
	if !is4 {
		return strconv.Itoa(128 - hostBits)
	}
	return from4(uint32(^uint64(0) << hostBits)).String()
}
