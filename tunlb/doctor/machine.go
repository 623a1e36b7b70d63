package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
)

const tunPath = "/dev/net/tun"

func checkControl(f *facts) []Finding {
	var l findings
	subject := "control socket"
	switch d := f.statusErr; {
	case errors.Is(d, control.ErrNoDaemon):
		if device := f.stranger(); device != "" {
			l.add(Warn, subject, "tunlb doctor --socket PATH", "a tunlb is at work here with device %s, but does not answer: its socket is elsewhere", device)
			break
		}
		if n := f.leftovers(); n > 0 {
			l.add(Note, "policy rules", "tunlb clean", "a killed tunlb has left %d of them; the next start removes them", n)
		}
		if f.file == "" {
			l.add(Note, subject, "tunlb doctor -f FILE", "no tunlb is running here and no file was named: this is about the machine only")
		} else {
			l.add(Note, subject, "", "no tunlb is running here: this is the state before its start, and what only a running one hears and counts goes unchecked")
		}
	case errors.Is(d, fs.ErrPermission):
		l.add(Fail, subject, "sudo tunlb doctor", "%v", d)
	case d != nil:
		l.add(Fail, subject, "tunlb status", "%v", d)
	case f.status.Daemon.Version != f.Version:
		l.add(Warn, fmt.Sprintf("process %d", f.status.Daemon.PID), fmt.Sprintf("kill %d && tunlb run -f %s", f.status.Daemon.PID, quote(f.status.Daemon.Config)),
			"the daemon is tunlb %s, this is %s: what is installed has not been started", f.status.Daemon.Version, f.Version)
	default:
		l.add(OK, subject, "", "tunlb %s answers, process %d", f.status.Daemon.Version, f.status.Daemon.PID)
	}
	return l
}

// stranger is the device of a living tunlb in the box's namespace.
func (f *facts) stranger() string {
	box := f.box()
	for _, r := range box.rules {
		if dev := box.link(r.iif); r.ours && r.pref == prefFirst && dev != nil && dev.carrier {
			return dev.name
		}
	}
	return ""
}

// leftovers counts tunlb's policy rules.
func (f *facts) leftovers() (n int) {
	for _, r := range f.box().rules {
		if r.ours {
			n++
		}
	}
	return n
}

func checkFile(f *facts) []Finding {
	var l findings
	switch {
	case f.file == "":
		return nil
	case f.fileErr != nil:
		l.add(Warn, f.file, "tunlb check "+f.here(), "the daemon's file cannot be used, so what depends on it goes unchecked: %s", firstLine(f.fileErr))
	case f.running() && f.file != f.status.Daemon.Config && f.File != "" && !sameFile(f.file, f.status.Daemon.Config):
		l.add(Warn, f.file, "tunlb doctor", "the daemon runs with another file, %s", f.status.Daemon.Config)
	case f.running() && !reflect.DeepEqual(f.wanted(), f.inForce()):
		l.add(Warn, f.file, "tunlb reload", "the services in it are not those in force: it has changed since the daemon read it")
	}
	return l.orOK(f.file, "is valid")
}

func firstLine(err error) string {
	line, _, more := strings.Cut(err.Error(), "\n")
	if more {
		line += " ..."
	}
	return line
}

// wanted and inForce list services and servers so that they can be compared.
func (f *facts) wanted() (list []string) {
	for _, s := range f.services() {
		list = append(list, fmt.Sprintf("%s %s %s", s.Name, s.Listen, s.Mode))
		for _, srv := range s.Servers {
			list = append(list, fmt.Sprintf("%s/%s %s %d", s.Name, srv.Name, srv.Address, srv.Weight))
		}
	}
	slices.Sort(list)
	return list
}

func (f *facts) inForce() (list []string) {
	for _, s := range f.status.Services {
		list = append(list, fmt.Sprintf("%s %s %s", s.Name, s.Listen, s.Mode))
		for _, srv := range s.Servers {
			list = append(list, fmt.Sprintf("%s/%s %s %d", s.Name, srv.Name, srv.Address, srv.Configured))
		}
	}
	slices.Sort(list)
	return list
}

