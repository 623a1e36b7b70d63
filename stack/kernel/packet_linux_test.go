package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// director stands in for tunlb: it notes each packet, and writes back those that it is told to hand back.
type director struct {
	tun   *os.File
	seen  chan string // "tcp 198.51.100.2 > 203.0.113.22 :80", without the port in fragments
	ended chan struct{}
}

func direct(n *network, handBack func(packet string) bool) *director {
	d := &director{tun: n.tun, seen: make(chan string, 1000), ended: make(chan struct{})}
	go d.run(handBack)
	n.box.t.Cleanup(func() { n.tun.Close(); <-d.ended })
	return d
}

func (d *director) run(handBack func(string) bool) {
	defer close(d.ended)
	b := make([]byte, 65535)
	for {
		size, err := d.tun.Read(b)
		if err != nil {
			return
		}
		s := describe(b[:size])
		d.seen <- s
		if handBack(s) {
			if _, err := d.tun.Write(b[:size]); err != nil {
				return
			}
		}
	}
}

func describe(p []byte) string {
	if p[0]>>4 == 6 {
		src, _ := netip.AddrFromSlice(p[8:24])
		dst, _ := netip.AddrFromSlice(p[24:40])
		proto, port := p[6], p[42:]
		if proto == unix.IPPROTO_FRAGMENT {
			return fmt.Sprintf("%s fragment %s > %s", ipNames[p[40]], src, dst)
		}
		return withPort(fmt.Sprintf("%s %s > %s", ipNames[proto], src, dst), proto, port)
	}
	src, _ := netip.AddrFromSlice(p[12:16])
	dst, _ := netip.AddrFromSlice(p[16:20])
	if binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
		return fmt.Sprintf("%s fragment %s > %s", ipNames[p[9]], src, dst)
	}
	return withPort(fmt.Sprintf("%s %s > %s", ipNames[p[9]], src, dst), p[9], p[22:])
}

func withPort(s string, proto uint8, port []byte) string {
	if proto != tcp && proto != udp {
		return s
	}
	return fmt.Sprintf("%s :%d", s, binary.BigEndian.Uint16(port))
}

// wait returns when a packet has been seen.
func (d *director) wait(t *testing.T, want string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case got := <-d.seen:
			if got == want {
				return
			}
			if strings.Contains(got, "fe80:") {
				t.Errorf("link-local noise on the device: %s", got)
			}
		case <-late:
			t.Fatalf("no packet %q", want)
		}
	}
}

// listen accepts TCP connections and greets.
func (l *lab) listen(address string) {
	l.t.Helper()
	var listener net.Listener
	l.must(l.inside(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}))
	ended := make(chan struct{})
	go greet(listener, ended)
	l.t.Cleanup(func() { listener.Close(); <-ended })
}

// greet ends with its listener.
func greet(listener net.Listener, ended chan<- struct{}) {
	defer close(ended)
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "hello\n")
		c.Close()
	}
}

// greeting connects and returns what the other side says.
func (l *lab) greeting(address string) string { l.t.Helper(); return l.greetingTo(nil, address) }

