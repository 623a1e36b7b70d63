package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config"
)

// checkMTU compares the devices along the way.
func checkMTU(f *facts) []Finding {
	var l findings
	compared := f.tunMTU(&l)
	compared = l.segmentMTU(f) || compared
	if !compared || !f.watched() {
		return l
	}
	return l.orOK("MTUs", "are the same all along")
}

// tunMTU wants a TUN that takes what the devices before and behind it take: for each packet that does not
// fit the kernel has to tell the sender, and some never learn of it. A larger TUN does no harm.
func (f *facts) tunMTU(l *findings) (compared bool) {
	tun := f.boxTUN()
	if tun == nil {
		return false
	}
	mtu := tun.MTU
	if dev := f.box().link(tun.Name); dev != nil && f.running() {
		mtu = dev.mtu
	}
	largest, where := mtu, ""
	for _, name := range f.sides() {
		dev := f.box().link(name)
		if dev == nil || dev.loopback {
			continue
		}
		if compared = true; dev.mtu > largest {
			largest, where = dev.mtu, name
		}
	}
	if where != "" {
		l.add(Warn, tun.Name, f.edit(*tun, "`mtu: %d`", largest),
			"has MTU %d, but %s %d: longer packets are refused, and their senders have to find out by ICMP", mtu, where, largest)
	}
	return compared
}

// checkOffload finds what makes packets small or checksums late.
func checkOffload(f *facts) []Finding {
	var l findings
	for _, p := range f.ports() {
		if s := f.spaces[p.NetNS]; s != nil && s.err == nil && p.Ethernet() {
			l.segmentOffload(s, p)
		}
	}
	for _, name := range f.sides() {
		l.transmitOffload(f.box(), name)
	}
	if f.running() {
		for _, p := range f.status.Ports {
			f.segmented(&l, p)
		}
	}
	if len(f.ports()) == 0 || !f.watched() {
		return l
	}
	return l.orOK("offloads", "nothing is known to cut super-packets")
}

// segmented is about super-packets that the kernel would not take.
func (f *facts) segmented(l *findings, p portStatus) {
	i := slices.IndexFunc(f.ports(), func(have config.Port) bool { return have.Name == p.Name && have.NetNS == p.NetNS })
	if p.Segmented == 0 || i >= 0 && f.config.Ports[i].Offload == "off" {
		return
	}
	less := "tcp"
	if i >= 0 && f.config.Ports[i].Offload == "tcp" {
		less = "off"
	}
	l.add(Warn, at(p.NetNS, p.Name), f.edit(config.Port{Name: p.Name}, "`offload: %s`", less),
		"this kernel refuses super-packets that it has made itself: tunlb has cut %d, which takes time", p.Segmented)
}

// segmentOffload looks at the interface of a packet port, or at the bridge ports beside a tap.
func (l *findings) segmentOffload(s *space, p config.Port) {
	for _, dev := range s.links {
		if dev.name == p.Name && p.Type == config.Packet {
			l.transmitOffload(s, dev.name)
			if dev.lro {
				l.add(Fail, at(p.NetNS, dev.name), in(p.NetNS, fmt.Sprintf("ethtool -K %s lro off", dev.name)), "large receive offload is on: it merges packets so that they cannot be told apart again")
			}
		}
		if p.Bridge != "" && dev.master == p.Bridge && dev.name != p.Name {
			l.transmitOffload(s, dev.name)
		}
	}
}

// transmitOffload tells of virtual devices that make packets small without need.
func (l *findings) transmitOffload(s *space, name string) {
	if dev := s.link(name); dev != nil && dev.txOff && (dev.kind == "veth" || dev.kind == "tun") {
		l.add(Note, at(s.path, name), in(s.path, fmt.Sprintf("ethtool -K %s tx on tso on gso on", name)), "transmit offload is off: correct, but every packet is cut and summed by the processor")
	}
}

// checkNetfilter looks for packet filters in the way: those of the box for routed services, and those that
// see the frames of a bridge.
func checkNetfilter(f *facts) []Finding {
	var l findings
	looked := false
	if f.boxTUN() != nil {
		looked = true
		for _, c := range f.box().chains {
			if c.hook == "forward" && c.drop && c.family != "bridge" {
				l.add(Note, fmt.Sprintf("%s %s %s", c.family, c.table, c.name), fmt.Sprintf("nft 'insert rule %s %s %s iifname %s accept; insert rule %[1]s %[2]s %[3]s oifname %[4]s accept'", c.family, c.table, c.name, f.boxTUN().Name),
					"drops forwarded packets that no rule of it accepts: if clients get no answer, let those of %s pass", f.boxTUN().Name)
			}
		}
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
