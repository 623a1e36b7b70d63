package kernel

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// ported is a state whose services have these ports on the VIPs of both families, and whose servers answer from those.
func ported(services, servers []PortProto) State {
	s := full()
	s.Gateways, s.Servers = nil, nil
	for i := range s.VIPs {
		s.VIPs[i].Ports = services
	}
	for _, addr := range realServers {
		for _, p := range servers {
			s.Servers = append(s.Servers, Server{netip.MustParseAddr(addr), p.Proto, p.First, p.Last})
		}
	}
	return s
}

// TestPortRanges: a range of ports, one that ends with the last port, the last port alone, and all ports: requests and answers of
// these go to the device, and all others where they went before, be the VIP the box's own or not.
func TestPortRanges(t *testing.T) {
	request := func(proto uint8, port uint16, want string) asked {
		return asked{"request", query{"198.51.100.2", "203.0.113.22", "outer", proto, 40000, port}, want}
	}
	answer := func(proto uint8, port uint16, want string) asked {
		return asked{"answer", query{"192.168.0.10", "198.51.100.2", "inner", proto, port, 40000}, want}
	}
	const dev = "tunlb0"
	for _, c := range []struct {
		name  string
		ports []PortProto
		own   []asked // where the VIP is the box's own
		any   []asked // in any case
	}{
		{"range", []PortProto{{tcp, 8000, 8100}, {udp, 5000, 5100}}, []asked{
			request(tcp, 7999, "local"), request(tcp, 8000, dev), request(tcp, 8050, dev), request(tcp, 8100, dev), request(tcp, 8101, "local"),
			request(udp, 4999, "local"), request(udp, 5000, dev), request(udp, 5100, dev), request(udp, 5101, "local"),
			request(udp, 0, dev), // a fragment
		}, []asked{
			answer(tcp, 7999, "outer"), answer(tcp, 8000, dev), answer(tcp, 8100, dev), answer(tcp, 8101, "outer"),
			answer(udp, 5000, dev), answer(udp, 0, dev),
		}},
		{"up to the last port", []PortProto{{tcp, 60000, 65535}, {udp, 60000, 65535}, {tcp, 80, 80}}, []asked{
			request(tcp, 22, "local"), request(tcp, 80, dev), request(tcp, 59999, "local"), request(tcp, 60000, dev), request(tcp, 65534, dev), request(tcp, 65535, dev),
			request(udp, 53, "local"), request(udp, 59999, "local"), request(udp, 60000, dev), request(udp, 65535, dev),
		}, []asked{
			answer(tcp, 80, dev), answer(tcp, 60000, dev), answer(tcp, 65535, dev), answer(udp, 65535, dev),
		}},
		{"the last port", []PortProto{{tcp, 65535, 65535}}, []asked{
			request(tcp, 22, "local"), request(tcp, 65534, "local"), request(tcp, 65535, dev), request(udp, 53, "local"),
		}, []asked{
			answer(tcp, 65535, dev), answer(udp, 53, "outer"),
		}},
		{"all ports", []PortProto{{tcp, 0, 0}, {udp, 53, 53}}, []asked{
			request(tcp, 1, dev), request(tcp, 22, dev), request(tcp, 65535, dev), request(udp, 54, "local"), request(udp, 53, dev),
		}, []asked{
			answer(tcp, 1, dev), answer(tcp, 22, dev), answer(tcp, 65535, dev),
			{"server to the box", query{"192.168.0.10", "192.168.0.100", "inner", tcp, 8080, 40000}, "local"},
		}},
		{"all ports of UDP", []PortProto{{udp, 0, 0}}, []asked{
			request(udp, 1, dev), request(udp, 0, dev), request(udp, 65535, dev), request(tcp, 22, "local"),
		}, []asked{
			answer(udp, 1, dev), answer(tcp, 22, "outer"),
		}},
	} {
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, own VIP %v", c.name, own), func(t *testing.T) {
				n := newNetwork(t)
				if own {
					n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
				}
				before := n.box.snapshot()
				k := open(t, n.box)
				s := ported(c.ports, c.ports)
				apply(t, k, s)
				applied := n.box.snapshot()
				n.box.ways(c.any)
				if own {
					n.box.ways(c.own)
				} else {
					n.box.ways([]asked{request(tcp, 22, dev), request(udp, 53, dev)})
				}
				apply(t, k, s)
				same(t, "a second Apply", applied, n.box.snapshot())
				apply(t, k, full()) // another state and back
				apply(t, k, s)
				if d := diff(applied, n.box.snapshot()); d != "" {
					t.Errorf("back to the state:\n%s", d)
				}
				must(t, k.Close())
				same(t, "Close", before, n.box.snapshot())
			})
		}
	}
}

