package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// addr reads an IP address of one host.
func (d *decoder) addr(n *node, name string) netip.Addr {
	s, ok := d.str(n, name)
	if !ok {
		return netip.Addr{}
	}
	return d.addrText(n.at, name, s)
}

func (d *decoder) addrText(at pos, name, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		d.notAddress(at, name, s, "write it like 192.0.2.1 or 2001:db8::1")
		return netip.Addr{}
	}
	if !d.host(at, name, a) {
		return netip.Addr{}
	}
	return a
}

// notAddress says why s is none, as far as one can tell.
func (d *decoder) notAddress(at pos, name, s, instead string) {
	why := "it cannot be parsed"
	host := s[:max(0, strings.LastIndex(s, ":"))]
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		why = "its port is no number from 1 to 65535"
	} else if strings.Contains(s, "/") {
		why = "there is a / in it"
	} else if strings.ContainsFunc(s, func(r rune) bool { return r >= 'g' && r <= 'z' || r >= 'G' && r <= 'Z' }) {
		why = "names are not resolved"
	}
	d.fail(at, fmt.Sprintf("%s %s is no address", name, wording.Quote(s)), why, instead)
}

// host reports whether packets can be sent to a as to one host behind a router.
func (d *decoder) host(at pos, name string, a netip.Addr) bool {
	what := fmt.Sprintf("%s %q is ", name, a)
	another := "write the address of one host"
	switch {
	case a.Zone() != "":
		d.fail(at, what+"an address with a zone", "zones are not routed", another)
	case a.Is4In6():
		d.fail(at, what+"an IPv4-mapped IPv6 address", "packets on the wire have the IPv4 address", fmt.Sprintf("write %s", a.Unmap()))
	case a.IsUnspecified():
		d.fail(at, what+"unspecified", "it is no host's address", another)
	case a.IsLoopback():
		d.fail(at, what+"a loopback address", "it never leaves its host", another)
	case a.IsMulticast():
		d.fail(at, what+"a multicast address", "it is not one host's", another)
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		d.fail(at, what+"the broadcast address", "it is not one host's", another)
	case a.Is6() && a.IsLinkLocalUnicast():
		d.fail(at, what+"a link-local address", "it is not routed", another)
	default:
		return true
	}
	return false
}

// addrPort reads IP:port, or an IP alone with port 0. If a port is needed, that is why.
func (d *decoder) addrPort(at pos, name, s, needed string) (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		if err != nil {
			d.notAddress(at, name, s, "write it like 192.0.2.1:80 or [2001:db8::1]:80")
			return netip.AddrPort{}, false
		}
		if needed != "" {
			d.fail(at, fmt.Sprintf("%s %s has no port", name, wording.Quote(s)), needed, "write "+netip.AddrPortFrom(a, 80).String()+" if port 80 is meant")
			return netip.AddrPort{}, false
		}
		ap = netip.AddrPortFrom(a, 0)
	}
	return ap, d.host(at, name, ap.Addr())
}

var errNoLength = errors.New("no prefix length")

// rawPrefix reads address/length; the address may have host bits.
func (d *decoder) rawPrefix(at pos, name, s string) (netip.Prefix, bool) {
	p, err := parsePrefix(s)
	switch {
	case errors.Is(err, errNoLength):
		d.fail(at, fmt.Sprintf("%s %s has no prefix length", name, wording.Quote(s)), "the prefix says what is on the link", fmt.Sprintf("write it like %s/%d", s, p.Bits()))
	case err != nil:
		d.fail(at, fmt.Sprintf("%s %s is no prefix", name, wording.Quote(s)), "a prefix is an address with a length", "write it like 192.0.2.0/24 or 2001:db8::/64")
	case p.Addr().Is4In6():
		d.fail(at, fmt.Sprintf("%s %q is an IPv4-mapped IPv6 prefix", name, s), "packets on the wire have IPv4 addresses", fmt.Sprintf("write %s/%d", p.Addr().Unmap(), max(0, p.Bits()-96)))
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// parsePrefix gives errNoLength and a likely prefix for a bare address.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		switch {
		case a.Is4():
			return netip.PrefixFrom(a, 24), errNoLength
		case a.Is4In6():
			return netip.PrefixFrom(a, 96+24), nil // the length is not what is wrong with it
		}
		return netip.PrefixFrom(a, 64), errNoLength
	}
	return netip.ParsePrefix(s)
}

// prefix reads a network: no host bits.
func (d *decoder) prefix(n *node, name string) (netip.Prefix, bool) {
	s, ok := d.str(n, name)
	if !ok {
		return netip.Prefix{}, false
	}
	return d.prefixText(n.at, name, s)
}

func (d *decoder) prefixText(at pos, name, s string) (netip.Prefix, bool) {
	p, ok := d.rawPrefix(at, name, s)
	if !ok {
		return p, false
	}
	if p != p.Masked() {
		d.fail(at, fmt.Sprintf("%s %q has host bits", name, p), "a network ends in zeros", fmt.Sprintf("write %s", p.Masked()))
		return p, false
	}
	return p, true
}

// hostPrefix reads a host's address with the length of its link's prefix.
func (d *decoder) hostPrefix(n *node, name string) (netip.Prefix, bool) {
	s, ok := d.str(n, name)
	if !ok {
		return netip.Prefix{}, false
	}
	p, ok := d.rawPrefix(n.at, name, s)
	if !ok || !d.host(n.at, name, p.Addr()) {
		return p, false
	}
	if reserved(p.Addr(), p) {
		d.fail(n.at, fmt.Sprintf("%s %q is no host's address", name, p), "the first and the last address of a network are reserved",
			"write one between them")
		return p, false
	}
	return p, true
}

// reserved reports whether a is the network's own address or, in IPv4, its broadcast. Links of two hosts have neither (RFC 3021, RFC 6164).
func reserved(a netip.Addr, p netip.Prefix) bool {
	if p.Bits() >= a.BitLen()-1 {
		return false
	}
	return a == p.Masked().Addr() || a.Is4() && !p.Contains(a.Next())
}

// peer gives the other host of a link that has room for two.
func peer(p netip.Prefix) (netip.Addr, bool) {
	rest := p.Addr().BitLen() - p.Bits()
	first := p.Masked().Addr()
	if rest == 2 {
		first = first.Next()
	}
	second := first.Next()
	switch {
	case rest != 1 && rest != 2:
	case p.Addr() == first:
		return second, true
	case p.Addr() == second:
		return first, true
	}
	return netip.Addr{}, false
}

// family names the IP version.
func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
