//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

// subject is a way from the client to the server.
type subject struct {
	name   string
	what   string // for the report
	start  func(context.Context, *stand, options) error
	direct bool // the client calls the server, not the VIP
	tun    bool // it needs /dev/net/tun

	// There is no LB box that routes between client and server:
	router  bool // the subject itself joins them
	segment bool // they are neighbours on Ethernet (segment.go)
}

func (s subject) String() string { return s.name }

var allSubjects = []subject{
	{name: "direct", what: "plain IPv4 forwarding, no address translated", direct: true, start: startDirect},
	{name: "nft", what: "the kernel's DNAT with connection tracking", start: startNFT},
	{name: "tunlb", what: "NAT over one TUN on the box", tun: true, start: startTunlb},
	{name: "bare", what: "the same way over one TUN, fixed translation, no table, no checks", tun: true, start: startBare},
	{name: "tunlb-router", what: "NAT as a virtual router, a TUN in the client's and in the server's namespace", tun: true, router: true, start: startTunlbRouter},
	{name: "bare-router", what: "the bare loop as a virtual router", tun: true, router: true, start: startBareRouter},
	{name: "tunlb-packet", what: "NAT over rings on the box's two interfaces, no TUN", start: startTunlbPacket},
	{name: "bare-packet", what: "the bare loop over a ring on each of the box's interfaces: MACs given, no routes", start: startBarePacket},
	{name: "tunlb-kernel", what: "NAT over one TUN that hands established connections to the kernel (fastpath: kernel)", tun: true, start: startTunlbKernel},
	{name: "wireguard", what: "the bare loop over wireguard/tun's Device.Read and Write: super-packets split and put together again", tun: true, start: startWireguard},
	{name: "haproxy", what: "mode tcp, its default of a thread per CPU", start: startHAProxy},
	{name: "nginx", what: "stream, worker_processes auto (one per CPU)", start: startNginx},
	{name: "bridge", what: "client and server on one segment, the kernel's bridge between them", segment: true, direct: true, start: startBridge},
	{name: "dr", what: "direct routing over one TAP in that bridge", tun: true, segment: true, start: startDR},
	{name: "bare-dr", what: "the bare loop over one TAP in the bridge: MACs changed, no table, no checks, no ARP", tun: true, segment: true, start: startBareDR},
	{name: "dr-packet", what: "direct routing over a packet socket on the LB's interface, which is plugged into the bridge", segment: true, start: startDRPacket},
	{name: "dr-inline", what: "direct routing between two bridges, over a TAP in each: answers pass it as well", tun: true, segment: true, start: startDRInline},
}

// missingError says why a subject can't be had on this machine.
type missingError struct{ why string }

func (e *missingError) Error() string { return e.why }

func missing(format string, args ...any) error { return &missingError{fmt.Sprintf(format, args...)} }

// program finds a program which ordinary users may not have in their PATH.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range [...]string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", missing("%s is not installed", name)
}

var (
	clientAddr = netip.MustParsePrefix("198.51.100.7/24")
	outerAddr  = netip.MustParsePrefix("198.51.100.1/24")
	innerAddr  = netip.MustParsePrefix("192.168.0.100/24")
	serverAddr = netip.MustParsePrefix("192.168.0.10/24")
	tunAddr    = netip.MustParsePrefix("10.255.0.1/30") // the kernel's end of the TUN
	vip        = netip.MustParseAddrPort("203.0.113.22:80")
	server     = netip.MustParseAddrPort("192.168.0.10:8080")
	everywhere = netip.MustParsePrefix("0.0.0.0/0")
)

// stand is a subject set up and ready. Whoever called setUp closes it.
type stand struct {
	subject
	dir                   string // for its files
	clientNS, lb, serveNS *netns.NS
	client, server        *child
	process               *process // the subject's, nil if it is in the kernel
	stranded              int      // connections whose end the server has not heard of
	version               string
	profile               string // where tunlb writes a CPU profile, if it is to
	closers               []func() error
}

func (s *stand) describe() string {
	text := s.what
	if s.version != "" {
		text += "; " + s.version
	}
	return s.name + ": " + text
}

