package kernel

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
				s.VIPs[i].Ports = append(s.VIPs[i].Ports, PortProto{unix.IPPROTO_UDP, 53}, PortProto{unix.IPPROTO_UDP, 123})
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

// TestOtherUDP: what is left to the box are the ports between those that count.
func TestOtherUDP(t *testing.T) {
	own := netip.MustParseAddr("203.0.113.22")
	for _, c := range []struct{ used, want []ports }{
		{[]ports{{53, 53}}, []ports{{1, 52}, {54, 65534}}},
		{[]ports{{53, 53}, {1, 1}}, []ports{{2, 52}, {54, 65534}}},
		{[]ports{{61000, 65534}}, []ports{{1, 60999}}},
		{[]ports{{61000, 65534}, {62000, 62000}, {53, 53}, {54, 54}}, []ports{{1, 52}, {55, 60999}}},
		{[]ports{{65535, 65535}}, []ports{{1, 65534}}},
	} {
		p := planner{whole: []datagrams{{own, c.used}}}
		p.otherUDP()
		var got []ports
		for _, o := range p.rules {
			got = append(got, o.(rule).dport)
		}
		if len(got) != len(c.want) {
			t.Errorf("%v: %v, want %v", c.used, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%v: %v, want %v", c.used, got, c.want)
			}
		}
	}
}
