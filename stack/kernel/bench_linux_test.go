package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// farm is a state with so many real servers of one service in each family, whose addresses are so far apart.
func farm(servers, apart int) State {
	s := full()
	s.Gateways, s.Servers = nil, nil
	for i := range servers {
		for _, a := range []string{fmt.Sprintf("10.8.%d.%d", i*apart>>8, i*apart&255), fmt.Sprintf("fd08::%x", i*apart)} {
			s.Servers = append(s.Servers, Server{netip.MustParseAddr(a), tcp, 8080, 8080})
		}
	}
	return s
}

// BenchmarkApply: a first Apply and Close, one that changes nothing, and one that changes a server there and back.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{10, 100, 1000, 2000} {
		n := newNetwork(b)
		s, other := farm(size, 2), farm(size+1, 2)
		b.Run(fmt.Sprintf("new/%d", size), func(b *testing.B) {
			for b.Loop() {
				k := open(b, n.box)
				apply(b, k, s)
				if err := k.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		k := open(b, n.box)
		apply(b, k, s)
		b.Run(fmt.Sprintf("same/%d", size), func(b *testing.B) {
			for b.Loop() {
				apply(b, k, s)
			}
		})
		b.Run(fmt.Sprintf("one/%d", size), func(b *testing.B) {
			for b.Loop() {
				apply(b, k, other)
				apply(b, k, s)
			}
		})
	}
}

// BenchmarkRules: a datagram from client to server that is nobody's of ours, and that the box forwards after it has
// passed all rules. Between veth devices that happens within the sender's call.
func BenchmarkRules(b *testing.B) {
	for _, c := range [][2]int{{0, 1}, {1, 1}, {100, 2}, {1000, 2}, {1000, 1}} {
		n, size, apart := newNetwork(b), c[0], c[1]
		if size > 0 {
			apply(b, open(b, n.box), farm(size, apart))
		} else {
			n.box.setSysctl("ipv4/ip_forward", "1")
			n.box.setSysctl("ipv6/conf/all/forwarding", "1")
		}
		for _, server := range realServers {
			to := net.JoinHostPort(server, "9")
			var sink, from net.Conn
			n.server.must(n.server.inside(func() (err error) {
				sink, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
				return err
			}))
			n.client.must(n.client.inside(func() (err error) { from, err = net.Dial("udp", to); return err }))
			b.Run(fmt.Sprintf("%s/%d servers, addresses %d apart", ip(familyOf(netip.MustParseAddr(server))), size, apart), func(b *testing.B) {
				for b.Loop() {
					if _, err := from.Write([]byte("x")); err != nil {
						b.Fatal(err)
					}
				}
			})
			from.Close()
			sink.Close()
		}
	}
}
