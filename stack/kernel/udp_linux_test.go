package kernel

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// udpEcho answers datagrams until the test ends.
func (l *lab) udpEcho(addr string) {
	l.t.Helper()
	var c net.PacketConn
	l.must(l.inside(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }))
	l.t.Cleanup(func() { c.Close() })
	go func() { // ends with the socket
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
}

// udpAsk sends a datagram from a connected socket and waits for the answer.
func (l *lab) udpAsk(from, to string) error {
	l.t.Helper()
	var c net.Conn
	l.must(l.inside(func() (err error) {
		c, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from), Port: 3000}}).Dial("udp", to) // a port that is not the gateway's
		return err
	}))
	defer c.Close()
	l.must(c.SetDeadline(time.Now().Add(2 * time.Second)))
	if _, err := c.Write([]byte("hi")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 100))
	return err
}

// TestBoxDatagrams: the box's own connected UDP sockets (DNS, say) get their answers, also at an address that
// is a VIP with a UDP service or the gateway's.
func TestBoxDatagrams(t *testing.T) {
	for name, gateways := range map[string]bool{"VIPs": false, "VIPs and gateways": true} {
		t.Run(name, func(t *testing.T) {
			n, s := newNetwork(t), full()
			n.box.addr("outer", "203.0.113.22/32", "2001:db8:22::22/128")
			for i := range s.VIPs {
				s.VIPs[i].Ports = append(s.VIPs[i].Ports, PortProto{udp, 53, 53}, PortProto{udp, 123, 123})
			}
			if !gateways {
				s.Gateways = nil
			}
			n.client.udpEcho("198.51.100.2:5353")
			n.client.udpEcho("[2001:db8:1::2]:5353")
			n.server.udpEcho("192.168.0.10:5353")
			n.server.udpEcho("[fd00::10]:5353")
			apply(t, open(t, n.box), s)
			direct(n, func(string) bool { return true })
			for _, c := range [][2]string{
				{"203.0.113.22", "198.51.100.2:5353"}, {"2001:db8:22::22", "[2001:db8:1::2]:5353"}, // from the VIPs
				{"203.0.113.22", "192.168.0.10:5353"}, {"2001:db8:22::22", "[fd00::10]:5353"},
				{"198.51.100.1", "198.51.100.2:5353"}, {"2001:db8:1::1", "[2001:db8:1::2]:5353"}, // the gateways' addresses
				{"192.168.0.100", "192.168.0.10:5353"}, {"fd00::100", "[fd00::10]:5353"},
			} {
				if err := n.box.udpAsk(c[0], c[1]); err != nil {
					t.Errorf("%s asks %s: %v", c[0], c[1], err)
				}
			}
		})
	}
}

// TestOthers: what is left to the box are the ports between those that count.
func TestOthers(t *testing.T) {
	own := netip.MustParseAddr("203.0.113.22")
	for _, c := range []struct {
		proto      uint8
		used, want []ports
	}{
		{udp, []ports{{53, 53}}, []ports{{1, 52}, {54, 65534}}},
		{udp, []ports{{53, 53}, {1, 1}}, []ports{{2, 52}, {54, 65534}}},
		{udp, []ports{{61000, 65534}}, []ports{{1, 60999}}},
		{udp, []ports{{61000, 65534}, {62000, 62000}, {53, 53}, {54, 54}}, []ports{{1, 52}, {55, 60999}}},
		{udp, []ports{{65535, 65535}}, []ports{{1, 65534}}},
		{udp, []ports{{5000, 6000}, {4000, 65535}}, []ports{{1, 3999}}},
		{udp, []ports{{53, 53}, {}}, nil},
		{tcp, []ports{{80, 80}, {8000, 8100}}, nil}, // not led there as a whole
		{tcp, []ports{{80, 80}, {60000, 65535}}, []ports{{1, 79}, {81, 59999}}},
		{tcp, []ports{{65535, 65535}}, []ports{{1, 65534}}},
		{tcp, []ports{{80, 80}, {}}, nil},
	} {
		p := planner{planned: map[object]bool{}}
		for _, used := range c.used {
			p.take(prefVIP, own, c.proto, used)
		}
		p.others()
		var got []ports
		for _, o := range p.rules {
			if r := o.(rule); r.pref == prefOthers {
				got = append(got, r.dport)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s %v: %v, want %v", ipNames[c.proto], c.used, got, c.want)
		}
	}
}
