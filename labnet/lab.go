package labnet

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/tunlb/tunlb/labnet/netns"
)

// Packet is one packet as captured in a lab.
type Packet = netns.Packet

// MAC is an Ethernet address.
type MAC = netns.MAC

// Lab is a topology made of kernel network namespaces, one for each node. Nothing of it is
// visible outside of this process, and nothing outlives it. Whoever opened it closes it.
// Safe for concurrent use.
type Lab struct {
	topology Topology
	nodes    map[string]*netns.NS
	servers  []server
}

// Open makes a lab of a topology, with its servers running. It needs the privilege that
// netns.Enter procures; without it the error is a *netns.Unsupported.
func Open(t Topology) (*Lab, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	l := &Lab{topology: t, nodes: make(map[string]*netns.NS)}
	for _, step := range [...]func() error{l.makeNodes, l.makeLinks, l.makeBridges, l.makeRoutes, l.settle, l.setInterfaces, l.startServers} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("open lab: %w", err), l.Close())
		}
	}
	return l, nil
}

// Topology is what the lab was made of.
func (l *Lab) Topology() Topology { return l.topology }

// Names tells which node each of the lab's MACs belongs to, for Journey.Frames and Conversation.
// The map is the caller's, who may add what a program on a TAP has.
func (l *Lab) Names() (map[MAC]string, error) {
	names := make(map[MAC]string)
	for _, n := range l.topology.Nodes {
		macs, err := l.nodes[n.Name].MACs()
		if err != nil {
			return nil, err
		}
		for _, m := range macs {
			names[m] = n.Name
		}
	}
	return names, nil
}

// NS is a node's namespace; nil if there is no such node.
func (l *Lab) NS(node string) *netns.NS { return l.nodes[node] }

// Close stops the servers and gives the namespaces up, with all that runs in them. Idempotent.
func (l *Lab) Close() error {
	var errs []error
	for _, s := range l.servers {
		errs = append(errs, s.Close())
	}
	l.servers = nil
	// At once, since ending a capture takes the kernel some 10 ms of waiting.
	var (
		mu      sync.Mutex
		closing sync.WaitGroup
	)
	for _, ns := range l.nodes {
		closing.Go(func() {
			err := ns.Close()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}

func (l *Lab) makeNodes() error {
	for _, n := range l.topology.Nodes {
		ns, err := netns.New(n.Name)
		if err != nil {
			return err
		}
		l.nodes[n.Name] = ns
		if err := l.set(n, false); err != nil {
			return err
		}
		for _, p := range n.Loopback {
			if err := ns.AddAddress("lo", p); err != nil {
				return err
			}
		}
	}
	return nil
}

// set writes the node's sysctls: those of its interfaces, or all others, which are in force when
// interfaces come up.
func (l *Lab) set(n Node, interfaces bool) error {
	settings := make(map[string]string)
	maps.Copy(settings, n.Sysctls)
	if n.Forward {
		settings["ipv4/ip_forward"], settings["ipv6/conf/all/forwarding"] = "1", "1"
	}
	if n.Switch {
		settings["ipv6/conf/default/disable_ipv6"] = "1" // it speaks for nobody, not even itself
	}
	for _, path := range slices.Sorted(maps.Keys(settings)) {
		parts := strings.Split(path, "/") // ipv4 conf eth0 arp_ignore
		if interfaces != (len(parts) == 4 && !slices.Contains([]string{"all", "default", "lo"}, parts[2])) {
			continue
		}
		if err := l.nodes[n.Name].Sysctl(path, settings[path]); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}

func (l *Lab) makeLinks() error {
	for _, link := range l.topology.Links {
		a, b := l.end(link.A, link.MTU), l.end(link.B, link.MTU)
		if err := netns.Connect(a, b); err != nil {
			return err
		}
		if !link.NoOffload {
			continue
		}
		for _, end := range [...]netns.End{a, b} {
			if err := end.NS.SetOffload(end.Name, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) end(e End, mtu int) netns.End {
	return netns.End{NS: l.nodes[e.Node], Name: e.Interface, MTU: mtu, Addresses: e.Addresses, MAC: hardware(e)}
}

// hardware makes an interface's MAC tell its address: 02:00:cb:00:71:0a is 203.0.113.10's. One
// without an address gets what the kernel makes up.
func hardware(e End) (m netns.MAC) {
	for _, p := range e.Addresses {
		if a := p.Addr(); a.Is4() {
			m[0] = 2 // locally administered
			*(*[4]byte)(m[2:]) = a.As4()
			break
		}
	}
	return m
}

func (l *Lab) makeBridges() error {
	for _, n := range l.topology.Nodes {
		for _, b := range l.topology.bridges(n) {
			if err := l.nodes[n.Name].Bridge(b.Name, b.Interfaces...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) makeRoutes() error {
	for _, n := range l.topology.Nodes {
		for _, r := range n.Routes {
			if err := l.nodes[n.Name].AddRoute(netns.Route{To: r.To, Via: r.Via, AdvMSS: r.AdvMSS}); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle comes when everything is there: the kernel brings it into operation in the meantime.
func (l *Lab) settle() error {
	for _, ns := range l.nodes {
		if err := ns.Settle(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) setInterfaces() error {
	for _, n := range l.topology.Nodes {
		if err := l.set(n, true); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startServers() error {
	for _, n := range l.topology.Nodes {
		for _, s := range n.Services {
			if err := l.start(n, s); err != nil {
				return fmt.Errorf("start %s on %s: %w", s.Kind, n.Name, err)
			}
		}
	}
	return nil
}

// Stop ends a node's service over TCP, as if its process had died: its port refuses from then on. restart brings
// it back.
func (l *Lab) Stop(node string, port uint16) (restart func() error, err error) {
	for i, s := range l.servers {
		if s.node.Name == node && s.service.Port == port && s.service.Kind != UDPEcho {
			l.servers = slices.Delete(l.servers, i, i+1)
			return func() error { return l.start(s.node, s.service) }, s.Close()
		}
	}
	return nil, fmt.Errorf("lab: nothing runs on %s at TCP port %d", node, port)
}

// server is a service that runs.
type server struct {
	node    Node
	service Service
	io.Closer
}

func (l *Lab) start(n Node, s Service) error {
	ns := l.nodes[n.Name]
	if s.Kind == UDPEcho {
		// A socket for each address: an answer's source is then the address that was asked.
		for _, p := range l.topology.addresses(n) {
			c, err := ns.ListenPacket("udp", netip.AddrPortFrom(p.Addr(), s.Port).String())
			if err != nil {
				return err
			}
			l.servers = append(l.servers, server{n, s, ServeUDPEcho(c, n.Name)})
		}
		return nil
	}
	listener, err := ns.Listen("tcp", fmt.Sprintf(":%d", s.Port))
	if err != nil {
		return err
	}
	serve := map[Kind]func(net.Listener, string) io.Closer{HTTP: ServeHTTP, TCPEcho: ServeTCPEcho}[s.Kind]
	l.servers = append(l.servers, server{n, s, serve(listener, n.Name)})
	return nil
}
