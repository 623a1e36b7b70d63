package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of this package. The package doc has the table of the preferences.
const (
	// protocol marks as ours every rule, route, address and proxy neighbour that we add. Nobody else's in
	// /etc/iproute2/rt_protos.
	protocol = 174
	// table is our own routing table.
	table = 7474

	prefDeviceLocal = 7410
	prefDevice      = 7411
	prefOtherUDP    = 7429
	prefVIP         = 7430
	prefMasquerade  = 7431
	prefLocal       = 7440
	prefReplies     = 7441 // behind the local table: the answers to the box itself are none of ours
	prefBox         = 7449
	prefErrors      = 7450
	prefInside      = 7461
	prefOutbound    = 7462
	prefNotes       = 7480 // and the following
	prefLanding     = 7499
)

// check says what of s no kernel can do.
func (s State) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if (s.Device == "" && !s.empty()) || len(s.Device) >= unix.IFNAMSIZ {
		bad("device %q: a name of 1 to %d characters is needed", s.Device, unix.IFNAMSIZ-1)
	}
	if s.Silent && s.Foreign || (s.Silent || s.Foreign) && (s.Device == "" || s.Routed || !s.empty()) {
		bad("device %q: Silent or Foreign, but not both, go with a device and nothing else", s.Device)
	}
	if len(s.Absent) > 0 && !s.Silent && !s.Foreign || s.Alone && !s.Foreign {
		bad("device %q: Absent goes with Silent or Foreign, Alone with Foreign", s.Device)
	}
	for _, a := range s.Absent {
		if !a.IsValid() || a.Is4In6() {
			bad("absent address %v: not an IPv4 or IPv6 address", a)
		}
	}
	for _, p := range slices.Concat(s.Addresses, s.Routes) {
		if !p.IsValid() || p.Addr().Is4In6() {
			bad("address or route %v: not an IPv4 or IPv6 prefix", p)
		}
	}
	port := func(what any, proto uint8, first, last uint16) {
		if proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_UDP {
			bad("%v: protocol %d is neither TCP (6) nor UDP (17)", what, proto)
		}
		if first == 0 || last < first || last > 65534 {
			bad("%v: ports %d to %d: the kernel's rules know ports 1 to 65534", what, first, last)
		}
	}
	for _, v := range s.VIPs {
		if !v.Addr.IsValid() || v.Addr.Is4In6() {
			bad("VIP %v: not an IPv4 or IPv6 address", v.Addr)
		}
		for _, p := range v.Ports {
			port(v.Addr, p.Proto, p.Port, p.Port)
		}
	}
	for _, v := range s.Servers {
		if !v.Addr.IsValid() || v.Addr.Addr().Is4In6() {
			bad("server %v: not an IPv4 or IPv6 address and port", v.Addr)
		}
		port(v.Addr, v.Proto, v.Addr.Port(), v.Addr.Port())
	}
	for _, g := range s.Gateways {
		if !g.Inside.IsValid() || g.Inside.Addr().Is4In6() || g.Inside.Addr().BitLen() != g.Masquerade.BitLen() {
			bad("gateway for %v, masquerade %v: a prefix and an address of one family are needed", g.Inside, g.Masquerade)
		}
		port(g.Masquerade, unix.IPPROTO_TCP, g.FirstPort, g.LastPort)
	}
	return errors.Join(errs...)
}

func (s State) empty() bool {
	return len(s.Addresses)+len(s.Routes)+len(s.VIPs)+len(s.Servers)+len(s.Gateways) == 0
}

// uses says whether anything of s is of family.
func (s State) uses(family uint8) bool {
	is := func(a netip.Addr) bool { return familyOf(a) == family }
	return slices.ContainsFunc(slices.Concat(s.Addresses, s.Routes), func(p netip.Prefix) bool { return is(p.Addr()) }) ||
		slices.ContainsFunc(s.VIPs, func(v VIP) bool { return is(v.Addr) }) ||
		slices.ContainsFunc(s.Servers, func(v Server) bool { return is(v.Addr.Addr()) }) ||
		slices.ContainsFunc(s.Gateways, func(g Gateway) bool { return is(g.Inside.Addr()) })
}

// facts are what the plan must know of the namespace, family by family.
type facts struct {
	// index is the device's.
	index int
	// local are the prefixes that `lookup local` delivers to the box.
	local []netip.Prefix
	// neighbours are the devices with neighbour discovery, by the address that they have. IPv6 only.
	neighbours map[netip.Addr][]proxy
	// obstacle is a `lookup local` of somebody else before our rules' end; the zero rule is none.
	obstacle rule
	// localFirst says that the kernel's `lookup local` stands at preference 0, or did until we moved it.
	localFirst bool
}

