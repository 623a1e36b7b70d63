package doctor

import (
	"fmt"
	"slices"

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
		if s := f.spaces[p.NetNS]; s != nil && s.err == nil && (p.Ethernet() || p.Box()) {
			l.segmentOffload(s, p)
		}
	}
	for _, name := range f.sides() {
		l.transmitOffload(f.box(), name)
		l.corruption(f, name)
	}
	for _, p := range f.ports() {
		l.deviceOffload(f, p)
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

// deviceOffload finds a TUN or TAP that no longer takes super-packets, though tunlb has asked for them.
func (l *findings) deviceOffload(f *facts, p config.Port) {
	s := f.spaces[p.NetNS]
	if !f.running() || p.Type == config.Packet || p.Offload == "off" || s == nil || s.err != nil {
		return
	}
	if dev := s.link(p.Name); dev != nil && dev.tsoOff {
		l.add(Warn, at(p.NetNS, p.Name), in(p.NetNS, fmt.Sprintf("ethtool -K %s tx on tso on", p.Name)),
			"takes no super-packets any more: the kernel cuts every one of them before tunlb gets it; somebody has switched that off since the start")
	}
}

// corruption is a fault of kernels that cut UDP super-packets wrongly on the way to some devices.
func (l *findings) corruption(f *facts, name string) {
	if dev := f.box().link(name); dev != nil && dev.uso && corruptsUDP(f.kernel) && dev.kind != "veth" {
		l.add(Note, name, fmt.Sprintf("ethtool -K %s tx-udp-segmentation off", name),
			"is left to cut UDP super-packets, and Linux %s spoils the headers of some on the way to some devices (7.0 to 7.1.4, but for distributions that have mended it): if UDP is lost or slow, have the kernel cut them", f.kernel)
	}
}

// corruptsUDP says whether a kernel is one of those.
func corruptsUDP(release string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch); n < 2 {
		return false
	}
	return major == 7 && (minor == 0 || minor == 1 && patch <= 4)
}
