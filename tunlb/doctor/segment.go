package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
)

// What is peculiar to Ethernet segments and direct routing.

type (
	portStatus    = tunlb.PortStatus
	segmentStatus = tunlb.SegmentStatus
)

// segments are what the daemon tells of them.
func (f *facts) segments() []segmentStatus {
	if !f.running() {
		return nil
	}
	return f.status.Segments
}

// direct are the directly routed services.
func (f *facts) direct() (list []policy.Spec) {
	for _, s := range f.services() {
		if slices.ContainsFunc(s.Servers, isDirect) {
			list = append(list, s)
		}
	}
	return list
}

func isDirect(s policy.ServerSpec) bool { return s.Mode == policy.DR }

// segmentNeighbours finds servers and routers that do not answer tunlb's own requests.
func (f *facts) segmentNeighbours() (l findings) {
	reported := map[netip.Addr]bool{}
	for _, segment := range f.segments() {
		for _, n := range segment.Neighbours {
			if !silent(n.State) {
				continue
			}
			reported[n.Address] = true
			protocol := map[int]string{4: "ARP", 6: "neighbour discovery"}[family(n.Address)]
			if n.Server == "" {
				l.add(Warn, n.Address.String(), fmt.Sprintf("%s neigh show %s  # on another host of the segment", ip(family(n.Address)), n.Address), "does not answer %s on %s (%s)", protocol, strings.Join(segment.Ports, ", "), n.State)
				continue
			}
			l.add(Fail, n.Server, fmt.Sprintf("%s addr show to %s  # on %s: its interface has to be up and have the address", ip(family(n.Address)), n.Address, n.Server),
				"%s does not answer %s on %s (%s): it is off, or has another address, or is on another link", n.Address, protocol, strings.Join(segment.Ports, ", "), n.State)
		}
	}
	if !f.running() {
		return l
	}
	for _, svc := range f.status.Services {
		for _, srv := range svc.Servers {
			if addr := srv.Address.Addr(); srv.Down != "" && !reported[addr] && !f.isDown(addr) {
				reported[addr] = true
				l.add(Fail, svc.Name+"/"+srv.Name, "ping -c 1 "+addr.String()+"  # on another host of the segment", "gets no new connections: %s", srv.Down)
			}
		}
	}
	return l
}

// settled is how long a claim is not heard that has ended: tunlb asks every 5 s who else has an address that
// somebody has claimed.
const settled = 15 * time.Second

// checkARP looks for others that answer for tunlb's addresses: stations of the segment, and the box's own kernel.
func checkARP(f *facts) []Finding {
	var l findings
	for _, segment := range f.segments() {
		for _, c := range segment.Conflicts {
			who := c.Server
			if i := slices.IndexFunc(segment.Neighbours, func(n tunlb.NeighbourStatus) bool { return n.Server != "" && n.MAC == c.MAC.String() }); who == "" && i >= 0 {
				who = segment.Neighbours[i].Server // found out since the claim was heard
			}
			if who == "" {
				who = "a station"
			}
			if c.Age > settled {
				l.add(Note, c.VIP.String(), "", "%s (%s) claimed it on %s, %s, but not in the last %v", who, c.MAC, c.Port, count(c.Count, "time"), c.Age.Round(time.Second))
				continue
			}
			l.add(Fail, c.VIP.String(), c.Fix, "%s (%s) claims it on %s (%s, %s): clients that believe it get past tunlb", who, c.MAC, c.Port, c.Kind, count(c.Count, "time"))
		}
	}
	l.boxAddresses(f)
	if len(f.direct()) == 0 || len(f.segments()) == 0 || !f.watched() {
		return l
	}
	return l.orOK("VIPs", "nobody but tunlb is known to answer for them")
}

