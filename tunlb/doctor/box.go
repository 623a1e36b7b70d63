package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config"
)

// What is peculiar to ports that are the box's own interfaces, and to the packet filter's part in it: keeping the kernel from
// what these take, and carrying connections for a TUN.

// packetFilter is what of the kernel's packet filter tunlb needs, tried before its start.
type packetFilter struct {
	guardErr   error // of keeping packets from the kernel; nil also if nobody needs it
	carrierErr error // of carrying connections; likewise
}

// boxPorts are the ports that are the box's own interfaces.
func (f *facts) boxPorts() (ports []config.Port) {
	for _, p := range f.ports() {
		if p.Box() {
			ports = append(ports, p)
		}
	}
	return ports
}

// carries says whether the file wants the kernel to carry connections.
func (f *facts) carries() bool {
	return f.config != nil && (f.config.Fastpath || slices.ContainsFunc(f.services(), func(s policy.Spec) bool { return s.Fastpath }))
}

// boxed are the services whose packets come and go by the box: by a TUN to which its kernel leads them, or taken from its
// interfaces.
func (f *facts) boxed() []policy.Spec {
	if f.config != nil && f.config.OnBox() { // beside which there are no segments
		return f.services()
	}
	return f.routed()
}

// tunName is the name of the box's TUN, "" if there is none.
func (f *facts) tunName() string {
	if tun := f.boxTUN(); tun != nil {
		return tun.Name
	}
	return ""
}

// checkInterfaces is about the box's own interfaces: whether all that matter are listed, and what the kernel does with what
// tunlb takes there.
func checkInterfaces(f *facts) []Finding {
	ports := f.boxPorts()
	if len(ports) == 0 {
		return nil
	}
	var l findings
	if err := f.filter.guardErr; err != nil {
		l.add(Fail, "packet filter", fmt.Sprintf("write {name: tunlb0, type: tun, addresses: [10.255.0.1/30]} in place of the packet ports into %s, then: tunlb check %[1]s", f.here()), "cannot keep the kernel from handling what tunlb takes: %v", err)
	}
	for _, p := range ports {
		if f.watched() && !f.box().guarded[p.Name] {
			l.add(Fail, p.Name, f.restart(), "the kernel handles what tunlb takes here as well, and may answer it by resets: tunlb's table is gone from the packet filter")
		}
		if dev := f.box().link(p.Name); dev != nil && dev.groOff && dev.kind == "" {
			l.add(Note, p.Name, fmt.Sprintf("ethtool -K %s gro on", p.Name), "generic receive offload is off: correct, but every packet comes by itself")
		}
		if dev := f.box().link(p.Name); dev != nil && dev.master != "" {
			if master := f.box().link(dev.master); master == nil || master.kind != "vrf" {
				l.add(Fail, p.Name, f.edit(p, "`name: %s`", dev.master), "is a part of %s, by which the box's packets come and go", dev.master)
			}
		}
	}
	l.unlisted(f)
	l.untranslated(f)
	if !f.running() {
		return l.orOK(names(ports), "can be taken from, and the kernel be kept from what is taken")
	}
	if !f.watched() {
		return l
	}
	return l.orOK(names(ports), "tunlb takes what is for services, and the kernel none of it")
}

// unlisted finds interfaces by which packets come that tunlb would have to take. Beside a TUN the kernel leads these
// to it.
func (l *findings) unlisted(f *facts) {
	if f.boxTUN() != nil {
		return
	}
	told := map[string]bool{}
	tell := func(device, format string, args ...any) {
		if device == "" || told[device] || f.isPort("", device) {
			return
		}
		told[device] = true
		l.add(Fail, device, f.add(device), format, args...)
	}
	for _, s := range f.servers {
		if !s.direct && s.route.err == nil && !s.route.local {
			tell(s.route.device, "the way to %s leads by it, and tunlb does not see the answers: it is no port", s)
		}
	}
	for _, i := range f.ingress {
		if i.real {
			tell(i.device, "the way to the client %s leads by it, and tunlb does not see what comes from there: it is no port", i.from)
		}
	}
}

// untranslated tells of clients beside the servers: there is no address that their own could be translated to.
func (l *findings) untranslated(f *facts) {
	if f.boxTUN() != nil {
		return
	}
	for _, s := range f.servers {
		for _, i := range f.ingress {
			if f.ownsVIP(s.service) && !s.direct && s.route.err == nil && i.real && i.device == s.route.device && family(i.from) == family(s.addr.Addr()) {
				l.add(Warn, s.String(), f.add(f.freeName(f.box())), "the client %s is on the server's own link, where answers go straight to it, and tunlb has no address to translate its own to: the VIP is the box's. A port of type tun has one", i.from)
				return
			}
		}
	}
}

// ownsVIP says whether the box has an address of a service.
func (f *facts) ownsVIP(service string) bool {
	return slices.ContainsFunc(f.services(), func(s policy.Spec) bool {
		return s.Name == service && slices.ContainsFunc(s.Listen, func(l policy.Listen) bool { return f.box().owner(l.Addr) != "" })
	})
}

// checkFastpath is about connections that the kernel carries.
func checkFastpath(f *facts) []Finding {
	if !f.carries() || f.boxTUN() == nil {
		return nil
	}
	var l findings
	if err := f.filter.carrierErr; err != nil {
		l.add(Fail, "packet filter", fmt.Sprintf("write fastpath: user into %s, then: tunlb check %[1]s", f.here()), "cannot carry connections: %v", err)
	}
	return l.orOK("packet filter", "can carry connections")
}

// names joins those of ports.
func names(ports []config.Port) string {
	list := make([]string, len(ports))
	for i, p := range ports {
		list[i] = p.Name
	}
	return strings.Join(list, ", ")
}

// checkOverruns tells of frames that came faster than tunlb has read them.
func checkOverruns(f *facts) []Finding {
	if !f.running() {
		return nil
	}
	var l findings
	asked := false
	for _, p := range f.ports() {
		if p.Type != config.Packet {
			continue
		}
		asked = true
		for _, have := range f.status.Ports {
			if have.Name == p.Name && have.NetNS == p.NetNS && have.Overruns > 0 {
				l.add(Warn, at(p.NetNS, p.Name), fmt.Sprintf("tunlb top  # shows how busy its lane is; if it is not: sysctl -w net.core.rmem_max=%d, and start tunlb anew", 64<<20),
					"%s lost, for which the socket had no room: they came faster than tunlb was given the processor to read them", count(have.Overruns, "frame"))
			}
		}
	}
	if !asked || !f.watched() {
		return l
	}
	return l.orOK("packet sockets", "have had room for every frame")
}