func (f facts) own(a netip.Addr) bool {
	return slices.ContainsFunc(f.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// planner collects what a state needs in one family.
type planner struct {
	family uint8
	icmp   uint8 // the family's ICMP
	facts

	routes  []object
	proxies []object
	rules   []object
	whole   []datagrams
	early   bool // some rules must stand before `lookup local`
	moved   bool // so the kernel's own at 0 gives up its place to ours
}

// datagrams are what is led to the device of UDP to an address of the box's own.
type datagrams struct {
	own  netip.Addr
	used []ports
}

// objects are all that is planned, in the order of adding.
func (p planner) objects() []object { return slices.Concat(p.routes, p.proxies, p.rules) }

// plan finds the routes, proxies and rules that s needs in one family.
func (s State) plan(family uint8, f facts) planner {
	p := planner{family: family, icmp: unix.IPPROTO_ICMP, facts: f}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == unix.AF_INET6 {
		p.icmp, all = unix.IPPROTO_ICMPV6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	p.routes = []object{route{dst: all, table: table, dev: s.Device, index: f.index}}
	p.rule(prefLanding, rule{action: nl.FR_ACT_NOP})
	p.rule(prefDeviceLocal, rule{iif: s.Device, table: unix.RT_TABLE_LOCAL})
	p.rule(prefDevice, rule{iif: s.Device, action: nl.FR_ACT_GOTO, target: prefLanding})
	for _, server := range s.Servers {
		p.server(server)
	}
	for _, vip := range s.VIPs {
		p.vip(vip)
	}
	for _, g := range s.Gateways {
		p.gateway(g)
	}
	p.otherUDP()
	// Only a rule that is there can be moved: who deleted it wants it elsewhere.
	if p.moved = p.early && p.localFirst; p.moved {
		p.rule(prefLocal, rule{table: unix.RT_TABLE_LOCAL})
	}
	return p
}

// server leads the server's answers to the device, and the ICMP errors that it sends.
func (p *planner) server(s Server) {
	from := single(s.Addr.Addr())
	if familyOf(s.Addr.Addr()) != p.family {
		return
	}
	answers := rule{from: from, proto: s.Proto}
	if s.Proto != unix.IPPROTO_UDP { // fragments carry no ports, not even the first in the eyes of a rule
		answers.sport = ports{s.Addr.Port(), s.Addr.Port()}
	}
	p.rule(prefReplies, answers)
	p.errors()
}

// errors leads the ICMP that the box forwards to the device: an error about a translated packet comes from any
// router on the way. What the box itself sends, its own pings, is left alone.
func (p *planner) errors() {
	p.rule(prefBox, rule{iif: "lo", action: nl.FR_ACT_GOTO, target: prefLanding})
	p.rule(prefErrors, rule{proto: p.icmp})
}

// vip leads the virtual address to the device: all of it, or just its services where the box itself has it.
func (p *planner) vip(v VIP) {
	if familyOf(v.Addr) != p.family {
		return
	}
	to := single(v.Addr)
	if !p.own(v.Addr) {
		p.rule(prefVIP, rule{to: to})
		return
	}
	for _, s := range v.Ports {
		requests := rule{to: to, proto: s.Proto}
		if s.Proto != unix.IPPROTO_UDP { // fragments, as above
			requests.dport = ports{s.Port, s.Port}
		} else {
			p.udp(v.Addr, ports{s.Port, s.Port})
		}
		p.rule(prefVIP, requests)
	}
	p.beforeLocal(prefVIP, v.Addr)
}

// gateway leads what g's inside sends to the outside to the device, and the answers.
func (p *planner) gateway(g Gateway) {
	if familyOf(g.Inside.Addr()) != p.family {
		return
	}
	to, inside := single(g.Masquerade), g.Inside.Masked()
	if p.own(g.Masquerade) {
		p.rule(prefMasquerade, rule{to: to, proto: unix.IPPROTO_TCP, dport: ports{g.FirstPort, g.LastPort}})
		p.rule(prefMasquerade, rule{to: to, proto: unix.IPPROTO_UDP}) // fragments, as above
		p.udp(g.Masquerade, ports{g.FirstPort, g.LastPort})
		p.beforeLocal(prefMasquerade, g.Masquerade)
	} else {
		p.rule(prefMasquerade, rule{to: to})
	}
	p.errors()
	p.rule(prefInside, rule{to: inside, action: nl.FR_ACT_GOTO, target: prefLanding})
	p.rule(prefOutbound, rule{from: inside})
}

// beforeLocal leads ICMP for an own address to the device, moves `lookup local` behind all that is led
// there, and sees to it that neighbour discovery for the address still reaches the box.
func (p *planner) beforeLocal(pref uint32, own netip.Addr) {
	p.early = true
	p.rule(pref, rule{to: single(own), proto: p.icmp})
	for _, n := range p.neighbours[own] {
		if !slices.Contains(p.proxies, object(n)) {
			p.proxies = append(p.proxies, n)
		}
	}
}

// udp notes which ports of an own address count, where UDP is led to the device as a whole.
func (p *planner) udp(own netip.Addr, used ports) {
	i := slices.IndexFunc(p.whole, func(d datagrams) bool { return d.own == own })
	if i < 0 {
		i, p.whole = len(p.whole), append(p.whole, datagrams{own: own})
	}
	p.whole[i].used = append(p.whole[i].used, used)
}

// otherUDP leaves to the box the datagrams whose port can be seen and is none of those that count: what a connected
// socket of the box waits for is lost on the way to the device.
func (p *planner) otherUDP() {
	for _, d := range p.whole {
		slices.SortFunc(d.used, func(a, b ports) int { return int(a.first) - int(b.first) })
		next := uint16(1)
		for _, used := range append(d.used, ports{first: 65535}) { // which no rule knows
			if next < used.first {
				p.rule(prefOtherUDP, rule{to: single(d.own), proto: unix.IPPROTO_UDP, dport: ports{next, used.first - 1}, table: unix.RT_TABLE_LOCAL})
			}
			next = max(next, used.last+1)
		}
	}
}

// rule adds r at pref, once; where r says nothing else it is a lookup in our table.
func (p *planner) rule(pref uint32, r rule) {
	r.family, r.pref, r.protocol = p.family, pref, protocol
	if r.action == 0 {
		r.action = nl.FR_ACT_TO_TBL
		if r.table == 0 {
			r.table = table
		}
	}
	if !slices.Contains(p.rules, object(r)) {
		p.rules = append(p.rules, r)
	}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
