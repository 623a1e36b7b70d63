package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config"
)

// checkNetfilter looks for packet filters in the way: those of the box for routed services, and those that
// see the frames of a bridge.
func checkNetfilter(f *facts) []Finding {
	var l findings
	looked := false
	if f.boxTUN() != nil {
		looked = true
		l.boxFilter(f)
		l.tracking(f.box())
	}
	seen := map[string]bool{}
	for _, p := range f.ports() {
		s := f.spaces[p.NetNS]
		if p.Bridge == "" || s == nil || s.err != nil || s.link(p.Bridge) == nil || seen[at(p.NetNS, p.Bridge)] {
			continue
		}
		seen[at(p.NetNS, p.Bridge)], looked = true, true
		l.bridgeFilter(f, s, p)
	}
	if !looked {
		return nil
	}
	return l.orOK("packet filter", "nothing is in the way, as far as can be seen")
}

// passages are the packets of routed services, as the box's packet filter sees them: once on their way to the TUN, and
// once from there.
func (f *facts) passages() (list []passage) {
	tun := f.boxTUN().Name
	translated, direct := map[int]bool{}, map[int]bool{}
	for _, svc := range f.routed() {
		for _, srv := range svc.Servers {
			n := family(svc.Listen[0].Addr)
			translated[n], direct[n] = translated[n] || srv.Mode != policy.DR, direct[n] || srv.Mode == policy.DR
		}
	}
	for _, i := range f.ingress {
		n := family(i.from)
		list = append(list, passage{what: "clients' requests", family: n, iif: i.device, oif: tun, state: stateNew})
		if direct[n] {
			// Connection tracking sees no answer, and so takes all but a connection's first packet for strays.
			list = append(list, passage{what: "all but the first packet of directly routed connections, whose answers it does not see,", family: n, iif: i.device, oif: tun, state: stateInvalid})
		}
		if translated[n] {
			list = append(list, passage{what: "answers to clients", family: n, iif: tun, oif: i.device, state: stateEstablished, strange: true})
		}
	}
	for _, s := range f.servers {
		if n := family(s.addr.Addr()); !s.direct && s.route.err == nil && !s.route.local && s.route.device != tun {
			list = append(list,
				passage{what: "requests to servers", family: n, iif: tun, oif: s.route.device, state: stateNew, strange: true},
				passage{what: "servers' answers", family: n, iif: s.route.device, oif: tun, state: stateEstablished})
		}
	}
	return list
}

// boxFilter finds who drops routed services' packets.
func (l *findings) boxFilter(f *facts) {
	box, told := f.box(), map[*chain]bool{}
	for _, sure := range []bool{true, false} { // who surely drops something need not be told of again
		for _, p := range f.passages() {
			for _, hook := range []string{"prerouting", "forward", "postrouting"} {
				for _, b := range box.drops(hook, seenAt(hook, p)) {
					if b.sure != sure || told[b.chain] || !b.sure && !b.policy {
						continue // a rule may drop what it likes of others
					}
					told[b.chain] = true
					severity, how := Fail, "a rule of it does"
					switch {
					case !b.sure:
						severity, how = Note, "its policy, if no rule accepts them whose conditions are not looked into: let them pass if clients get no answer"
					case b.policy:
						how = "its policy, and no rule accepts them"
					case slices.ContainsFunc(b.rule.conditions, func(c condition) bool { return c.what == "rpf" }):
						how = "a reverse path filter, since their sources are not behind " + f.boxTUN().Name
					}
					l.add(severity, b.chain.String(), f.letThrough(b.chain, hook, p), "drops %s from %s to %s: %s", p.what, p.iif, p.oif, how)
				}
			}
		}
	}
	for _, c := range box.chains {
		if c.legacy {
			l.add(Note, c.family+" "+c.table, map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.family]+"-legacy -S -t "+c.table, "is a table of the older iptables, whose rules are not looked into")
		}
	}
}