// realServer is where the server listens.
func (s subject) realServer() netip.AddrPort {
	if s.segment {
		return neighbour
	}
	return server
}

func setUp(ctx context.Context, sub subject, o options) (_ *stand, err error) {
	s := &stand{subject: sub, dir: filepath.Join(o.dir, sub.name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if sub.tun {
		if err := netns.CheckTUN(); err != nil {
			return nil, missing("%v", err)
		}
	}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	if err := s.makeNetwork(); err != nil {
		return nil, err
	}
	if err := s.setCongestion(o.congestion); err != nil {
		return nil, err
	}
	if err := sub.start(ctx, s, o); err != nil {
		return nil, err
	}
	if s.server, err = startChild(s.serveNS, childServer, sub.realServer().String()); err != nil {
		return nil, err
	}
	target := vip
	if sub.direct {
		target = sub.realServer()
	}
	if err := s.awaitWay(ctx, target); err != nil {
		return nil, err
	}
	s.client, err = startChild(s.clientNS, childClient, target.String())
	return s, err
}

func (s *stand) makeNetwork() error {
	for _, n := range [...]struct {
		ns   **netns.NS
		name string
	}{{&s.clientNS, "client"}, {&s.lb, "lb"}, {&s.serveNS, "server"}} {
		ns, err := netns.New(s.name + " " + n.name)
		if err != nil {
			return err
		}
		*n.ns = ns
		s.closers = append(s.closers, ns.Close)
	}
	if s.router || s.segment {
		return nil // the subject joins the two when it starts
	}
	for _, link := range [...][2]netns.End{
		{{NS: s.clientNS, Name: "eth0", Addresses: []netip.Prefix{clientAddr}}, {NS: s.lb, Name: "outer", Addresses: []netip.Prefix{outerAddr}}},
		{{NS: s.lb, Name: "inner", Addresses: []netip.Prefix{innerAddr}}, {NS: s.serveNS, Name: "eth0", Addresses: []netip.Prefix{serverAddr}}},
	} {
		if err := netns.Connect(link[0], link[1]); err != nil {
			return err
		}
	}
	return errors.Join(
		s.clientNS.AddRoute(netns.Route{To: everywhere, Via: outerAddr.Addr()}),
		s.serveNS.AddRoute(netns.Route{To: everywhere, Via: innerAddr.Addr()}),
		s.lb.Sysctl("ipv4/ip_forward", "1"),
	)
}

// setCongestion is for all three: proxies send on their own.
func (s *stand) setCongestion(name string) error {
	if name == "" {
		return nil
	}
	for _, ns := range [...]*netns.NS{s.clientNS, s.lb, s.serveNS} {
		if err := ns.Sysctl("ipv4/tcp_congestion_control", name); err != nil {
			return fmt.Errorf("%w: -congestion takes one of net.ipv4.tcp_allowed_congestion_control, reno always", err)
		}
	}
	return nil
}

// awaitWay waits until the subject lets a connection through.
func (s *stand) awaitWay(ctx context.Context, target netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		c, err := s.clientNS.DialContext(try, "tcp", target.String())
		if err == nil {
			_, err = fmt.Fprint(c, requestClose)
			if err == nil {
				_, err = c.Read(make([]byte, 1)) // HAProxy and nginx accept before they know of the server
			}
			c.Close()
		}
		cancel()
		if err == nil {
			return nil
		}
		if alive := s.process.alive(); alive != nil {
			if s.process.cannot() {
				return missing("%v", alive)
			}
			return alive
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nobody answers at %s: %w%s", target, err, s.process.said())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// close ends the processes with their namespaces.
func (s *stand) close() error {
	var errs []error
	for _, c := range [...]*child{s.client, s.server} {
		if c != nil {
			errs = append(errs, c.close())
		}
	}
	if s.process != nil && s.profile != "" {
		errs = append(errs, s.process.end())
	}
	if s.process != nil {
		s.process.Kill()
	}
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

// write puts a file into the stand's directory.
func (s *stand) write(name, text string) (path string, err error) {
	path = filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(strings.TrimLeft(text, "\n")), 0o644)
}
