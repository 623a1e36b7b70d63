package kernel

import (
	"errors"
	"fmt"
	"math"
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
	// lastPort is the last one that a rule can name: FIB rules take no range that ends with 65535.
	lastPort = 65534

	prefDeviceLocal = 7410
	prefDevice      = 7411
	prefOthers      = 7429
	prefVIP         = 7430
	prefMasquerade  = 7431
	prefAllTCP      = 7432
	prefLocal       = 7440
	prefReplies     = 7441 // behind the local table: the answers to the box itself are none of ours
	prefAllReplies  = 7442
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
		if last < first || first == 0 && last > 0 {
			bad("%v: ports %d to %d: want 1 to 65535, the lower one first, or 0 to 0 for all", what, first, last)
		}
	}
	for _, v := range s.VIPs {
		if !v.Addr.IsValid() || v.Addr.Is4In6() {
			bad("VIP %v: not an IPv4 or IPv6 address", v.Addr)
		}
		for _, p := range v.Ports {
			port(v.Addr, p.Proto, p.First, p.Last)
		}
	}
	for _, v := range s.Servers {
		if !v.Addr.IsValid() || v.Addr.Is4In6() {
			bad("server %v: not an IPv4 or IPv6 address", v.Addr)
		}
		port(v.Addr, v.Proto, v.First, v.Last)
	}
	for _, g := range s.Gateways {
		if !g.Inside.IsValid() || g.Inside.Addr().Is4In6() || g.Inside.Addr().BitLen() != g.Masquerade.BitLen() {
			bad("gateway for %v, masquerade %v: a prefix and an address of one family are needed", g.Inside, g.Masquerade)
		}
		if g.FirstPort == 0 || g.LastPort < g.FirstPort || g.LastPort > lastPort {
			bad("%v: ports %d to %d: the kernel's rules know ports 1 to %d", g.Masquerade, g.FirstPort, g.LastPort, lastPort)
		}
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
		slices.ContainsFunc(s.Servers, func(v Server) bool { return is(v.Addr) }) ||
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
	planned map[object]bool // the rules once more: a thousand servers have as many
	taken   []taken
	lost    map[uint8]bool // protocols in which packets for the box's own sockets go to the device
	early   bool           // some rules must stand before `lookup local`
	moved   bool           // so the kernel's own at 0 gives up its place to ours
}

// taken are the ports of one protocol that are led to the device at an address of the box's own.
type taken struct {
	own   netip.Addr
	proto uint8
	ports []ports
	whole bool // all of the protocol is led there
}

// objects are all that is planned, in the order of adding.
func (p planner) objects() []object { return slices.Concat(p.routes, p.proxies, p.rules) }