func checkTUN(f *facts) []Finding {
	if f.config != nil && !slices.ContainsFunc(f.ports(), func(p config.Port) bool { return p.Type != config.Packet }) {
		return nil // nobody opens it
	}
	var l findings
	const mknod = "mkdir -p /dev/net && mknod " + tunPath + " c 10 200 && chmod 0666 " + tunPath
	switch err := f.tun.err; {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && f.tun.driver:
		l.add(Fail, tunPath, mknod, "is missing, though the kernel has the driver; in a container, pass --device %s to it instead", tunPath)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		l.add(Fail, tunPath, "modprobe tun", "the kernel's tun driver is not loaded (%v)", err)
	case errors.Is(err, fs.ErrPermission) && f.caps.userns:
		l.add(Fail, tunPath, "chmod 0666 "+tunPath+"  # as root, outside of this user namespace", "may not be opened by this user: %v", err)
	case errors.Is(err, fs.ErrPermission):
		l.add(Fail, tunPath, "chmod 0666 "+tunPath+"  # as root", "may not be opened by this user: %v; run tunlb as root, or have it as most distributions do", err)
	default:
		l.add(Fail, tunPath, "modprobe -r tun && modprobe tun", "cannot be opened: %v", err)
	}
	l.soften(f, "the daemon has it")
	return l.orOK(tunPath, "can be opened")
}

func checkPrivilege(f *facts) []Finding {
	var l findings
	hint, fix := "", "sudo tunlb run -f "+f.here()
	if f.caps.userns {
		hint = "; this is a user namespace, whose privileges end at namespaces that it has not made"
		fix = "unshare -Urn tunlb run -f " + f.here()
	}
	if f.caps.admin != nil {
		l.add(Fail, "this process", fix, "has no CAP_NET_ADMIN in this network namespace (%v): it cannot make devices, routes and rules%s", f.caps.admin, hint)
	}
	if f.caps.raw != nil && slices.ContainsFunc(f.ports(), func(p config.Port) bool { return p.Type == config.Packet }) {
		l.add(Fail, "this process", fix, "has no CAP_NET_RAW in this network namespace (%v), which packet ports need%s", f.caps.raw, hint)
	}
	l.soften(f, "the daemon has it")
	return l.orOK("this process", "has the privileges that tunlb needs")
}

// soften makes notes of what keeps this process from running tunlb where another one runs it already. Where
// none does this machine cannot.
func (l findings) soften(f *facts, why string) {
	for i := range l {
		if f.running() {
			l[i].Severity, l[i].Fix = Note, ""
			l[i].Text += "; " + why
		} else {
			l[i].cannot = true
		}
	}
}

func checkNetNS(f *facts) []Finding {
	var l findings
	seen := map[string]bool{}
	for _, p := range f.ports() {
		s := f.spaces[p.NetNS]
		if p.NetNS == "" || seen[p.NetNS] || s == nil {
			continue
		}
		seen[p.NetNS] = true
		fix := fmt.Sprintf("touch %s && unshare --net=%[1]s true", quote(p.NetNS))
		if name, ok := strings.CutPrefix(p.NetNS, netnsDir); ok {
			fix = "ip netns add " + name
		}
		switch {
		case s.err == nil:
			l.add(OK, p.NetNS, "", "is there")
		case errors.Is(s.err, fs.ErrNotExist):
			l.add(Fail, p.NetNS, fix, "there is no such network namespace, but port %s is to be in it", p.Name)
		case errors.Is(s.err, errNotNetNS):
			l.add(Fail, p.NetNS, "rm "+quote(p.NetNS)+" && "+fix, "is not a network namespace, but port %s is to be in it", p.Name)
		case errors.Is(s.err, fs.ErrPermission):
			l.add(Note, p.NetNS, "sudo tunlb doctor -f "+f.here(), "cannot be entered: %v; what is in it goes unchecked", s.err)
		default:
			l.add(Fail, p.NetNS, "ls -l "+quote(p.NetNS), "cannot be entered: %v", s.err)
		}
	}
	return l
}

var errNotNetNS = errors.New("not a network namespace")

