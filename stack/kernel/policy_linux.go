package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// lookup is a policy rule for packets of which only the destination is known.
type lookup struct {
	to      netip.Prefix // valid iff limited
	limited bool         // it is about destinations in to
	except  bool         // rather about all but these
	// One of the following: a table, a verdict, or else a jump to another rule of the list.
	table    *bart.Table[*path]
	suppress int // routes whose prefix is not longer don't count; -1: all do
	verdict  *path
	jump     int
}

// policy is a rule on its way to a lookup.
type policy struct {
	lookup
	pref, id, target uint32 // id is the table's, target that of a goto
	action           byte
	when             when
}

// when says whether a rule is about a packet that the box forwards, as far as that does not depend on its destination.
type when byte

const (
	always  when = iota
	unknown      // it depends on the packet's source, interface, protocol, ...
	never        // whatever else it depends on
)

// rules reads the rules of a family, and says which tables are wanted. What tunlb has added is about what comes to tunlb and not
// about what leaves it, but for a local rule that it has moved.
func (r *reader) rules(family uint8) (list []policy, err error) {
	err = r.k.each(unix.RTM_GETRULE, unix.RTM_NEWRULE, func(m []byte) {
		if len(m) < unix.SizeofRtMsg {
			return
		}
		if d, err := decodeRule(m); err != nil || d.protocol == protocol && !d.local() {
			return
		}
		p := decodePolicy(m)
		if p.when == never {
			return
		}
		if p.action == nl.FR_ACT_TO_TBL && p.when == always && r.tables[p.id] == nil {
			r.tables[p.id] = new(bart.Table[*path])
		}
		list = append(list, p)
	}, &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
	if err != nil {
		return nil, fmt.Errorf("list with %s rule: %w", ip(family), err)
	}
	return list, nil
}

// decodePolicy reads struct fib_rule_hdr: family, length of destination and source, TOS, table, reserved (2), action (1 each), flags (4).
func decodePolicy(m []byte) policy {
	p := policy{id: uint32(m[4]), action: m[7]}
	p.suppress = -1
	is := func(w when) { p.when = max(p.when, w) }
	if m[2] != 0 || m[3] != 0 {
		is(unknown)
	}
	var mark uint32
	mask := ^uint32(0)
	for t, v := range attributes(m[unix.SizeofRtMsg:]) {
		switch t {
		case unix.FRA_PRIORITY:
			p.pref = number(v)
		case unix.FRA_TABLE:
			p.id = number(v)
		case unix.FRA_GOTO:
			p.target = number(v)
		case unix.FRA_DST:
			p.to, p.limited = prefix(v, m[1]).Masked(), true
		case unix.FRA_FWMARK:
			mark = number(v)
		case unix.FRA_FWMASK:
			mask = number(v)
		case unix.FRA_SUPPRESS_PREFIXLEN:
			p.suppress = int(int32(number(v)))
		case unix.FRA_SUPPRESS_IFGROUP:
			if int32(number(v)) != -1 {
				is(unknown)
			}
		case unix.FRA_IIFNAME:
			is(unknown)
			if nl.BytesToString(v) == "lo" {
				is(never)
			}
		case unix.FRA_UID_RANGE: // what is forwarded is root's
			if number(v) > 0 {
				is(never)
			}
		case unix.FRA_OIFNAME: // of sockets that are bound to it
			is(never)
		case unix.FRA_PROTOCOL, unix.FRA_PAD, unix.FRA_FLOW, unix.FRA_UNSPEC:
		default: // source, ports, ..., and what is not invented yet
			is(unknown)
		}
	}
	if mark&mask != 0 { // tunlb's packets have none
		is(never)
	}
	if u32(m[8:])&unix.FIB_RULE_INVERT != 0 {
		switch {
		case p.when == never:
			p.when, p.limited = always, false
		case p.when == always && p.limited:
			p.except = true
		case p.when == always:
			p.when = never
		}
	}
	return p
}

// settle makes lookups of the rules, once the tables are there. Those of empty tables go.
func (r *reader) settle(family uint8, rules []policy) []lookup {
	rules = slices.DeleteFunc(rules, func(p policy) bool {
		switch {
		case p.action == nl.FR_ACT_NOP:
			return true
		case p.action == nl.FR_ACT_TO_TBL && p.when == unknown:
			usual := p.id == unix.RT_TABLE_LOCAL || p.id == unix.RT_TABLE_MAIN || p.id == unix.RT_TABLE_DEFAULT
			if !usual && (p.id == 0 || r.others[p.id] || r.tables[p.id] != nil) {
				r.heedless(family, p)
			}
			return true
		case p.action == nl.FR_ACT_TO_TBL:
			return r.tables[p.id].Size() == 0
		case p.when == unknown:
			r.heedless(family, p)
			return true
		}
		return false
	})
	list := make([]lookup, 0, len(rules))
	for _, p := range rules {
		switch p.action {
		case nl.FR_ACT_TO_TBL:
			p.table = r.tables[p.id]
		case nl.FR_ACT_GOTO:
			p.jump = slices.IndexFunc(rules, func(q policy) bool { return q.pref >= p.target })
			if p.jump < 0 {
				p.jump = len(rules)
			}
		default:
			p.verdict = &path{down: NoRoute}
		}
		list = append(list, p.lookup)
	}
	if len(list) > 1 && r.mergeable(list) {
		merge(list[0].table, list[1].table)
		list = list[1:]
	}
	return list
}

// mergeable says that the first two rules may be one, as the usual ones may: `lookup local` and `lookup main`. Every packet's way is
// found in half the time then.
func (r *reader) mergeable(list []lookup) bool {
	for i, l := range list {
		switch {
		case l.table == nil && l.verdict == nil: // a jump counts rules
			return false
		case i < 2 && (l.table == nil || l.limited || l.suppress >= 0):
			return false
		case i > 1 && (l.table == list[0].table || l.table == list[1].table):
			return false
		}
	}
	const short = 4096
	return list[0].table != list[1].table && list[0].table.Size() <= short && !r.throws[list[0].table]
}

// merge puts the routes of first into second, which they hide.
func merge(first, second *bart.Table[*path]) {
	for p := range first.All() {
		var hidden []netip.Prefix
		for q := range second.Subnets(p) {
			hidden = append(hidden, q)
		}
		for _, q := range hidden {
			second.Delete(q)
		}
	}
	for p, v := range first.All() {
		second.Insert(p, v)
	}
}

// bar keeps packets from destinations that nothing is forwarded to, unless the kernel itself says more of them.
func (r *reader) bar(family uint8) {
	list := []string{"0.0.0.0/32", "224.0.0.0/4", "255.255.255.255/32"}
	if family == unix.AF_INET6 { // a link-local address does not even say on which link
		list = []string{"::/128", "fe80::/10", "ff00::/8"}
	}
	if t := r.tables[unix.RT_TABLE_LOCAL]; t != nil {
		for _, p := range list {
			t.Modify(netip.MustParsePrefix(p), func(old *path, there bool) (*path, bool) {
				if there {
					return old, false
				}
				return &path{down: NoRoute}, false
			})
		}
	}
}

// heedless notes a rule that may lead a packet elsewhere and is not copied.
func (r *reader) heedless(family uint8, p policy) {
	r.world.unheeded = append(r.world.unheeded, fmt.Sprintf("%s rule show pref %d", ip(family), p.pref))
}