// plan finds the routes, proxies and rules that s needs in one family.
func (s State) plan(family uint8, f facts) planner {
	p := planner{family: family, icmp: unix.IPPROTO_ICMP, facts: f, planned: map[object]bool{}, lost: map[uint8]bool{}}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == unix.AF_INET6 {
		p.icmp, all = unix.IPPROTO_ICMPV6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	p.routes = []object{route{dst: all, table: table, dev: s.Device, index: f.index}}
	p.rule(prefLanding, rule{action: nl.FR_ACT_NOP})
	p.rule(prefDeviceLocal, rule{iif: s.Device, table: unix.RT_TABLE_LOCAL})
	p.rule(prefDevice, rule{iif: s.Device, action: nl.FR_ACT_GOTO, target: prefLanding})
	p.servers(s.Servers)
	for _, vip := range s.VIPs {
		p.vip(vip)
	}
	for _, g := range s.Gateways {
		p.gateway(g)
	}
	p.others()
	// Only a rule that is there can be moved: who deleted it wants it elsewhere.
	if p.moved = p.early && p.localFirst; p.moved {
		p.rule(prefLocal, rule{table: unix.RT_TABLE_LOCAL})
	}
	// Exceptions are added before what they are exceptions from, and the landing of goto before all.
	slices.SortStableFunc(p.rules[1:], func(a, b object) int { return int(a.(rule).pref) - int(b.(rule).pref) })
	return p
}

// servers leads the servers' answers to the device, and the ICMP errors that they send. A packet passes the rules one by
// one, at 20 ns each: servers that answer from the same ports and fill a prefix have one rule.
func (p *planner) servers(list []Server) {
	var kinds []rule
	from := map[rule][]netip.Addr{}
	for _, s := range list {
		if familyOf(s.Addr) != p.family {
			continue
		}
		kind := rule{proto: s.Proto, sport: ports{s.First, s.Last}.named(s.Proto)}
		if from[kind] == nil {
			kinds = append(kinds, kind)
		}
		from[kind] = append(from[kind], s.Addr)
	}
	for _, answers := range kinds {
		for _, answers.from = range cover(from[answers]) {
			p.rule(answers.apart(prefReplies, prefAllReplies), answers)
		}
		p.errors()
	}
}

// cover finds the prefixes that have these addresses and no others.
func cover(addrs []netip.Addr) []netip.Prefix {
	slices.SortFunc(addrs, netip.Addr.Compare)
	var list []netip.Prefix
	for _, a := range slices.Compact(addrs) {
		list = append(list, single(a))
		for n := len(list); n > 1; n-- {
			whole := netip.PrefixFrom(list[n-2].Addr(), list[n-1].Bits()-1)
			if list[n-2].Bits() != list[n-1].Bits() || whole.Masked() != whole || !whole.Contains(list[n-1].Addr()) {
				break
			}
			list = append(list[:n-2], whole) // its two halves are there
		}
	}
	return list
}

// apart is the preference for a rule: one of its own if it is for all ports where others may be for some. The kernel
// deletes the first rule of a preference that has all of what it is told, and more may it have: told to delete the rule
// for all ports it would take one for some.
func (r rule) apart(some, all uint32) uint32 {
	if r.proto == unix.IPPROTO_TCP && r.sport == (ports{}) && r.dport == (ports{}) {
		return all
	}
	return some
}

// named are the ports as a rule can name them. None, which is the whole protocol, where it can't: UDP has fragments,
// which carry no ports, not even the first in the eyes of a rule; and no rule knows the last port.
func (p ports) named(proto uint8) ports {
	if proto == unix.IPPROTO_UDP || p.last > lastPort {
		return ports{}
	}
	return p
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
		p.take(prefVIP, v.Addr, s.Proto, ports{s.First, s.Last})
		p.lost[s.Proto] = p.lost[s.Proto] || s.First != s.Last || s.First == 0 // the box's sockets may be on one of many ports
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
		p.take(prefMasquerade, g.Masquerade, unix.IPPROTO_TCP, ports{g.FirstPort, g.LastPort})
		p.take(prefMasquerade, g.Masquerade, unix.IPPROTO_UDP, ports{g.FirstPort, g.LastPort})
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

// take leads ports of an own address to the device.
func (p *planner) take(pref uint32, own netip.Addr, proto uint8, used ports) {
	requests := rule{to: single(own), proto: proto, dport: used.named(proto)}
	p.rule(requests.apart(pref, prefAllTCP), requests)
	i := slices.IndexFunc(p.taken, func(t taken) bool { return t.own == own && t.proto == proto })
	if i < 0 {
		i, p.taken = len(p.taken), append(p.taken, taken{own: own, proto: proto})
	}
	if used == (ports{}) {
		used = ports{1, math.MaxUint16}
	}
	t := &p.taken[i]
	t.ports, t.whole = append(t.ports, used), t.whole || requests.dport == ports{}
}

// others leaves to the box, where a protocol is led to the device as a whole, what shows a port that is none of those
// that count: what a socket of the box waits for is lost on the way to the device.
func (p *planner) others() {
	for _, t := range p.taken {
		if !t.whole {
			continue
		}
		slices.SortFunc(t.ports, func(a, b ports) int { return int(a.first) - int(b.first) })
		next := 1
		for _, used := range append(t.ports, ports{lastPort + 1, lastPort + 1}) { // which no rule knows
			if next < int(used.first) {
				gap := ports{uint16(next), used.first - 1}
				p.rule(prefOthers, rule{to: single(t.own), proto: t.proto, dport: gap, table: unix.RT_TABLE_LOCAL})
			}
			next = max(next, int(used.last)+1)
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
	if !p.planned[r] {
		p.planned[r] = true
		p.rules = append(p.rules, r)
	}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
