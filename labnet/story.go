package labnet

import (
	"fmt"
	"net/netip"
)

// The story's addresses.
const (
	VIP  = "203.0.113.22"
	VIP6 = "2001:db8:113::22"
)

// StoryOptions varies the story's network. The zero value is the story as it is told.
type StoryOptions struct {
	Clients   int       // client, client2, ...; 0 means 1
	Servers   int       // rs1, rs2, ...; 0 means 3
	OwnVIP    bool      // the VIPs are addresses of lb's eth0; otherwise they are only routed to it
	NoOffload bool      // on all links
	Router    bool      // a router between the clients and lb
	ClientMTU int       // of the clients' links; 0 means 1500
	Services  []Service // of each server; nil means DefaultServices
}

// DefaultServices are what a real server runs: HTTP on 80 and 8080, echo on TCP and UDP port 7.
func DefaultServices() []Service {
	return []Service{{HTTP, 80}, {HTTP, 8080}, {TCPEcho, 7}, {UDPEcho, 7}}
}

// Story is the network of the story that tunlb tells: clients in 198.51.100.0/24 (client is .7),
// the load balancer lb with eth0 at 198.51.100.1 and eth1 at 192.168.0.100, and behind it, on the
// switch lan, rs1 to rs3 at 192.168.0.10 to .12, whose gateway it is. IPv6 likewise, in
// 2001:db8:1::/64 and 2001:db8:c0::/64.
//
//	client eth0 --- [wan, if several clients] --- [router] --- eth0 lb eth1 --- lan --- eth0 rs1, rs2, rs3
//
// With a router, 198.51.100.1 is the router's eth0, and lb's eth0 is 192.0.2.2 (2001:db8:2::2).
// If then ClientMTU is below 1500, the clients announce an MSS for 1500 all the same, so that the
// servers' full segments meet the narrow link only at the router: a test of path MTU discovery.
func Story(o StoryOptions) Topology {
	s := story{StoryOptions: o, outer: []netip.Prefix{prefix("198.51.100.1/24"), prefix("2001:db8:1::1/64")}}
	s.Clients, s.Servers = max(s.Clients, 1), o.Servers
	if s.Servers == 0 {
		s.Servers = 3
	}
	if s.Services == nil {
		s.Services = DefaultServices()
	}
	s.balancer()
	if s.Router {
		s.router()
	}
	s.clients()
	s.servers()
	return s.Topology
}

// story is a Topology being built.
type story struct {
	StoryOptions
	Topology
	outer []netip.Prefix // addresses of the clients' gateway
}

func (s *story) balancer() {
	lb := Node{Name: "lb", Forward: true}
	if s.Router {
		lb.Routes = defaultRoutes("192.0.2.1", "2001:db8:2::1", 0)
	}
	if !s.OwnVIP {
		lb.Note = []string{"VIP  " + VIP, "     " + VIP6}
	}
	s.Nodes = append(s.Nodes, lb)
}

// lbOuter is lb's eth0.
func (s *story) lbOuter() End {
	end := End{"lb", "eth0", s.outer}
	if s.Router {
		end.Addresses = []netip.Prefix{prefix("192.0.2.2/24"), prefix("2001:db8:2::2/64")}
	}
	if s.OwnVIP {
		end.Addresses = append(end.Addresses[:2:2], prefix(VIP+"/32"), prefix(VIP6+"/128"))
	}
	return end
}

func (s *story) router() {
	s.Nodes = append(s.Nodes, Node{Name: "router", Forward: true, Routes: defaultRoutes("192.0.2.2", "2001:db8:2::2", 0)})
	s.link(End{"router", "eth1", []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8:2::1/64")}}, s.lbOuter(), 0)
}

func (s *story) clients() {
	gateway := s.lbOuter()
	mss := 0
	if s.Router {
		gateway = End{"router", "eth0", s.outer}
		if 0 < s.ClientMTU && s.ClientMTU < 1500 {
			mss = 1500 - 40
		}
	}
	if s.Clients > 1 {
		s.Nodes = append(s.Nodes, Node{Name: "wan", Switch: true})
		s.link(End{"wan", gateway.Node, nil}, gateway, s.ClientMTU)
	}
	for i := range s.Clients {
		name := "client"
		if i > 0 {
			name += fmt.Sprint(i + 1)
		}
		s.Nodes = append(s.Nodes, Node{Name: name, Routes: defaultRoutes("198.51.100.1", "2001:db8:1::1", mss)})
		end := End{name, "eth0", []netip.Prefix{
			prefix(fmt.Sprintf("198.51.100.%d/24", 7+i)), prefix(fmt.Sprintf("2001:db8:1::%d/64", 7+i)),
		}}
		if s.Clients == 1 {
			s.link(end, gateway, s.ClientMTU)
		} else {
			s.link(end, End{"wan", name, nil}, s.ClientMTU)
		}
	}
}

func (s *story) servers() {
	s.Nodes = append(s.Nodes, Node{Name: "lan", Switch: true})
	s.link(End{"lb", "eth1", []netip.Prefix{prefix("192.168.0.100/24"), prefix("2001:db8:c0::100/64")}}, End{"lan", "lb", nil}, 0)
	for i := range s.Servers {
		name := fmt.Sprintf("rs%d", i+1)
		s.Nodes = append(s.Nodes, Node{
			Name: name, Services: s.Services,
			Routes: defaultRoutes("192.168.0.100", "2001:db8:c0::100", 0),
		})
		s.link(End{"lan", name, nil}, End{name, "eth0", []netip.Prefix{
			prefix(fmt.Sprintf("192.168.0.%d/24", 10+i)), prefix(fmt.Sprintf("2001:db8:c0::%d/64", 10+i)),
		}}, 0)
	}
}

func (s *story) link(a, b End, mtu int) {
	s.Links = append(s.Links, Link{A: a, B: b, MTU: mtu, NoOffload: s.NoOffload})
}

// defaultRoutes announce mss for IPv4, and what is left of it for IPv6's longer header.
func defaultRoutes(via4, via6 string, mss int) []Route {
	return []Route{
		{prefix("0.0.0.0/0"), netip.MustParseAddr(via4), mss},
		{prefix("::/0"), netip.MustParseAddr(via6), max(0, mss-20)},
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
