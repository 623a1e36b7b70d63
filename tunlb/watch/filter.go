package watch

import "net/netip"

// Filter chooses records. The zero value takes all. A plain value; filter_language.go has its language.
type Filter struct {
	Client   Endpoint
	VIP      Endpoint
	Server   string // name, address, or address:port
	Service  string // name
	Protocol string // tcp, udp, icmp, arp, or another IP protocol's number
	Port     string // name of a port that it came in by or left by
	Drops    bool   // those that were dropped only
	Reason   string // those that were dropped for this reason only
}

// Endpoint is a network, and a port of its addresses; the zero value is any.
type Endpoint struct {
	Network netip.Prefix // zero: any address
	Port    uint16       // 0: any
}

func (e Endpoint) has(a netip.AddrPort) bool {
	return (!e.Network.IsValid() || e.Network.Contains(a.Addr())) && (e.Port == 0 || e.Port == a.Port())
}

// Match says whether the filter takes a record. It allocates nothing.
func (f *Filter) Match(r *Record) bool {
	switch {
	case f.Drops && r.Drop == "", f.Reason != "" && f.Reason != r.Drop:
	case f.Protocol != "" && f.Protocol != r.Protocol:
	case !f.Client.has(r.Client), !f.VIP.has(r.VIP):
	case f.Service != "" && f.Service != r.Service:
	case f.Server != "" && f.Server != r.ServerName && !isServer(f.Server, r.Server):
	case f.Port != "" && !r.touches(f.Port):
	default:
		return true
	}
	return false
}

// isServer says whether a server's place is what the text has: its address, or address:port.
func isServer(text string, at netip.AddrPort) bool {
	if !at.IsValid() {
		return false
	}
	var b [64]byte
	return string(at.AppendTo(b[:0])) == text || string(at.Addr().AppendTo(b[:0])) == text
}

// touches says whether the packet came in or left by a port.
func (r *Record) touches(port string) bool {
	if r.In != nil && r.In.Port == port {
		return true
	}
	for i := range r.Out {
		if r.Out[i].Port == port {
			return true
		}
	}
	return false
}