func checkPorts(f *facts) []Finding {
	var l findings
	for _, p := range f.ports() {
		s := f.spaces[p.NetNS]
		if s == nil || s.err != nil {
			continue // checkNetNS has said so
		}
		before := len(l)
		if p.Type == config.Packet {
			l.checkInterface(f, s, p)
		} else {
			l.checkDevice(f, s, p)
		}
		if p.Bridge != "" {
			l.checkBridge(f, s, p)
		}
		if len(l) == before {
			l.add(OK, at(p.NetNS, p.Name), "", "%s: %s", p.Type, map[bool]string{true: "is there", false: "the name is free"}[s.link(p.Name) != nil])
		}
	}
	return l
}

// checkInterface looks at the existing interface of a packet port.
func (l *findings) checkInterface(f *facts, s *space, p config.Port) {
	dev, subject := s.link(p.Name), at(p.NetNS, p.Name)
	another := f.choose(p, "Ethernet interface", f.freeInterfaces(s, p))
	if dev == nil {
		l.add(Fail, subject, another, "there is no such interface; a packet port takes one that exists")
		return
	}
	if !dev.ethernet {
		l.add(Fail, subject, another, "is no Ethernet interface, which a packet port has to be")
		return
	}
	if p.Side != "" {
		l.checkAlone(s, p, dev)
	}
	switch {
	case !dev.up:
		l.add(Fail, subject, in(p.NetNS, "ip link set dev "+p.Name+" up"), "is down")
	case !dev.carrier:
		l.add(Warn, subject, in(p.NetNS, "ip link show dev "+p.Name), "has no carrier: nothing is connected to it, or the other end is down")
	}
}

// checkAlone looks at what else passes the frames of an interface of the switch.
func (l *findings) checkAlone(s *space, p config.Port, dev *link) {
	subject := at(p.NetNS, p.Name)
	if master := s.link(dev.master); dev.master != "" && (master == nil || master.kind != "vrf") { // which passes packets only
		l.add(Fail, subject, in(p.NetNS, "ip link set "+p.Name+" nomaster"),
			"is a port of %s, which passes frames on without tunlb: the servers' claims to the VIPs get past it, and tunlb refuses such a port", dev.master)
	}
	var vlans []string
	for _, other := range s.links {
		if other.parent == p.Name {
			vlans = append(vlans, other.name)
		}
	}
	if len(vlans) > 0 {
		l.add(Note, subject, "", "frames of VLANs (%s) do not pass between packet ports: the kernel takes them before tunlb sees them; tap ports pass them", strings.Join(vlans, ", "))
	}
}

// freeInterfaces are those that a packet port may take: not other programs' own, not of another port, and not parts of
// a bridge or bond.
func (f *facts) freeInterfaces(s *space, p config.Port) (names []string) {
	for _, dev := range s.links {
		if dev.ethernet && !dev.loopback && dev.kind != "tun" && dev.kind != "dummy" && dev.master == "" && !f.isPort(p.NetNS, dev.name) {
			names = append(names, dev.name)
		}
	}
	return names
}

// isPort says whether a device is in the file.
func (f *facts) isPort(netns, name string) bool {
	return slices.ContainsFunc(f.ports(), func(p config.Port) bool { return p.NetNS == netns && (p.Name == name || p.Bridge == name) })
}

// checkDevice looks at the device that a tun or tap port makes, or has made.
func (l *findings) checkDevice(f *facts, s *space, p config.Port) {
	dev, subject := s.link(p.Name), at(p.NetNS, p.Name)
	ours := f.running() && slices.ContainsFunc(f.status.Ports, func(have portStatus) bool { return have.Name == p.Name && have.NetNS == p.NetNS })
	rename := f.edit(p, "another name, such as `name: %s`,", f.freeName(s))
	switch {
	case dev == nil && ours:
		l.add(Fail, subject, "tunlb run -f "+f.here(), "the daemon's device is gone: somebody has deleted it")
	case dev == nil:
	case dev.kind != "tun" || dev.tap != (p.Type == config.TAP):
		l.add(Fail, subject, rename, "the name is taken by an interface of another kind, so the port cannot be made")
	case ours && !dev.up:
		l.add(Fail, subject, in(p.NetNS, "ip link set dev "+p.Name+" up"), "is down")
	case ours:
	case dev.carrier && errors.Is(f.statusErr, control.ErrNoDaemon) && f.stranger() != p.Name: // else checkControl has said so
		l.add(Fail, subject, rename, "is in use by another process: by another tunlb, or find it by: grep -l 'iff:.*%s' /proc/[0-9]*/fdinfo/*", p.Name)
	}
}