// greetingTo is greeting with a source of the caller's choice; nil leaves it to the kernel.
func (l *lab) greetingTo(from net.IP, address string) string {
	l.t.Helper()
	var conn net.Conn
	err := l.inside(func() (err error) {
		conn, err = (&net.Dialer{Deadline: time.Now().Add(patience), LocalAddr: &net.TCPAddr{IP: from}}).Dial("tcp", address)
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// knock sends the first packet of a connection and forgets it.
func (l *lab) knock(address string) {
	l.t.Helper()
	to := netip.MustParseAddrPort(address)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	l.must(l.inside(func() error {
		fd, err := unix.Socket(int(familyOf(to.Addr())), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sa); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return nil
	}))
}

// ping sends an echo request and waits for the reply.
func (l *lab) ping(to string) {
	l.t.Helper()
	network, request, reply := "ip4:icmp", []byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}, byte(0) // with its checksum
	if netip.MustParseAddr(to).Is6() {
		network, request, reply = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0, 1, 0, 1}, 129 // the kernel's checksum
	}
	var conn net.PacketConn
	l.must(l.inside(func() (err error) {
		conn, err = net.ListenPacket(network, "")
		return err
	}))
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err := conn.WriteTo(request, &net.IPAddr{IP: net.ParseIP(to)})
	l.must(err)
	for b := make([]byte, 1500); ; {
		_, from, err := conn.ReadFrom(b)
		if err != nil {
			l.t.Fatalf("ping %s: %v", to, err)
		}
		if b[0] == reply && from.String() == to {
			return
		}
	}
}

// send sends one datagram from and to the given addresses.
func (l *lab) send(from, to string, size int) {
	l.t.Helper()
	l.must(l.inside(func() error {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(make([]byte, size))
		return err
	}))
}

// TestPackets sends real packets to VIPs that are the box's own: services go to the device, all else goes
// to the box as ever.
func TestPackets(t *testing.T) {
	n, s := newNetwork(t), full()
	s.Gateways = nil
	n.box.addr("outer", "203.0.113.22/32", "2001:db8:22::22/128")
	n.box.listen("203.0.113.22:2222")
	n.box.listen("[2001:db8:22::22]:2222")
	apply(t, open(t, n.box), s)
	d := direct(n, func(p string) bool { return strings.Contains(p, "icmp") })
	for _, c := range []struct{ vip, client, server string }{
		{"203.0.113.22", "198.51.100.2", "192.168.0.10"},
		{"2001:db8:22::22", "2001:db8:1::2", "fd00::10"},
	} {
		if got := n.client.greeting(net.JoinHostPort(c.vip, "2222")); got != "hello\n" {
			t.Errorf("ssh-like service on %s: got %q", c.vip, got)
		}
		n.client.ping(c.vip)
		name := "icmp"
		if strings.Contains(c.vip, ":") {
			name = "ipv6-icmp"
		}
		d.wait(t, fmt.Sprintf("%s %s > %s", name, c.client, c.vip))
		n.client.send(net.JoinHostPort(c.client, "40000"), net.JoinHostPort(c.vip, "53"), 10)
		d.wait(t, fmt.Sprintf("udp %s > %s :53", c.client, c.vip))
		n.client.knock(net.JoinHostPort(c.vip, "80"))
		d.wait(t, fmt.Sprintf("tcp %s > %s :80", c.client, c.vip))
		n.server.send(net.JoinHostPort(c.server, "53"), net.JoinHostPort(c.client, "40000"), 10)
		d.wait(t, fmt.Sprintf("udp %s > %s :40000", c.server, c.client))
		for _, from := range []struct {
			*lab
			address, to string
			port        string
		}{{n.client, c.client, c.vip, "53"}, {n.server, c.server, c.client, "40000"}} {
			from.send(net.JoinHostPort(from.address, "53"), net.JoinHostPort(from.to, from.port), 4000)
			for range 3 { // none may get lost on another way
				d.wait(t, fmt.Sprintf("udp fragment %s > %s", from.address, from.to))
			}
		}
	}
}

// TestBoxToServer checks that the box itself can talk to the services of a real server, as health checks do, whichever
// of its addresses it does that with. The director hands nothing back: it would be in vain, as the kernel does not
// forward a packet that it has found a socket for, and early demultiplexing has done that.
func TestBoxToServer(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own VIP %v", own), func(t *testing.T) {
			n, s := newNetwork(t), full()
			s.Gateways = nil
			n.server.listen("192.168.0.10:8080")
			n.server.listen("[fd00::10]:8080")
			sources := map[string][]net.IP{"192.168.0.10": {nil}, "fd00::10": {nil}}
			if own {
				n.box.addr("outer", "203.0.113.22/32", "2001:db8:22::22/128")
				for server, vip := range map[string]string{"192.168.0.10": "203.0.113.22", "fd00::10": "2001:db8:22::22"} {
					sources[server] = append(sources[server], net.ParseIP(vip))
				}
			}
			apply(t, open(t, n.box), s)
			direct(n, func(string) bool { return false })
			for server, list := range sources {
				for _, from := range list {
					if got := n.box.greetingTo(from, net.JoinHostPort(server, "8080")); got != "hello\n" {
						t.Errorf("box (%v) to %s: got %q", from, server, got)
					}
				}
			}
		})
	}
}

