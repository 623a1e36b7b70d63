package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// Preferences of tunlb's policy rules (package stack/kernel has them all).
const (
	prefFirst = 7410
	prefLocal = 7440
	prefLast  = 7499
)

func checkForwarding(f *facts) []Finding {
	var l findings
	box := f.box()
	for _, family := range f.families() {
		path := "ipv4/ip_forward"
		if family == 6 {
			path = "ipv6/conf/all/forwarding"
		}
		subject := "net." + strings.ReplaceAll(path, "/", ".")
		switch v, known := box.sysctls[path]; {
		case !known && family == 6:
			l.add(Fail, subject, "sysctl -w net.ipv6.conf.all.disable_ipv6=0", "this kernel runs without IPv6, but the file has IPv6 services")
		case v != "0":
			l.checkDeviceForwarding(f, family)
		case f.running():
			l.add(Fail, subject, sysctl(path, 1), "is 0: the kernel drops what tunlb and the servers send through this box; somebody has switched it off since the start")
		default:
			l.add(Note, subject, "", "is 0; tunlb switches it on when it starts, and back when it ends")
		}
	}
	if len(f.families()) == 0 {
		return l
	}
	return l.orOK("forwarding", "is on")
}

// checkDeviceForwarding looks for devices that are excepted. For IPv6 only the setting of all counts.
func (l *findings) checkDeviceForwarding(f *facts, family int) {
	if family == 6 {
		return
	}
	devices := f.sides()
	if f.running() {
		devices = append(devices, f.boxTUN().Name)
	}
	for _, device := range devices {
		path := "ipv4/conf/" + device + "/forwarding"
		if v, ok := f.box().sysctls[path]; ok && v == "0" {
			l.add(Fail, device, sysctl(path, 1), "forwards nothing that comes in by it, although net.ipv4.ip_forward is on")
		}
	}
}

// checkReversePath is about rp_filter, IPv4's only: 1 drops packets whose source is not reached by the device
// that they came in by, 2 those whose source is not reached at all. The larger of the device's and that of all counts.
func checkReversePath(f *facts) []Finding {
	if f.boxTUN() == nil || !slices.Contains(f.families(), 4) {
		return nil
	}
	var l findings
	box := f.box()
	strict := func(device string) bool { return box.effective(device, "rp_filter") == 1 }
	loosen := func(device string) string { return sysctl("ipv4/conf/"+device+"/rp_filter", 2) }
	if tun := f.boxTUN().Name; f.running() && strict(tun) {
		l.add(Fail, tun, loosen(tun), "rp_filter is strict: the kernel drops all that tunlb writes, whose sources are not behind %s; tunlb had set 2", tun)
	}
	var stricts []string
	for _, dev := range box.links { // whichever requests come in by: those that are dropped are seen nowhere
		if dev.up && !dev.loopback && dev.name != f.boxTUN().Name && box.hasAddress(dev.name) && strict(dev.name) {
			stricts = append(stricts, dev.name)
		}
	}
	for _, device := range stricts {
		if other := f.wayBack(device); other != "" {
			l.add(Warn, device, loosen(device), "rp_filter is strict and the default route leads by %s: requests of clients beyond %[2]s's own networks are dropped", other, device)
		}
	}
	if len(l) == 0 && box.filtered > 0 && len(stricts) > 0 {
		var fixes []string
		for _, device := range stricts {
			fixes = append(fixes, loosen(device))
		}
		l.add(Warn, strings.Join(stricts, ", "), strings.Join(fixes, " && "),
			"rp_filter is strict, and has dropped %s so far: of senders whose way back leads by another device", count(box.filtered, "packet"))
	}
	return l.orOK("rp_filter", "drops nothing that tunlb needs")
}

// wayBack is the device of the default route where that is another one than requests for a VIP come in by.
func (f *facts) wayBack(device string) string {
	for _, vip := range vips(f.routed()) {
		if !vip.Is4() || f.box().onLink(vip) != device && f.box().owner(vip) != device {
			continue
		}
		for _, i := range f.ingress {
			if i.from == everywhere4 && i.device != device {
				return i.device
			}
		}
	}
	return ""
}

// checkRules asks what the kernel would do with requests and answers while the daemon runs.
func checkRules(f *facts) []Finding {
	if !f.running() || f.boxTUN() == nil {
		return nil
	}
	var l findings
	seen := map[string]bool{} // one finding for each cause
	judge := func(what string, e entry) {
		if e.err != nil && !errors.Is(e.err, syscall.ENETUNREACH) || e.device == f.boxTUN().Name {
			return // EXDEV, EHOSTUNREACH: rp_filter's and forwarding's
		}
		fix, cause := f.culprit(e)
		if !seen[cause] {
			seen[cause] = true
			l.add(Fail, e.service, fix, "%s %s to %s do not go into %s but %s: %s", what, e.from, e.to, f.boxTUN().Name, e.whither(), cause)
		}
	}
	for _, e := range f.entries {
		judge("requests from", e)
	}
	asked := len(f.entries)
	for _, s := range f.servers {
		if s.replied {
			asked++
			judge("answers from", s.reply)
		}
	}
	if asked == 0 {
		return nil
	}
	return l.orOK("policy rules", "lead requests and answers into %s", f.boxTUN().Name)
}

// whither says where packets go.
func (a answer) whither() string {
	switch {
	case a.err != nil:
		return "nowhere"
	case a.local:
		return "to this box itself"
	}
	return "to " + a.device
}

// culprit names the policy rule that takes a packet before tunlb's.
func (f *facts) culprit(e entry) (fix, cause string) {
	n, ours := family(e.to), false
	for _, r := range f.box().rules {
		if r.family != n {
			continue
		}
		ours = ours || r.ours && r.pref < prefLast
		takes := r.pref < prefFirst && !r.ours && (!r.local && r.covers(e.question) || r.local && e.local && r.pref > 0)
		if !takes {
			continue
		}
		cause = fmt.Sprintf("the rule at preference %d is in front of tunlb's", r.pref)
		if !r.plain {
			return ip(n) + " rule", cause
		}
		return fmt.Sprintf("%s rule add pref %d %s && %[1]s rule del pref %[4]d %[3]s", ip(n), prefLast+1, r.text, r.pref), cause
	}
	if !ours {
		return "tunlb reload", "tunlb's policy rules are gone"
	}
	return "tunlb reload", "tunlb's policy rules are not complete"
}

// checkRoutes wants a route to every server.
func checkRoutes(f *facts) []Finding {
	var l findings
	for _, s := range f.servers {
		addr, a := s.addr.Addr(), s.route
		if f.running() && !errors.Is(s.written.err, syscall.EXDEV) && !errors.Is(s.written.err, syscall.EHOSTUNREACH) {
			a = s.written
		}
		switch {
		case errors.Is(a.err, fs.ErrPermission):
		case a.err != nil:
			l.add(Fail, s.String(), fmt.Sprintf("%s route add %s dev INTERFACE  # or: via ROUTER", ip(family(addr)), addr), "there is no route to %s: %v", addr, a.err)
		case f.boxTUN() != nil && a.device == f.boxTUN().Name:
			l.add(Fail, s.String(), fmt.Sprintf("%s route get %s  # then delete the route that it shows", ip(family(addr)), addr), "the route to %s leads back through tunlb's own %s", addr, a.device)
		}
	}
	if len(f.servers) == 0 {
		return nil
	}
	return l.orOK("servers", "have routes past tunlb's device")
}
