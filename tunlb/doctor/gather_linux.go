package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/nft"
	"github.com/tunlb/tunlb/tunlb/control"
)

// Addresses of the outside world, to ask for the default route. Nothing is sent to them.
var (
	everywhere4 = netip.MustParseAddr("1.1.1.1")
	everywhere6 = netip.MustParseAddr("2606:4700:4700::1111")
)

// gather finds the facts in this order: the machine, the namespaces, the ways into the box, the servers.
func (f *facts) gather(ctx context.Context) error {
	f.tun = lookAtTUN()
	f.caps = lookAtCapabilities()
	f.userns = lookAtUserNamespaces(f.caps.userns)
	f.kernel = release()
	f.spaces[""] = lookInto("")
	if err := f.spaces[""].err; err != nil {
		return err
	}
	f.metrics = f.lookAtMetrics(ctx)
	for _, p := range f.ports() {
		if f.spaces[p.NetNS] == nil {
			f.spaces[p.NetNS] = lookInto(p.NetNS)
		}
	}
	f.filter = f.tryFilter()
	if f.boxTUN() == nil && len(f.boxPorts()) == 0 {
		return nil
	}
	f.findServers()
	f.findIngress()
	f.askEntries()
	f.askServers()
	f.dial(ctx)
	return f.lookAtNeighbours()
}

// tryFilter tries what a start would need of the packet filter, and undoes it at once.
func (f *facts) tryFilter() (p packetFilter) {
	if f.running() {
		return p
	}
	if len(f.boxPorts()) > 0 {
		guard, err := nft.OpenGuard("")
		if p.guardErr = err; err == nil {
			guard.Close()
		}
	}
	if f.carries() {
		carrier, err := nft.OpenCarrier("", 1)
		if p.carrierErr = err; err == nil {
			carrier.Close()
		}
	}
	return p
}

func lookAtTUN() tunDevice {
	var d tunDevice
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if d.err = err; err == nil {
		unix.Close(fd)
	}
	misc, _ := os.ReadFile("/proc/misc")
	for line := range strings.Lines(string(misc)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] == "tun" {
			d.driver = true
		}
	}
	return d
}

// lookAtCapabilities tries what needs them, in ways that change nothing: a number in /proc does not tell
// whether they are valid for this network namespace.
func lookAtCapabilities() capabilities {
	var c capabilities
	const nobody = 1<<31 - 1 // is no interface's index; who may not change one is told that first
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = nobody
	req.AddData(msg)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); errors.Is(err, unix.EPERM) {
		c.admin = err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0 receives nothing
	if err == nil {
		unix.Close(fd)
	} else if errors.Is(err, unix.EPERM) {
		c.raw = err
	}
	uids, err := os.ReadFile("/proc/self/uid_map")
	c.userns = err == nil && !slices.Equal(strings.Fields(string(uids)), []string{"0", "0", "4294967295"})
	return c
}

// release is the kernel's version.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// lookAtMetrics connects to the endpoint, or before the start listens there for a moment.
func (f *facts) lookAtMetrics(ctx context.Context) (e endpoint) {
	if f.config == nil || f.config.Metrics.Listen == "" {
		return e
	}
	where, network := f.config.Metrics.Listen, "tcp"
	if ap, err := netip.ParseAddrPort(where); err != nil {
		network = "unix"
	} else if ap.Addr().Is4() {
		network = "tcp4"
	}
	if !f.running() {
		if network == "unix" || !errors.Is(f.statusErr, control.ErrNoDaemon) || f.stranger() != "" {
			return e // would leave a socket behind, or be in the way of a daemon that is not known
		}
		l, err := net.Listen(network, where)
		if err == nil {
			l.Close()
		}
		return endpoint{true, err}
	}
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, where)
	if err == nil {
		conn.Close()
	}
	return endpoint{true, err}
}

// findServers lists those that the box reaches, and the routes to them.
func (f *facts) findServers() {
	for _, svc := range f.boxed() {
		for _, s := range svc.Servers {
			if len(f.servers) == maxAsked {
				return
			}
			place, a := somewhere(svc), s.Address
			if a.Port() == 0 {
				a = netip.AddrPortFrom(a.Addr(), place.First)
			}
			f.servers = append(f.servers, server{
				service: svc.Name, name: s.Name, addr: a, proto: place.Proto, anyPort: s.Address.Port() == 0, direct: s.Mode == policy.DR,
				route: f.box().whereTo(question{to: a.Addr()}),
			})
		}
	}
}