// boxAddresses finds those of tunlb's addresses on its segments that the box has.
func (l *findings) boxAddresses(f *facts) {
	if f.config == nil {
		return
	}
	seen := map[string]bool{} // the ports of a segment may be in one namespace
	for _, segment := range f.config.Segments() {
		for _, i := range segment.Ports {
			p := f.config.Ports[i]
			s := f.spaces[p.NetNS]
			if s == nil || s.err != nil {
				continue
			}
			first := func(a netip.Addr) bool {
				key := at(p.NetNS, a.String())
				before := seen[key]
				seen[key] = true
				return !before
			}
			here := func(srv policy.ServerSpec) bool { return isDirect(srv) && segment.OnLink(srv.Address.Addr()) }
			elsewhere := func(svc policy.Spec) bool { return !slices.ContainsFunc(svc.Servers, here) }
			for _, vip := range vips(slices.DeleteFunc(f.direct(), elsewhere)) {
				if first(vip) {
					l.boxHasVIP(s, p, vip)
				}
			}
			for _, j := range segment.Ports {
				for _, own := range f.config.Ports[j].Own {
					if first(own.Addr()) {
						l.boxHasOwn(f, s, p, f.config.Ports[j], own)
					}
				}
			}
		}
	}
}

// inTheWay finds an address that the kernel at a port has and must not have: on any interface but lo, which
// tunlb refuses (package stack/kernel), and on lo if the kernel answers for it. It answers on the device where the
// address is, and with arp_ignore 0 on every other one as well; for those of IPv6 on lo it does not.
func (s *space) inTheWay(p config.Port, addr netip.Addr) (a address, answers string, found bool) {
	device := p.Name
	if p.Type == config.TAP {
		if device = p.Bridge; device == "" && s.link(p.Name) != nil {
			device = s.link(p.Name).master // by somebody's hand; the TAP itself does not answer
		}
	}
	for _, a := range s.addresses {
		if a.prefix.Addr() != addr {
			continue
		}
		if device != "" && (a.device == device || addr.Is4() && s.effective(device, "arp_ignore") == 0) {
			answers = device
		}
		if a.device != "lo" || answers != "" {
			return a, answers, true
		}
	}
	return address{}, "", false
}

func (l *findings) boxHasVIP(s *space, p config.Port, vip netip.Addr) {
	a, answers, found := s.inTheWay(p, vip)
	if !found {
		return
	}
	fix := in(p.NetNS, fmt.Sprintf("%s addr del %s dev %s", ip(family(vip)), a.prefix, a.device))
	if answers == "" {
		l.add(Fail, at(p.NetNS, a.device), fix, "has the VIP %s: tunlb refuses a box that has it on an interface other than lo", vip)
		return
	}
	l.add(Fail, at(p.NetNS, a.device), fix, "has the VIP %s: this kernel answers for it on %s with a MAC that is not tunlb's", vip, answers)
}

// boxHasOwn is about two hosts with one address. The other one has been there first: the port gets another.
func (l *findings) boxHasOwn(f *facts, s *space, p, owner config.Port, own netip.Prefix) {
	if a, _, found := s.inTheWay(p, own.Addr()); found {
		l.add(Fail, at(p.NetNS, a.device), f.edit(owner, "another address of %s instead of %s", own.Masked(), own.Addr()),
			"has %s, but this is to be tunlb's own on port %s, where it is another host: the box would lose the address or contradict tunlb", own.Addr(), owner.Name)
	}
}

// manyMoves is more than hosts that move between the sides, or links that change over, cause.
const manyMoves = 1000

// loopOver is how long after the last sign of it a loop counts as mended.
const loopOver = 10 * time.Second

// checkLoops looks for a way between the ports of the switch other than tunlb.
func checkLoops(f *facts) []Finding {
	var l findings
	for _, segment := range f.segments() {
		if segment.Loops == 0 && segment.Moves <= manyMoves || segment.LoopAge > loopOver {
			continue
		}
		where := "between the ports"
		if len(segment.Ports) == 1 {
			where = "behind the port"
		}
		l.add(Fail, strings.Join(segment.Ports, ", "), "bridge link  # find the bridge or cable that joins the two sides, and take one port out: ip link set PORT nomaster",
			"there is a loop %s: since the start %s of tunlb's own came back, and stations moved from port to port %s", where, count(segment.Loops, "frame"), count(segment.Moves, "time"))
	}
	if len(f.segments()) == 0 || !f.watched() {
		return l
	}
	return l.orOK("switch", "no frame is known to come back")
}

