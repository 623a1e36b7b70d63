package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// IP protocol numbers of the transports that a virtual service can have.
const (
	TCP  uint8 = 6
	UDP  uint8 = 17
	SCTP uint8 = 132 // held, not served
)

// Listen is where clients find a service: a VIP, a protocol, and a port, a range of ports or, with both 0,
// every port of the VIP that no other service has. A plain, comparable value.
type Listen struct {
	Addr        netip.Addr // unmapped
	Proto       uint8
	First, Last uint16
}

// On is a single place.
func On(at netip.AddrPort, proto uint8) []Listen {
	return []Listen{{at.Addr(), proto, at.Port(), at.Port()}}
}

// All says whether it is every port.
func (l Listen) All() bool { return l.First == 0 }

// Ports is how many ports it is; 65536 for all.
func (l Listen) Ports() int {
	if l.All() {
		return 1 << 16
	}
	return int(l.Last) - int(l.First) + 1
}

// Has says whether the port is one of it.
func (l Listen) Has(port uint16) bool { return l.All() || l.First <= port && port <= l.Last }

// Overlaps says whether two places have a port in common. Every port is what others leave over.
func (l Listen) Overlaps(m Listen) bool {
	if l.Addr != m.Addr || l.Proto != m.Proto || l.All() != m.All() {
		return false
	}
	return l.First <= m.Last && m.First <= l.Last
}

// AddrPort is the VIP with the first port.
func (l Listen) AddrPort() netip.AddrPort { return netip.AddrPortFrom(l.Addr, l.First) }

// String is VIP:port/protocol or VIP:first-last/protocol, as in the configuration.
func (l Listen) String() string {
	s := l.AddrPort().String()
	if l.Last != l.First {
		s += "-" + strconv.Itoa(int(l.Last))
	}
	return s + "/" + ProtoName(l.Proto)
}

// MarshalText is String.
func (l Listen) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseListen.
func (l *Listen) UnmarshalText(text []byte) (err error) {
	*l, err = ParseListen(string(text))
	return err
}

// ParseListen is the inverse of String. Without a protocol it is TCP.
func ParseListen(s string) (l Listen, err error) {
	place, proto, found := strings.Cut(s, "/")
	if !found {
		proto = "tcp"
	}
	ok := false
	if l.Proto, ok = ParseProto(proto); !ok {
		return l, fmt.Errorf("%q: protocol %q: want tcp or udp", s, proto)
	}
	place, last, isRange := strings.Cut(place, "-") // an address has no dash
	at, err := netip.ParseAddrPort(place)
	if err != nil {
		return l, fmt.Errorf("%q: want VIP:port/protocol: %w", s, err)
	}
	l.Addr, l.First, l.Last = at.Addr().Unmap(), at.Port(), at.Port()
	if isRange {
		n, err := strconv.ParseUint(last, 10, 16)
		if err != nil || uint16(n) < l.First || l.First == 0 {
			return l, fmt.Errorf("%q: want a range of ports like 8000-8100", s)
		}
		l.Last = uint16(n)
	}
	return l, nil
}

// ProtoName is a protocol's name as in the configuration.
func ProtoName(proto uint8) string {
	switch proto {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(proto))
}

// ParseProto is the inverse of ProtoName.
func ParseProto(name string) (uint8, bool) {
	for _, proto := range []uint8{TCP, UDP, SCTP} {
		if ProtoName(proto) == name {
			return proto, true
		}
	}
	return 0, false
}