// TestOneRuleForARange: as many rules for a range as for a port.
func TestOneRuleForARange(t *testing.T) {
	n := newNetwork(t)
	n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
	apply(t, open(t, n.box), ported([]PortProto{{tcp, 8000, 8100}}, []PortProto{{tcp, 9000, 9100}}))
	var got []string
	for _, f := range n.box.families() {
		rules, err := n.box.rules(f)
		must(t, err)
		for _, r := range rules {
			if r.protocol == protocol && r.proto == tcp {
				got = append(got, r.command("add"))
			}
		}
	}
	want := []string{
		"ip rule add pref 7430 to 203.0.113.22 ipproto tcp dport 8000-8100 lookup 7474 protocol 174",
		"ip rule add pref 7441 from 192.168.0.10 ipproto tcp sport 9000-9100 lookup 7474 protocol 174",
		"ip -6 rule add pref 7430 to 2001:db8:22::22 ipproto tcp dport 8000-8100 lookup 7474 protocol 174",
		"ip -6 rule add pref 7441 from fd00::10 ipproto tcp sport 9000-9100 lookup 7474 protocol 174",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRangePackets sends real packets to ranges on VIPs that are the box's own, one of which ends with the last port: what is
// outside of them reaches the box itself.
func TestRangePackets(t *testing.T) {
	n := newNetwork(t)
	n.box.addr("outer", "203.0.113.22/32", "2001:db8:22::22/128")
	ports := []PortProto{{tcp, 8000, 8100}, {tcp, 65000, 65535}}
	apply(t, open(t, n.box), ported(ports, ports))
	d := direct(n, func(string) bool { return false })
	for vip, client := range map[string]string{"203.0.113.22": "198.51.100.2", "2001:db8:22::22": "2001:db8:1::2"} {
		for _, port := range []string{"22", "7999", "8101", "64999"} {
			n.box.listen(net.JoinHostPort(vip, port))
			if got := n.client.greeting(net.JoinHostPort(vip, port)); got != "hello\n" {
				t.Errorf("port %s of %s: got %q", port, vip, got)
			}
		}
		for _, port := range []string{"8000", "8100", "65000", "65535"} {
			n.client.knock(net.JoinHostPort(vip, port))
			d.wait(t, fmt.Sprintf("tcp %s > %s :%s", client, vip, port))
		}
	}
}

// TestAllPortsComeAndGo: the rule for all ports goes without taking one for some ports along.
func TestAllPortsComeAndGo(t *testing.T) {
	n := newNetwork(t)
	n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
	k := open(t, n.box)
	some, all := []PortProto{{tcp, 80, 80}}, []PortProto{{tcp, 80, 80}, {tcp, 0, 0}}
	apply(t, k, ported(some, some))
	before := n.box.snapshot()
	apply(t, k, ported(all, all))
	apply(t, k, ported(some, some))
	same(t, "without all ports again", before, n.box.snapshot())
}

// TestBoxSockets: the box's own connections and datagrams from a VIP whose services have many ports, its ephemeral ones
// among them, go on as long as the director hands back what it does not know.
func TestBoxSockets(t *testing.T) {
	for name, ports := range map[string][]PortProto{
		"all ports": {{tcp, 0, 0}, {udp, 0, 0}}, "up to the last port": {{tcp, 1024, 65535}, {udp, 1024, 65535}}, "range": {{tcp, 1024, 61000}, {udp, 1024, 61000}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			n.box.addr("outer", "203.0.113.22/32", "2001:db8:22::22/128")
			before := n.box.snapshot()
			k := open(t, n.box)
			apply(t, k, ported(ports, nil))
			direct(n, func(string) bool { return true })
			for _, c := range []struct{ vip, client string }{{"203.0.113.22", "198.51.100.2"}, {"2001:db8:22::22", "2001:db8:1::2"}} {
				n.client.listen(net.JoinHostPort(c.client, "2222"))
				if got := n.box.greetingTo(net.ParseIP(c.vip), net.JoinHostPort(c.client, "2222")); got != "hello\n" {
					t.Errorf("from %s: %q", c.vip, got)
				}
				n.client.udpEcho(net.JoinHostPort(c.client, "5353"))
				if err := n.box.udpAsk(c.vip, net.JoinHostPort(c.client, "5353")); err != nil {
					t.Errorf("%s asks: %v", c.vip, err)
				}
			}
			must(t, k.Close())
			same(t, "Close", before, n.box.snapshot())
		})
	}
}

// TestCover: servers in a row have the rules of the prefixes that they fill.
func TestCover(t *testing.T) {
	for _, c := range []struct{ addrs, want string }{
		{"", ""},
		{"192.168.0.10", "192.168.0.10/32"},
		{"192.168.0.12 192.168.0.10 192.168.0.11 192.168.0.10", "192.168.0.10/31 192.168.0.12/32"},
		{"192.168.0.11 192.168.0.12", "192.168.0.11/32 192.168.0.12/32"}, // no prefix has just these
		{"10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.5 10.0.0.6 10.0.0.7", "10.0.0.0/30 10.0.0.5/32 10.0.0.6/31"},
		{"fd00::10 fd00::11 fd00::12 fd00::13 fd00::1:10", "fd00::10/126 fd00::1:10/128"},
		{"0.0.0.0 255.255.255.255", "0.0.0.0/32 255.255.255.255/32"},
	} {
		var addrs []netip.Addr
		for _, a := range strings.Fields(c.addrs) {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		if got := strings.Trim(fmt.Sprint(cover(addrs)), "[]"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.addrs, got, c.want)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		in, addrs := map[netip.Addr]bool{}, []netip.Addr(nil)
		for range rng.IntN(200) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(256))})
			in[a], addrs = true, append(addrs, a)
		}
		list := cover(addrs)
		for i := range 512 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			covered := slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
			if covered != in[a] || len(list) > len(in) {
				t.Fatalf("%s: covered %v, asked for %v, by %v", a, covered, in[a], list)
			}
		}
	}
}
