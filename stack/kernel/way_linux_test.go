package kernel

import (
	"net/netip"
	"testing"
)

// asked is a packet and where the kernel should send it.
type asked struct {
	what string
	query
	want string
}

// ways asks the kernel where it would send packets, and their twins of IPv6.
func (l *lab) ways(list []asked) {
	l.t.Helper()
	v6 := map[string]string{
		"198.51.100.2": "2001:db8:1::2", "198.51.100.1": "2001:db8:1::1", "203.0.113.22": "2001:db8:22::22",
		"192.168.0.10": "fd00::10", "192.168.0.77": "fd00::77", "192.168.0.100": "fd00::100",
	}
	for _, w := range list {
		twin := w.query
		twin.from, twin.to = v6[twin.from], v6[twin.to]
		if twin.proto == icmp {
			twin.proto = icmp6
		}
		for _, q := range []query{w.query, twin} {
			if got := l.way(q); got != w.want {
				l.t.Errorf("%s: %+v goes to %s, want %s", w.what, q, got, w.want)
			}
		}
	}
}

// TestWays: every kind of packet, with what is the box's own and without.
func TestWays(t *testing.T) {
	const dev = "tunlb0"
	common := []asked{
		{"client to the service", query{"198.51.100.2", "203.0.113.22", "outer", tcp, 40000, 80}, dev},
		{"client pings the VIP", query{"198.51.100.2", "203.0.113.22", "outer", icmp, 0, 0}, dev},
		{"server answers", query{"192.168.0.10", "198.51.100.2", "inner", tcp, 8080, 40000}, dev},
		{"server answers over UDP", query{"192.168.0.10", "198.51.100.2", "inner", udp, 53, 40000}, dev},
		{"ICMP error of the server", query{"192.168.0.10", "198.51.100.2", "inner", icmp, 0, 0}, dev},
		{"server pings its gateway", query{"192.168.0.10", "192.168.0.100", "inner", icmp, 0, 0}, "local"},
		{"server to the box", query{"192.168.0.10", "192.168.0.100", "inner", tcp, 40000, 22}, "local"},
		{"server answers the box", query{"192.168.0.10", "192.168.0.100", "inner", tcp, 8080, 40000}, "local"},
		{"server answers the box over UDP", query{"192.168.0.10", "192.168.0.100", "inner", udp, 53, 40000}, "local"},
		{"tunlb has sent to the server", query{"198.51.100.2", "192.168.0.10", dev, tcp, 40000, 8080}, "inner"},
		{"tunlb has answered the client", query{"203.0.113.22", "198.51.100.2", dev, tcp, 80, 40000}, "outer"},
		{"tunlb hands a server's packet back", query{"192.168.0.10", "198.51.100.2", dev, icmp, 0, 0}, "outer"},
		{"tunlb hands back to the box", query{"192.168.0.10", "192.168.0.100", dev, icmp, 0, 0}, "local"},
	}
	plain := []asked{
		{"client to another port", query{"198.51.100.2", "203.0.113.22", "outer", tcp, 40000, 22}, dev},
		{"server opens a connection", query{"192.168.0.10", "198.51.100.2", "inner", tcp, 40000, 443}, "outer"},
	}
	own := []asked{
		{"client to ssh on the VIP", query{"198.51.100.2", "203.0.113.22", "outer", tcp, 40000, 22}, "local"},
		{"any UDP to the VIP, for fragments", query{"198.51.100.2", "203.0.113.22", "outer", udp, 0, 0}, dev},
		{"ssh on the VIP answers", query{"203.0.113.22", "198.51.100.2", "", tcp, 22, 40000}, "outer"},
		{"tunlb hands a ping back to the box", query{"198.51.100.2", "203.0.113.22", dev, icmp, 0, 0}, "local"},
		{"server answers the box, which has asked with the VIP", query{"192.168.0.10", "203.0.113.22", "inner", tcp, 8080, 40000}, "local"},
		{"server asks a service from the port of its own", query{"192.168.0.10", "203.0.113.22", "inner", tcp, 8080, 80}, dev},
	}
	gateway := []asked{
		{"server opens a connection", query{"192.168.0.10", "198.51.100.2", "inner", tcp, 40000, 443}, dev},
		{"any machine inside does", query{"192.168.0.77", "198.51.100.2", "inner", udp, 40000, 443}, dev},
		{"inside to the box", query{"192.168.0.77", "192.168.0.100", "inner", tcp, 40000, 22}, "local"},
		{"inside to inside", query{"192.168.0.77", "192.168.0.10", "inner", tcp, 40000, 22}, "inner"},
		{"the box answers with its inner address", query{"192.168.0.100", "198.51.100.2", "", tcp, 22, 40000}, "outer"},
		{"tunlb has sent outside", query{"198.51.100.1", "198.51.100.2", dev, tcp, 40000, 443}, "outer"},
		{"tunlb hands back to the inside", query{"192.168.0.77", "198.51.100.2", dev, tcp, 40000, 443}, "outer"},
		{"answer of a server to the masquerade address", query{"192.168.0.10", "198.51.100.1", "inner", tcp, 8080, 40000}, dev},
		{"server answers the box, which has asked with the masquerade address", query{"192.168.0.10", "198.51.100.1", "inner", tcp, 8080, 30000}, "local"},
		{"answer to the masquerade address", query{"198.51.100.2", "198.51.100.1", "outer", tcp, 443, 40000}, dev},
		{"ssh on the masquerade address", query{"198.51.100.2", "198.51.100.1", "outer", tcp, 40000, 22}, "local"},
	}
	for _, c := range []struct {
		name          string
		own, gateways bool
		ways          [][]asked
	}{
		{"plain", false, false, [][]asked{common, plain}},
		{"VIP of the box", true, false, [][]asked{common, own}},
		{"gateway", false, true, [][]asked{common, gateway}},
		{"gateway and VIP of the box", true, true, [][]asked{common, own, gateway}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, s := newNetwork(t), full()
			if c.own {
				n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
			}
			if !c.gateways {
				s.Gateways = nil
			}
			apply(t, open(t, n.box), s)
			for _, ways := range c.ways {
				n.box.ways(ways)
			}
			if c.own {
				multicast := query{"fd00::10", "ff02::fb", "inner", udp, 53, 5353}
				if got := n.box.way(multicast); got == dev {
					t.Errorf("multicast of a server goes to %s", got)
				}
			}
		})
	}
}

// TestServerOnTheBox checks that the answers of a real server that is the box itself go to the device.
func TestServerOnTheBox(t *testing.T) {
	n, s := newNetwork(t), full()
	s.Gateways = nil
	n.box.addr("lo", "10.1.1.1/32")
	s.Servers = append(s.Servers, Server{netip.MustParseAddr("10.1.1.1"), tcp, 8080, 8080})
	apply(t, open(t, n.box), s)
	for _, w := range []struct {
		query
		want string
	}{
		{query{"10.1.1.1", "198.51.100.2", "", tcp, 8080, 40000}, "tunlb0"},
		{query{"10.1.1.1", "198.51.100.2", "", tcp, 22, 40000}, "outer"},
		{query{"198.51.100.2", "10.1.1.1", "tunlb0", tcp, 40000, 8080}, "local"},
	} {
		if got := n.box.way(w.query); got != w.want {
			t.Errorf("%+v goes to %s, want %s", w.query, got, w.want)
		}
	}
}
