package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
)

// TestPathMTU: a router beyond the director has a narrower link. Its "too big" has to reach the server,
// or the download hangs.
func TestPathMTU(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			s := openSite(t, labnet.StoryOptions{OwnVIP: own, NoOffload: off, Router: true, ClientMTU: 1400}, storyConfig)
			for _, vip := range vips {
				s.transfer("client", vip)
			}
		}
	})
}

// TestGateway: the servers' own traffic: routed as it is, or masqueraded.
func TestGateway(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		topology := labnet.Story(labnet.StoryOptions{NoOffload: off})
		for i := range topology.Nodes {
			if topology.Nodes[i].Name == "client" {
				topology.Nodes[i].Services = []labnet.Service{{Kind: labnet.HTTP, Port: 80}, {Kind: labnet.UDPEcho, Port: 7}}
			}
		}
		targets := []string{"198.51.100.7", "2001:db8:1::7"}
		t.Run("routed", func(t *testing.T) {
			s := openLab(t, topology, storyConfig)
			s.start()
			t.Cleanup(s.stop)
			for i, target := range targets {
				want := " from " + strings.Trim(hostPort([]string{"192.168.0.10", "2001:db8:c0::10"}[i], 0), "0")
				if text, _ := s.get("rs1", "http://"+hostPort(target, 80)+"/"); !strings.Contains(text, want) {
					t.Errorf("routed: %s", text)
				}
				s.datagrams("rs1", target)
				s.ping("rs1", target)
			}
		})
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprintf("masqueraded own=%v", own), func(t *testing.T) {
				as := []string{"203.0.113.50", "2001:db8:113::50"}
				if own {
					as = []string{"198.51.100.1", "2001:db8:1::1"}
				}
				s := openLab(t, topology, storyConfig+fmt.Sprintf(`
gateway:
  - {inside: 192.168.0.0/24, masquerade: %s}
  - {inside: "2001:db8:c0::/64", masquerade: "%s"}
`, as[0], as[1]))
				s.start()
				t.Cleanup(s.stop)
				for i, target := range targets {
					want := " from " + strings.Trim(hostPort(as[i], 0), "0")
					if text, _ := s.get("rs1", "http://"+hostPort(target, 80)+"/"); !strings.Contains(text, want) {
						t.Errorf("masqueraded as %s: %s", as[i], text)
					}
					s.datagrams("rs1", target)
					s.ping("rs1", target)
					s.get("client", "http://"+hostPort(vips[i], 80)+"/")
					s.ping("rs1", []string{"192.168.0.100", "2001:db8:c0::100"}[i]) // its gateway
				}
			})
		}
	})
}

// routerTopology has no director: client and servers have nothing but lo until tunlb gives them a TUN.
func routerTopology() labnet.Topology {
	var t labnet.Topology
	t.Nodes = append(t.Nodes, labnet.Node{Name: "lb"}, labnet.Node{Name: "client"})
	for i := range 3 {
		t.Nodes = append(t.Nodes, labnet.Node{
			Name:     fmt.Sprintf("rs%d", i+1),
			Services: []labnet.Service{{Kind: labnet.HTTP, Port: 8080}, {Kind: labnet.HTTP, Port: 80}, {Kind: labnet.TCPEcho, Port: 7}},
		})
	}
	return t
}

// openRouter starts tunlb as a virtual router.
func openRouter(t *testing.T, services string) *site {
	t.Helper()
	s := openLab(t, routerTopology(), "")
	s.write(routerPorts(s) + services)
	s.start()
	t.Cleanup(s.stop)
	return s
}

// routerPorts are TUN ports inside the namespaces, each its default gateway.
func routerPorts(s *site) string {
	config := fmt.Sprintf("ports:\n  - {name: eth0, netns: %s, addresses: [198.51.100.7/24, \"2001:db8:1::7/64\"], router: [198.51.100.1, \"2001:db8:1::1\"], routes: [0.0.0.0/0, \"::/0\"]}\n",
		s.lab.NS("client").Path())
	for i := range 3 {
		config += fmt.Sprintf("  - {name: eth0, netns: %s, addresses: [192.168.%d.10/24, \"2001:db8:c%d::10/64\"], router: [192.168.%d.100, \"2001:db8:c%d::100\"]}\n",
			s.lab.NS(fmt.Sprintf("rs%d", i+1)).Path(), i, i, i, i)
	}
	return config
}