// TestNeighbours checks that neighbour discovery goes on working for every pair of neighbours, although ICMPv6 for the VIP
// goes to the device. Reachability probes matter: they are unicast, to the VIP itself.
func TestNeighbours(t *testing.T) {
	n, s := newNetwork(t), full()
	n.box.addr("outer", "2001:db8:1::22/64")
	s.VIPs = append(s.VIPs, VIP{netip.MustParseAddr("2001:db8:1::22"), []PortProto{{tcp, 80, 80}}})
	apply(t, open(t, n.box), s)
	direct(n, func(string) bool { return false })
	for _, c := range []struct {
		who       *lab
		from, dev string
		neighbour string
	}{
		{n.client, "2001:db8:1::2", "eth0", "2001:db8:1::22"}, // solicits the VIP
		{n.client, "2001:db8:1::2", "eth0", "2001:db8:1::1"},  // solicits the masquerade address
		{n.box, "2001:db8:1::22", "outer", "2001:db8:1::2"},   // advertises to the VIP
		{n.box, "2001:db8:1::1", "outer", "2001:db8:1::2"},
		{n.server, "fd00::10", "eth0", "fd00::100"}, // a real server solicits its gateway
		{n.box, "fd00::100", "inner", "fd00::10"},   // a real server advertises
	} {
		c.who.probe(c.from, c.dev, c.neighbour)
	}
}

// probe lets the kernel find a neighbour by multicast, and then probe by unicast whether it is still there.
func (l *lab) probe(from, dev, neighbour string) {
	l.t.Helper()
	socket, err := func() (s *nl.NetlinkSocket, err error) {
		err = l.inside(func() error { s, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_NEIGH); return err })
		return s, err
	}()
	l.must(err)
	defer socket.Close()
	socket.SetReceiveTimeout(&unix.Timeval{Sec: int64(patience / time.Second)})
	find := func() *netlink.Neigh {
		list, err := l.links.NeighList(l.link(dev).Attrs().Index, unix.AF_INET6)
		l.must(err)
		i := slices.IndexFunc(list, func(n netlink.Neigh) bool { return n.IP.Equal(net.ParseIP(neighbour)) })
		if i < 0 {
			return nil
		}
		return &list[i]
	}
	wait := func(what string) *netlink.Neigh {
		for {
			if e := find(); e != nil && e.State&unix.NUD_REACHABLE != 0 {
				return e
			} else if e != nil && e.State&unix.NUD_FAILED != 0 {
				l.t.Errorf("%s %s, neighbour of %s: failed", what, neighbour, from)
				return nil
			}
			if _, _, err := socket.Receive(); err != nil {
				l.t.Errorf("%s %s, neighbour of %s: %v", what, neighbour, from, err)
				return nil
			}
		}
	}
	if old := find(); old != nil {
		if err := l.links.NeighDel(old); err != nil && !errors.Is(err, unix.ENOENT) {
			l.t.Fatal(err)
		}
	}
	l.send(net.JoinHostPort(from, "0"), net.JoinHostPort(neighbour, "9"), 1)
	if e := wait("find"); e != nil {
		e.State = unix.NUD_PROBE
		l.must(l.links.NeighSet(e))
		wait("probe")
	}
}
