package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// setting is a value below /proc/sys/net.
type setting struct{ path, value string }

func (s setting) command() string {
	if strings.Contains(s.path, ".") { // of a device such as eth0.5: sysctl takes slashes as well
		return fmt.Sprintf("sysctl -w net/%s=%s", s.path, s.value)
	}
	return fmt.Sprintf("sysctl -w net.%s=%s", strings.ReplaceAll(s.path, "/", "."), s.value)
}

// inside runs f on a thread in the namespace: /proc/sys/net shows the namespace of the thread that looks.
func (k *Kernel) inside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		here, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("find this thread's network namespace: %w", err)
			return
		}
		same := here.Equal(k.ns)
		here.Close()
		if same { // needs no privilege, unlike setns
			err = f()
			runtime.UnlockOSThread()
			done <- err
			return
		}
		// Not unlocked: the thread ends with the goroutine instead of coming back in the wrong namespace.
		if err = unix.Setns(int(k.ns), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter the network namespace: %w", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (k *Kernel) read(path string) (value string, err error) {
	err = k.inside(func() error {
		b, err := os.ReadFile("/proc/sys/net/" + path)
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

// write sets s. A setting that vanished with its device is no error.
func (k *Kernel) write(s setting) error {
	if device, ok := strings.CutSuffix(s.path, "/addr_gen_mode"); ok {
		return k.writeAddrGenMode(filepath.Base(device), s.value)
	}
	return k.inside(func() error {
		err := os.WriteFile("/proc/sys/net/"+s.path, []byte(s.value), 0)
		var path *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case errors.Is(err, unix.EROFS):
			return fmt.Errorf("%w (in a container? then set it from outside)", unix.EROFS)
		case errors.As(err, &path):
			return path.Err // the command says the path
		}
		return err
	})
}

// writeAddrGenMode goes by netlink: written as a file, a mode makes a link-local address at once.
func (k *Kernel) writeAddrGenMode(device, value string) error {
	mode, err := strconv.Atoi(value)
	if err != nil {
		return err
	}
	link, err := k.links.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return k.links.LinkSetIP6AddrGenMode(link, mode)
}

// set writes s if that changes anything.
func (k *Kernel) set(l *ledger, s setting) error {
	old, err := k.read(s.path)
	if err != nil {
		return fmt.Errorf("%s: %w", s.command(), err)
	}
	if old == s.value {
		return nil
	}
	return l.step(s.command(), func() error { return k.write(s) }, func() error { return k.write(setting{s.path, old}) })
}

// deviceSettings are those of our device. IPv6 stays silent on it: no link-local address, so no router
// solicitations or duplicate address detection; and nothing at all where the family is not used.
func (k *Kernel) deviceSettings(s State) []setting {
	var list []setting
	switch {
	case s.Silent: // a kernel answers ARP for all its addresses on any device, even on one that has none
		list = []setting{{"ipv4/conf/" + s.Device + "/arp_ignore", "8"}}
	case s.Routed:
		list = []setting{
			{"ipv4/conf/" + s.Device + "/rp_filter", "2"},    // clients' addresses come in here: loose
			{"ipv4/conf/" + s.Device + "/accept_local", "1"}, // and so do the box's own
		}
	}
	if !k.ipv6 {
		return list
	}
	v6 := func(name, value string) { list = append(list, setting{"ipv6/conf/" + s.Device + "/" + name, value}) }
	if !s.uses(unix.AF_INET6) {
		v6("disable_ipv6", "1")
		return list
	}
	v6("addr_gen_mode", "1") // none
	v6("accept_ra", "0")
	v6("autoconf", "0")
	v6("disable_ipv6", "0")
	return list
}

// Notes are no-op rules that say in the kernel itself how a setting of the whole namespace stood before, so
// that a crashed run can be undone without a file. The one with a family's first number says that the
// main setting was 0; the others are about what changes along with it.
const (
	noteForwarding = prefNotes + iota // ip_forward, or ipv6 all/forwarding, was 0
	noteRedirects                     // ipv4 all/accept_redirects was 0: the kernel sets it to 1 when forwarding ends
	noteDevice                        // forwarding of the device in iif was 1: the kernel sets all to 0 then
	noteAcceptRA                      // ipv6 accept_ra of the device in iif was 1
	noteProxyNDP                      // ipv6 all/proxy_ndp was 0
	noteEarlyTCP                      // ipv4 tcp_early_demux, which is both families', was 1
	noteEarlyUDP                      // likewise
	noteEnd
)

func isNote(r rule) bool {
	return r.protocol == protocol && r.action == nl.FR_ACT_NOP && r.pref >= prefNotes && r.pref < noteEnd
}

func note(family uint8, pref uint32, device string) rule {
	return rule{family: family, pref: pref, action: nl.FR_ACT_NOP, iif: device, protocol: protocol}
}

// notes lists the notes of a family.
func (k *Kernel) notes(family uint8) ([]rule, error) {
	rules, err := k.rules(family)
	return slices.DeleteFunc(rules, func(r rule) bool { return !isNote(r) }), err
}

func mainForwarding(family uint8) string {
	if family == unix.AF_INET6 {
		return "ipv6/conf/all/forwarding"
	}
	return "ipv4/ip_forward"
}

func forwardingOf(family uint8, device string) string {
	if family == unix.AF_INET6 {
		return "ipv6/conf/" + device + "/forwarding"
	}
	return "ipv4/conf/" + device + "/forwarding"
}

// forward switches forwarding on and notes what changes with that.
func (k *Kernel) forward(l *ledger, family uint8) error {
	on := setting{mainForwarding(family), "1"}
	old, err := k.read(on.path)
	if err != nil || old != "0" {
		return err
	}
	have, err := k.notes(family)
	if err != nil {
		return err
	}
	want, err := k.consequences(family)
	if err != nil {
		return err
	}
	want = append(want, note(family, noteForwarding, "")) // last: with it the others are valid
	for _, n := range want {
		if !slices.Contains(have, n) {
			if err := l.addOne(k, n); err != nil {
				return err
			}
		}
	}
	for _, n := range want {
		if n.pref == noteAcceptRA {
			if err := k.set(l, setting{"ipv6/conf/" + n.iif + "/accept_ra", "2"}); err != nil {
				return err
			}
		}
	}
	return l.step(on.command(), func() error { return k.write(on) }, func() error {
		return k.stopForwarding(&ledger{stubborn: true}, family, want)
	})
}

// consequences notes what will not be as before when forwarding has been switched on and off.
func (k *Kernel) consequences(family uint8) ([]rule, error) {
	var list []rule
	if family == unix.AF_INET {
		redirects, err := k.read("ipv4/conf/all/accept_redirects")
		if err != nil {
			return nil, err
		}
		if redirects == "0" {
			list = append(list, note(family, noteRedirects, ""))
		}
	}
	devices, err := k.deviceNames()
	if err != nil {
		return nil, err
	}
	names := []string{"default"}
	for _, name := range devices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if v, err := k.read(forwardingOf(family, name)); err == nil && v != "0" {
			list = append(list, note(family, noteDevice, name))
		}
	}
	if family == unix.AF_INET {
		return list, nil
	}
	routes, err := k.routes(family, 0, unix.RTPROT_RA)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		// A router drops default routes that it learnt as a host, and with them perhaps the way to its
		// administrator. accept_ra 2 keeps them.
		n := note(family, noteAcceptRA, r.dev)
		if v, err := k.read("ipv6/conf/" + r.dev + "/accept_ra"); err == nil && v == "1" && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list, nil
}

// unforward puts forwarding back as noted, and forgets the notes.
func (k *Kernel) unforward(l *ledger, family uint8) error {
	notes, err := k.notes(family)
	if err != nil {
		return err
	}
	notes = slices.DeleteFunc(notes, func(n rule) bool { return n.pref >= noteProxyNDP }) // not forwarding's
	valid := slices.ContainsFunc(notes, func(n rule) bool { return n.pref == noteForwarding })
	if valid {
		if err := k.stopForwarding(l, family, notes); err != nil {
			return err
		}
	}
	slices.SortFunc(notes, func(a, b rule) int { return int(b.pref) - int(a.pref) }) // the one that makes the others valid goes last
	for _, n := range notes {
		if err := l.removeOne(k, n); err != nil {
			return err
		}
	}
	return nil
}

// stopForwarding writes what the notes say. What somebody else has changed since is left alone.
func (k *Kernel) stopForwarding(l *ledger, family uint8, notes []rule) error {
	off := setting{mainForwarding(family), "0"}
	now, err := k.read(off.path)
	if err != nil {
		return err
	}
	if now == "1" {
		undo := func() error { return k.write(setting{off.path, "1"}) }
		if err := l.step(off.command(), func() error { return k.write(off) }, undo); err != nil {
			return err
		}
	}
	for _, n := range notes {
		var back setting
		switch {
		case n.pref == noteRedirects && now == "1":
			back = setting{"ipv4/conf/all/accept_redirects", "0"}
		case n.pref == noteDevice && now == "1":
			back = setting{forwardingOf(family, n.iif), "1"}
		case n.pref == noteAcceptRA:
			back = setting{"ipv6/conf/" + n.iif + "/accept_ra", "1"}
		default:
			continue
		}
		if v, err := k.read(back.path); err != nil || n.pref == noteAcceptRA && v != "2" {
			continue // the device is gone, or somebody else has set it
		}
		if err := k.set(l, back); err != nil {
			return err
		}
	}
	return nil
}

// answerForProxies switches IPv6 proxy neighbours on, or back as noted.
func (k *Kernel) answerForProxies(l *ledger, on bool) error {
	return k.turn(l, note(unix.AF_INET6, noteProxyNDP, ""), "ipv6/conf/all/proxy_ndp", "0", "1", on)
}

// routeFirst has the kernel ask the rules before it looks for a socket, or back as noted.
func (k *Kernel) routeFirst(l *ledger, proto uint8, on bool) error {
	if proto == unix.IPPROTO_TCP {
		return k.turn(l, note(unix.AF_INET, noteEarlyTCP, ""), "ipv4/tcp_early_demux", "1", "0", on)
	}
	return k.turn(l, note(unix.AF_INET, noteEarlyUDP, ""), "ipv4/udp_early_demux", "1", "0", on)
}

// turn turns a setting with two values to the one that is ours, or back to the one that was if n says that it was
// this one.
func (k *Kernel) turn(l *ledger, n rule, path, theirs, ours string, on bool) error {
	notes, err := k.notes(n.family)
	if err != nil {
		return err
	}
	noted := slices.Contains(notes, n)
	if !on && !noted {
		return nil
	}
	now, err := k.read(path)
	if err != nil {
		return fmt.Errorf("%s: %w", setting{path, ours}.command(), err)
	}
	switch {
	case on && now == theirs:
		if !noted {
			if err := l.addOne(k, n); err != nil {
				return err
			}
		}
		return k.set(l, setting{path, ours})
	case !on:
		if now == ours {
			if err := k.set(l, setting{path, theirs}); err != nil {
				return err
			}
		}
		return l.removeOne(k, n)
	}
	return nil
}