// TestVirtualRouter: there is no director's namespace.
func TestVirtualRouter(t *testing.T) {
	needLab(t)
	s := openRouter(t, `services:
  - {name: web, listen: 203.0.113.22:80/tcp, scheduler: rr, servers: [192.168.0.10:8080, 192.168.1.10:8080, 192.168.2.10:8080]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", scheduler: rr, servers: ["[2001:db8:c0::10]:8080", "[2001:db8:c1::10]:8080", "[2001:db8:c2::10]:8080"]}
  - {name: tcpecho, listen: 203.0.113.22:7/tcp, servers: [192.168.0.10]}
`)
	for _, vip := range vips {
		if got := s.sequence("client", "http://"+hostPort(vip, 80)+"/", 4); got != "rs1 rs2 rs3 rs1" {
			t.Errorf("%s: %s", vip, got)
		}
		s.transfer("client", vip)
		s.ping("client", vip)
		// A server calls its own VIP.
		for range 3 {
			s.get("rs1", "http://"+hostPort(vip, 80)+"/")
		}
	}
	s.ping("client", "198.51.100.1")
	s.ping("rs1", "192.168.0.100")
	s.ping("rs1", "2001:db8:c0::100")
	// Past the services it routes: by longest prefix, and by default to the client's side.
	if text, _ := s.get("client", "http://192.168.1.10:80/"); !strings.Contains(text, "rs2 GET / from 198.51.100.7:") {
		t.Errorf("client to rs2 itself: %s", text)
	}
	s.ping("rs3", "198.51.100.7")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.lab.NS("client").DialContext(ctx, "tcp", "203.0.113.22:99"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without service: %v, want refused", err)
	}
}

// TestTraceroute: a packet that runs out of time on the way is answered for, and quoted as it was sent.
func TestTraceroute(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openSite(t, labnet.StoryOptions{NoOffload: off}, storyConfig)
		client, vip := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr(labnet.VIP)
		sniffer, err := s.lab.NS("client").Sniff("eth0")
		s.must(err)
		defer sniffer.Close()
		var hops []string
		for ttl := 1; ttl <= 3; ttl++ {
			conn := s.dial("client", "udp", hostPort(labnet.VIP, 7))
			raw, err := conn.(*net.UDPConn).SyscallConn()
			s.must(err)
			s.must(raw.Control(func(fd uintptr) { s.must(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)) }))
			if _, err := conn.Write([]byte("probe")); err != nil {
				t.Fatal(err)
			}
			from := conn.LocalAddr().(*net.UDPAddr).Port
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			answer, err := sniffer.Wait(ctx, func(p netns.Packet) bool {
				return !p.Out && (timeExceededAbout(p.Data[14:], client, vip, from) || udpTo(p.Data[14:], from))
			})
			if err != nil {
				t.Fatalf("TTL %d: %v", ttl, err)
			}
			hop, _ := netip.AddrFromSlice(answer.Data[14+12 : 14+16])
			hops = append(hops, hop.String())
		}
		if got := strings.Join(hops, " "); got != "198.51.100.1 10.255.0.2 203.0.113.22" {
			t.Errorf("hops: %s", got)
		}
	})
}

// timeExceededAbout says whether an IPv4 packet is an ICMP time exceeded that quotes a UDP packet of these
// endpoints, as the client had sent it.
func timeExceededAbout(ip []byte, src, dst netip.Addr, port int) bool {
	if len(ip) < 20+8+20+8 || ip[9] != 1 || ip[20] != 11 {
		return false
	}
	quote := ip[28:]
	return netip.AddrFrom4([4]byte(quote[12:16])) == src && netip.AddrFrom4([4]byte(quote[16:20])) == dst &&
		int(binary.BigEndian.Uint16(quote[20:])) == port && binary.BigEndian.Uint16(quote[22:]) == 7
}

func udpTo(ip []byte, port int) bool {
	return len(ip) >= 28 && ip[9] == 17 && int(binary.BigEndian.Uint16(ip[22:])) == port
}

