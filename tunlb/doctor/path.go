package doctor

import (
	"fmt"
	"slices"

	"github.com/tunlb/tunlb/tunlb/config"
)

// checkMTU compares the devices along the way.
func checkMTU(f *facts) []Finding {
	var l findings
	f.tunMTU(&l)
	l.segmentMTU(f)
	if len(f.ports()) == 0 {
		return nil
	}
	return l.orOK("MTUs", "are the same all along")
}

// tunMTU wants a TUN that takes what the devices before and behind it take: for each packet that does not
// fit the kernel has to tell the sender, and some never learn of it. A larger TUN does no harm.
func (f *facts) tunMTU(l *findings) {
	tun := f.boxTUN()
	if tun == nil {
		return
	}
	mtu := tun.MTU
	if dev := f.box().link(tun.Name); dev != nil && f.running() {
		mtu = dev.mtu
	}
	largest, where := mtu, ""
	for _, name := range f.sides() {
		if dev := f.box().link(name); dev != nil && dev.mtu > largest && !dev.loopback {
			largest, where = dev.mtu, name
		}
	}
	if where != "" {
		l.add(Warn, tun.Name, fmt.Sprintf("tunlb check %s  # after `mtu: %d` for this port; then start tunlb anew", f.here(), largest),
			"has MTU %d, but %s %d: longer packets are refused, and their senders have to find out by ICMP", mtu, where, largest)
	}
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
	if len(f.ports()) == 0 {
		return nil
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
	l.add(Warn, at(p.NetNS, p.Name), fmt.Sprintf("tunlb check %s  # after `offload: %s` for this port; then start tunlb anew", f.here(), less),
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
			if dev.rxVLAN && dev.kind == "" {
				l.add(Note, at(p.NetNS, dev.name), in(p.NetNS, fmt.Sprintf("ethtool -K %s rxvlan off", dev.name)), "takes VLAN tags off frames before tunlb sees them: a matter only where tagged frames come in")
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
		if p.Bridge == "" || s == nil || s.err != nil || seen[at(p.NetNS, p.Bridge)] {
			continue
		}
		seen[at(p.NetNS, p.Bridge)], looked = true, true
		l.bridgeFilter(s, p)
	}
	if !looked {
		return nil
	}
	return l.orOK("packet filter", "nothing is in the way, as far as can be seen")
}

// bridgeFilter is about br_netfilter, which has the frames of bridges pass the rules for routed packets.
func (l *findings) bridgeFilter(s *space, p config.Port) {
	const path = "bridge/bridge-nf-call-iptables"
	dev := s.link(p.Bridge)
	if dev == nil || s.number(path) == 0 && !dev.nfCall {
		return
	}
	fix := sysctl(path, 0)
	if s.number(path) == 0 {
		fix = "ip link set dev " + p.Bridge + " type bridge nf_call_iptables 0"
	}
	severity, what := Note, "no rules are loaded, so nothing is lost yet"
	for _, c := range s.chains {
		if c.family != "bridge" && (c.hook == "forward" || c.hook == "prerouting" || c.hook == "postrouting") {
			severity, what = Warn, fmt.Sprintf("frames between its ports go through %s %s %s", c.family, c.table, c.name)
			break
		}
	}
	l.add(severity, at(p.NetNS, p.Bridge), in(p.NetNS, fix), "its frames pass the packet filter for routed packets (br_netfilter): %s", what)
}