// seenAt is what of a packet is known at a hook.
func seenAt(hook string, p passage) passage {
	switch hook {
	case "prerouting":
		p.oif = ""
	case "postrouting":
		p.iif = ""
	}
	return p
}

// letThrough is the command that has a chain accept tunlb's packets.
func (f *facts) letThrough(c *chain, hook string, p passage) string {
	tun := f.boxTUN().Name
	ours, name := f.box().xtables(c)
	if ours && hook == "forward" {
		command := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.family]
		return fmt.Sprintf("%s -I %s -i %s -j ACCEPT && %[1]s -I %[2]s -o %[3]s -j ACCEPT", command, name, tun)
	}
	var rules []string
	insert := func(match string) { rules = append(rules, "insert rule "+c.String()+" "+match+" accept") }
	switch {
	case hook == "forward":
		insert("iifname " + tun)
		insert("oifname " + tun)
	case hook == "prerouting" && p.iif == tun:
		insert("iifname " + tun)
	case hook == "postrouting" && p.oif == tun:
		insert("oifname " + tun)
	case hook == "prerouting" && p.oif == tun && p.state != stateEstablished: // where a device does not tell what is tunlb's
		for _, vip := range vips(f.routed()) {
			if family(vip) == p.family {
				insert(ip4or6(p.family) + " daddr " + vip.String())
			}
		}
	default:
		return "nft list chain " + c.String() + "  # and let them pass before the rule that drops them"
	}
	return "nft '" + strings.Join(rules, "; ") + "'"
}

// tracking tells of a table of connections that is nearly full: the kernel drops what it has no room for.
func (l *findings) tracking(s *space) {
	const countPath, maxPath = "netfilter/nf_conntrack_count", "netfilter/nf_conntrack_max"
	have, most := s.number(countPath), s.number(maxPath)
	if most > 0 && have >= most-most/10 {
		l.add(Warn, "conntrack", sysctl(maxPath, 2*most), "tracks %d connections of %d that it has room for, and drops the packets of others", have, most)
	}
}

// bridgeTables end the names of the settings of br_netfilter, by family.
var bridgeTables = map[int]string{4: "iptables", 6: "ip6tables"}

// bridgeFilter is about br_netfilter, which has the frames of bridges pass the rules for routed packets.
func (l *findings) bridgeFilter(f *facts, s *space, p config.Port) {
	dev := s.link(p.Bridge)
	var all, its []string // settings that are 1: of all bridges, of this one
	severity, what := Note, "no rules are loaded, so nothing is lost yet"
	for _, family := range familiesOf(f.services()) {
		table := bridgeTables[family]
		switch path := "bridge/bridge-nf-call-" + table; {
		case s.number(path) != 0:
			all = append(all, assignment(path, 0))
		case dev.nfCall[family]:
			its = append(its, "nf_call_"+table+" 0")
		default:
			continue
		}
		for _, c := range s.chains {
			if severity == Note && (c.family == "inet" || c.family == ip4or6(family)) && (c.hook == "forward" || c.hook == "prerouting" || c.hook == "postrouting") {
				severity, what = Warn, fmt.Sprintf("frames between its ports go through %s %s %s", c.family, c.table, c.name)
			}
		}
	}
	var fixes []string
	if len(all) > 0 {
		fixes = append(fixes, "sysctl -w "+strings.Join(all, " "))
	}
	if len(its) > 0 {
		fixes = append(fixes, "ip link set dev "+p.Bridge+" type bridge "+strings.Join(its, " "))
	}
	if len(fixes) > 0 {
		l.add(severity, at(p.NetNS, p.Bridge), in(p.NetNS, strings.Join(fixes, " && ")), "its frames pass the packet filter for routed packets (br_netfilter): %s", what)
	}
}

// ip4or6 is what the packet filter calls a family.
func ip4or6(family int) string {
	if family == 6 {
		return "ip6"
	}
	return "ip"
}