// TestPathMTUInside: the narrow link is between routers on the servers' side, and what the client sends
// does not fit it. The error comes from a router that tunlb has never heard of.
func TestPathMTUInside(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		p := netip.MustParsePrefix
		routes := func(via4, via6 string) []labnet.Route {
			return []labnet.Route{{To: p("0.0.0.0/0"), Via: netip.MustParseAddr(via4)}, {To: p("::/0"), Via: netip.MustParseAddr(via6)}}
		}
		inward := func(via4, via6 string) []labnet.Route {
			return []labnet.Route{{To: p("192.168.3.0/24"), Via: netip.MustParseAddr(via4)}, {To: p("2001:db8:c3::/64"), Via: netip.MustParseAddr(via6)}}
		}
		end := func(node, iface, a4, a6 string) labnet.End {
			return labnet.End{Node: node, Interface: iface, Addresses: []netip.Prefix{p(a4), p(a6)}}
		}
		s := openLab(t, labnet.Topology{
			Nodes: []labnet.Node{
				{Name: "client", Routes: routes("198.51.100.1", "2001:db8:1::1")},
				{Name: "lb", Forward: true, Routes: inward("192.168.1.2", "2001:db8:c1::2")},
				{Name: "r1", Forward: true, Routes: append(routes("192.168.1.1", "2001:db8:c1::1"), inward("192.168.2.2", "2001:db8:c2::2")...)},
				{Name: "r2", Forward: true, Routes: routes("192.168.2.1", "2001:db8:c2::1")},
				{Name: "rs1", Routes: routes("192.168.3.1", "2001:db8:c3::1"), Services: labnet.DefaultServices()},
			},
			Links: []labnet.Link{
				{A: end("client", "eth0", "198.51.100.7/24", "2001:db8:1::7/64"), B: end("lb", "eth0", "198.51.100.1/24", "2001:db8:1::1/64"), NoOffload: off},
				{A: end("lb", "eth1", "192.168.1.1/24", "2001:db8:c1::1/64"), B: end("r1", "eth0", "192.168.1.2/24", "2001:db8:c1::2/64"), NoOffload: off},
				{A: end("r1", "eth1", "192.168.2.1/24", "2001:db8:c2::1/64"), B: end("r2", "eth0", "192.168.2.2/24", "2001:db8:c2::2/64"), MTU: 1300, NoOffload: off},
				{A: end("r2", "eth1", "192.168.3.1/24", "2001:db8:c3::1/64"), B: end("rs1", "eth0", "192.168.3.10/24", "2001:db8:c3::10/64"), NoOffload: off},
			},
		}, `services:
  - {name: web, listen: 203.0.113.22:80/tcp, servers: [192.168.3.10]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", servers: ["2001:db8:c3::10"]}
`)
		s.start()
		t.Cleanup(s.stop)
		for _, vip := range vips {
			// The upload comes first: once the server knows the path from a download, it announces a smaller MSS.
			if _, _, err := s.fetch("client", http.MethodPost, "http://"+hostPort(vip, 80)+"/", labnet.Bytes(1<<20)); err != nil {
				t.Errorf("%s: upload: %v", vip, err)
			}
			s.transfer("client", vip)
		}
		s.ping("lb", "198.51.100.7") // the box's own pings don't take the way through the TUN
		s.ping("lb", "192.168.3.10")
		s.ping("client", "192.168.3.10")
	})
}

// TestGatewayFromOutside: a connection from outside straight to a server is none of the gateway's.
func TestGatewayFromOutside(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openLab(t, labnet.Story(labnet.StoryOptions{NoOffload: off}), storyConfig+`
gateway:
  - {inside: 192.168.0.0/24, masquerade: 198.51.100.1}
  - {inside: "2001:db8:c0::/64", masquerade: "2001:db8:1::1"}
`)
		s.start()
		t.Cleanup(s.stop)
		for _, server := range []string{"192.168.0.10", "2001:db8:c0::10"} {
			if text, _ := s.get("client", "http://"+hostPort(server, 80)+"/"); !strings.Contains(text, "rs1") {
				t.Errorf("%s: %s", server, text)
			}
			s.ping("client", server)
		}
	})
}