// freeName is a name for a device that the namespace does not have.
func (f *facts) freeName(s *space) string {
	for n := 0; ; n++ {
		name := fmt.Sprintf("tunlb%d", n)
		if s.link(name) == nil && !slices.ContainsFunc(f.ports(), func(p config.Port) bool { return p.Name == name }) {
			return name
		}
	}
}

// checkBridge looks at the bridge that a tap port joins.
func (l *findings) checkBridge(f *facts, s *space, p config.Port) {
	dev, subject := s.link(p.Bridge), at(p.NetNS, p.Bridge)
	up := in(p.NetNS, "ip link set dev "+p.Bridge+" up")
	switch {
	case dev == nil:
		l.add(Fail, subject, in(p.NetNS, fmt.Sprintf("ip link add %s type bridge && ip link set dev %[1]s up", p.Bridge)), "there is no such bridge, but port %s is to join it", p.Name)
	case dev.kind != "bridge":
		var bridges []string
		for _, other := range s.links {
			if other.kind == "bridge" {
				bridges = append(bridges, other.name)
			}
		}
		l.add(Fail, subject, f.choose(p, "bridge", bridges), "is no bridge, but port %s is to join it", p.Name)
	case !dev.up:
		l.add(Fail, subject, up, "the bridge is down")
	default:
		if tap := s.link(p.Name); tap != nil && tap.kind == "tun" && tap.carrier && tap.master != p.Bridge {
			l.add(Fail, at(p.NetNS, p.Name), in(p.NetNS, fmt.Sprintf("ip link set dev %s master %s", p.Name, p.Bridge)), "has left its bridge %s", p.Bridge)
		}
	}
}

// checkVIPs says how the virtual addresses get to this box.
func checkVIPs(f *facts) []Finding {
	var l findings
	box := f.box()
	for _, vip := range vips(f.boxed()) {
		if owner := box.owner(vip); owner != "" {
			if r := box.obstacle(family(vip)); r != nil && !f.running() && f.boxTUN() != nil {
				l.add(Fail, vip.String(), fmt.Sprintf("%s rule add pref 0 lookup local && %[1]s rule del pref %d", ip(family(vip)), r.pref),
					"is an address of this box (%s), so `lookup local` has to give way to tunlb's rules, but one stands at preference %d", owner, r.pref)
				continue
			}
			l.add(OK, vip.String(), "", "is an address of this box (%s): tunlb takes the services' ports of it and leaves the others to the box", owner)
			continue
		}
		if dev := box.onLink(vip); dev != "" && !box.proxies(vip, dev) {
			l.add(Warn, vip.String(), fmt.Sprintf("ip addr add %s dev %s", netip.PrefixFrom(vip, vip.BitLen()), dev),
				"is in %s's network, but not an address of this box: nobody answers its neighbours, unless they have a route for it", dev)
			continue
		}
		l.add(Note, vip.String(), "", "is not an address of this box: the network has to route it here")
	}
	return l
}

// obstacle is a `lookup local` of somebody else that would hide a VIP of the box from tunlb's rules.
func (s *space) obstacle(family int) *rule {
	for i, r := range s.rules {
		if r.family == family && r.local && !r.ours && 0 < r.pref && r.pref < prefLocal {
			return &s.rules[i]
		}
	}
	return nil
}

// onLink is the device in whose network an address is.
func (s *space) onLink(a netip.Addr) string {
	for _, have := range s.addresses {
		if have.prefix.Contains(a) && !have.prefix.IsSingleIP() {
			if dev := s.link(have.device); dev != nil && dev.ethernet {
				return have.device
			}
		}
	}
	return ""
}

// proxies says whether the kernel answers for an address that it does not have.
func (s *space) proxies(a netip.Addr, device string) bool {
	if a.Is4() && s.effective(device, "proxy_arp") > 0 {
		return true
	}
	return slices.ContainsFunc(s.neighbours, func(n neighbour) bool { return n.addr == a && n.device == device && n.state == "proxy" })
}