// findIngress finds where clients' packets come into the box: from known clients, by the default routes, by
// the networks of the VIPs; or else by any network without servers.
func (f *facts) findIngress() {
	box := f.box()
	add := func(device string, from netip.Addr, real bool) {
		dev := box.link(device)
		if dev == nil || dev.loopback || device == f.tunName() || len(f.ingress) == maxIngress ||
			!slices.Contains(familiesOf(f.boxed()), family(from)) ||
			slices.ContainsFunc(f.ingress, func(i ingress) bool { return i.device == device && family(i.from) == family(from) }) {
			return
		}
		f.ingress = append(f.ingress, ingress{device, from, real})
	}
	for _, from := range []netip.Addr{everywhere4, everywhere6} {
		if a := box.whereTo(question{to: from}); a.err == nil && !a.local {
			add(a.device, from, false)
		}
	}
	asked := map[netip.Addr]bool{}
	for _, c := range f.conns {
		if from := c.Client.Addr(); len(asked) < maxAsked && !asked[from] {
			asked[from] = true
			if a := box.whereTo(question{to: from}); a.err == nil && !a.local {
				add(a.device, from, true)
			}
		}
	}
	for _, vip := range vips(f.boxed()) {
		for _, a := range box.addresses {
			if a.prefix.Contains(vip) {
				box.eachPeer(a.device, func(from netip.Addr) { add(a.device, from, false) })
			}
		}
	}
	if len(f.ingress) > 0 {
		return
	}
	for _, dev := range box.links {
		if dev.ethernet && dev.up && !slices.ContainsFunc(f.servers, func(s server) bool { return s.route.device == dev.name }) {
			box.eachPeer(dev.name, func(from netip.Addr) { add(dev.name, from, false) })
		}
	}
}

// eachPeer calls visit with an address of somebody else for every network of a device.
func (s *space) eachPeer(device string, visit func(netip.Addr)) {
	for _, a := range s.addresses {
		if a.device != device || a.prefix.IsSingleIP() || a.prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		for peer := a.prefix.Masked().Addr().Next(); a.prefix.Contains(peer); peer = peer.Next() {
			if s.owner(peer) == "" {
				visit(peer)
				break
			}
		}
	}
}

const clientPort = 40000 // somebody's

// askEntries asks where requests would go.
func (f *facts) askEntries() {
	if !f.running() {
		return
	}
	for _, svc := range f.routed() {
		for _, i := range f.ingress {
			l := somewhere(svc)
			if family(i.from) != family(l.Addr) || len(f.entries) == maxAsked {
				continue
			}
			q := question{from: i.from, to: l.Addr, iif: i.device, proto: l.Proto, sport: clientPort, dport: l.First}
			f.entries = append(f.entries, entry{svc.Name, q, f.box().whereTo(q)})
		}
	}
}

// askServers asks where what tunlb writes and what servers answer would go.
func (f *facts) askServers() {
	if !f.running() || f.boxTUN() != nil && f.box().link(f.tunName()) == nil {
		return
	}
	for i := range f.servers {
		s := &f.servers[i]
		n := slices.IndexFunc(f.ingress, func(i ingress) bool { return family(i.from) == family(s.addr.Addr()) })
		if n < 0 || s.route.err != nil || s.route.local || s.direct || f.boxTUN() == nil {
			s.written = s.route
			continue
		}
		client := f.ingress[n].from
		s.written = f.box().whereTo(question{from: client, to: s.addr.Addr(), iif: f.boxTUN().Name, proto: s.proto, sport: clientPort, dport: s.addr.Port()})
		q := question{from: s.addr.Addr(), to: client, iif: s.route.device, proto: s.proto, sport: s.addr.Port(), dport: clientPort}
		if s.route.device != f.boxTUN().Name {
			s.reply, s.replied = entry{s.String(), q, f.box().whereTo(q)}, true
			q.to = s.route.source
			own := f.box().whereTo(q)
			s.hidden = own.err == nil && !own.local && f.box().number("ipv4/tcp_early_demux") == 1
		}
	}
}

// dial opens a connection to every server, all at once, and closes it. It has the kernel look for them on
// their links, and tells whether they take connections.
func (f *facts) dial(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range f.servers {
		s := &f.servers[i]
		if s.route.err != nil || s.route.local || s.route.device == f.tunName() {
			continue
		}
		wg.Go(func() { // ends with ctx
			var dialer net.Dialer
			dialer.SetMultipathTCP(false)
			conn, err := dialer.DialContext(ctx, "tcp", s.addr.String())
			if s.dialed, s.dialErr = true, err; err == nil {
				conn.Close()
			}
		})
	}
	wg.Wait()
}

// lookAtNeighbours says what has become of the neighbours by then.
func (f *facts) lookAtNeighbours() error {
	box := f.box()
	if err := box.readNeighbours(); err != nil {
		return err
	}
	for i := range f.servers {
		s := &f.servers[i]
		for _, n := range box.neighbours {
			if n.addr == s.nextHop() && n.device == s.route.device {
				s.state = n.state
			}
		}
		if s.dialed && (s.dialErr == nil || errors.Is(s.dialErr, unix.ECONNREFUSED)) {
			s.state = "reachable" // whatever the kernel still has to find out
		}
	}
	return nil
}

// sameFile says whether two names are of one file.
func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