// checkPassing tells of answers that go through tunlb, and of servers that seem to give none.
func checkPassing(f *facts) []Finding {
	if !f.running() {
		return nil
	}
	var l findings
	asked := false
	for _, svc := range f.status.Services {
		for _, srv := range svc.Servers {
			if srv.Mode != policy.DR.String() || len(svc.Listen) == 0 {
				continue
			}
			asked = asked || srv.Traffic.InPackets > 0
			subject, vip := svc.Name+"/"+srv.Name, svc.Listen[0].Addr
			if waiting := f.halfOpen(svc, srv); waiting >= 2 {
				l.add(Warn, subject, fmt.Sprintf("%s addr add %s dev lo  # on %s", ip(family(vip)), netip.PrefixFrom(vip, vip.BitLen()), srv.Name),
					"%s, and none has come past its first packet: the server probably has not the address %s", count(waiting, "connection"), vip)
			}
			if srv.Passing > 0 {
				l.add(Note, subject, f.routerFix(srv), "%s of its answers came through tunlb, which is its gateway: correct, but they could go straight to the clients", count(srv.Passing, "packet"))
			}
		}
	}
	if !asked || !f.watched() {
		return l
	}
	return l.orOK("servers", "answer past tunlb, as far as can be seen")
}

// halfOpen counts the connections to a server that wait for the client's second step; 0 if one has come further.
func (f *facts) halfOpen(svc tunlb.ServiceStatus, srv tunlb.ServerStatus) (waiting int) {
	for _, c := range f.conns {
		switch {
		case c.Service != svc.Name || c.Server.Addr() != srv.Address.Addr() || c.Protocol != "tcp":
		case c.State != "SYN_RECV":
			return 0
		case c.InBytes > synLen:
			waiting++
		}
	}
	return waiting
}

// routerFix sends a server's answers to the segment's own router, if the file names one.
func (f *facts) routerFix(srv tunlb.ServerStatus) string {
	for _, p := range f.ports() {
		for _, r := range p.Via {
			if r.Prefix.Bits() == 0 && r.Via.Is4() == srv.Address.Addr().Is4() {
				return fmt.Sprintf("%s route replace default via %s  # on %s", ip(family(r.Via)), r.Via, srv.Name)
			}
		}
	}
	return ""
}

// segmentMTU wants one MTU on a segment: no switch tells a sender that a frame is too long.
func (l *findings) segmentMTU(f *facts) (compared bool) {
	var last *link // of the switch's
	for _, p := range f.ports() {
		s := f.spaces[p.NetNS]
		if !p.Ethernet() || s == nil || s.err != nil {
			continue
		}
		if dev := s.link(p.Name); dev != nil {
			compared = compared || p.Side != "" && last != nil
			if p.Side != "" && last != nil && last.mtu != dev.mtu {
				l.add(Warn, at(p.NetNS, p.Name), in(p.NetNS, fmt.Sprintf("ip link set dev %s mtu %d", p.Name, last.mtu)), "has MTU %d, and %s of the same segment %d: longer frames are lost between them without a word", dev.mtu, last.name, last.mtu)
			}
			if p.Side != "" {
				last = dev
			}
		}
		if p.Bridge != "" {
			compared = l.bridgeMTU(f, s, p) || compared
		}
	}
	return compared
}

// bridgeMTU compares a bridge's ports.
func (l *findings) bridgeMTU(f *facts, s *space, p config.Port) (compared bool) {
	mtus := map[int]int{} // how many other members have it
	var members []link
	for _, dev := range s.links {
		if dev.master == p.Bridge && dev.name != p.Name {
			members = append(members, dev)
			mtus[dev.mtu]++
		}
	}
	if len(members) == 0 {
		return false
	}
	usual := slices.MaxFunc(members, func(a, b link) int {
		if n := mtus[a.mtu] - mtus[b.mtu]; n != 0 {
			return n
		}
		return a.mtu - b.mtu
	}).mtu
	for _, dev := range members {
		if dev.mtu != usual {
			l.add(Warn, at(p.NetNS, dev.name), in(p.NetNS, fmt.Sprintf("ip link set dev %s mtu %d", dev.name, usual)), "has MTU %d, the other ports of bridge %s %d: the bridge drops longer frames without a word", dev.mtu, p.Bridge, usual)
		}
	}
	mtu := p.MTU
	if dev := s.link(p.Name); dev != nil && f.running() {
		mtu = dev.mtu
	}
	if mtu != usual {
		l.add(Warn, at(p.NetNS, p.Name), f.edit(p, "`mtu: %d`", usual), "has MTU %d, the other ports of bridge %s %d: the bridge drops longer frames without a word", mtu, p.Bridge, usual)
	}
	return true
}
