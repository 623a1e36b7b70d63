package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Kernel tells the kernel of one network namespace what a State asks for. It comes from Open; its user
// closes it. Safe for concurrent use.
type Kernel struct {
	ns      netns.NsHandle
	links   *netlink.Handle
	sockets map[int]*nl.SocketHandle // for what links cannot express
	ipv6    bool

	mu     sync.Mutex // guards the following, held while the kernel is changed
	closed bool
	added  map[address]bool // addresses that we added: kernels before 5.18 don't know whose they are
	saved  []savedSetting   // settings of devices as they were, in the order of changing
	raised []raisedLink     // devices that were down
	aside  bool             // the State is Silent or Foreign: what is ours in the namespace is another Kernel's
}

type savedSetting struct {
	setting
	index int // of the device, which may be gone and another in its place
}

type raisedLink struct {
	name  string
	index int
}

// Open gets ready to tell the kernel of the network namespace at nsPath; "" is the caller's. Nothing is
// changed yet.
func Open(nsPath string) (*Kernel, error) {
	runtime.LockOSThread() // the caller's namespace is its thread's
	defer runtime.UnlockOSThread()
	k := &Kernel{ns: netns.None(), added: map[address]bool{}}
	if err := k.open(nsPath); err != nil {
		k.release()
		return nil, fmt.Errorf("open network namespace %q: %w", nsPath, err)
	}
	return k, nil
}

func (k *Kernel) open(nsPath string) (err error) {
	if nsPath == "" {
		k.ns, err = netns.Get()
	} else {
		k.ns, err = netns.GetFromPath(nsPath)
	}
	if err != nil {
		return err
	}
	return k.inside(func() error {
		if k.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		k.sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
		// With these, errors say what the kernel disliked, and lists are filtered in the kernel. Unknown
		// before Linux 4.12 and 4.20, and only a convenience.
		_ = socket.SetExtAck(true)
		_ = unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
		_, err = os.Stat("/proc/sys/net/ipv6")
		if k.ipv6 = err == nil; errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (k *Kernel) release() {
	if k.links != nil {
		k.links.Close()
	}
	for _, s := range k.sockets {
		s.Close()
	}
	if k.ns.IsOpen() {
		k.ns.Close()
	}
}

// Apply makes s true. What is so already is not touched, what an earlier Apply (or a run that crashed)
// added and s no longer wants goes away. If something fails, all steps of this Apply are taken back, and the
// error has the ip or sysctl command that does the same as the failed step.
//
// Which rules a VIP needs depends on whether the box itself has the address at this moment: call Apply with
// the same State again when Watch sees a change.
func (k *Kernel) Apply(s State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return os.ErrClosed
	}
	if err := s.check(); err != nil {
		return err
	}
	var l ledger
	k.aside = s.Silent || s.Foreign
	if err := k.applyLocked(&l, s); err != nil {
		return errors.Join(err, l.rollback())
	}
	return nil
}

func (k *Kernel) applyLocked(l *ledger, s State) error {
	if k.aside {
		_, _, err := k.device(l, s, nil)
		return err
	}
	have, err := k.ours()
	if err != nil {
		return err
	}
	var want []object
	index := 0
	if s.Device != "" {
		if index, want, err = k.device(l, s, have); err != nil {
			return err
		}
	}
	plans := map[uint8]planner{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if s.Routed && s.uses(family) {
			plan, err := k.steer(l, s, family, index, have)
			if err != nil {
				return err
			}
			plans[family] = plan
			want = append(want, plan.objects()...)
		}
	}
	return k.settle(l, plans, have, want)
}

// device prepares the device of s: its settings, its addresses, up, its routes.
func (k *Kernel) device(l *ledger, s State, have []object) (index int, want []object, err error) {
	link, err := k.links.LinkByName(s.Device)
	if err != nil {
		return 0, nil, fmt.Errorf("ip link show dev %s: %w", s.Device, err)
	}
	if k.aside {
		if err := k.checkAside(s, link); err != nil || s.Foreign {
			return 0, nil, err
		}
	}
	index = link.Attrs().Index
	if !k.ipv6 && s.uses(unix.AF_INET6) {
		return 0, nil, errors.New("this kernel runs without IPv6 (/proc/sys/net/ipv6 is missing), but IPv6 addresses are asked for")
	}
	for _, setting := range k.deviceSettings(s) {
		if err := k.setDevice(l, setting, index); err != nil {
			return 0, nil, err
		}
	}
	present, err := k.addresses(unix.AF_UNSPEC)
	if err != nil {
		return 0, nil, err
	}
	for _, p := range s.Addresses {
		a := address{prefix: p, dev: s.Device, index: index}
		want = append(want, a)
		if !slices.ContainsFunc(present, func(e addressEntry) bool { return e.address == a }) {
			if err := k.addAddress(l, a); err != nil {
				return 0, nil, err
			}
		}
	}
	if err := k.raise(l, link); err != nil {
		return 0, nil, err
	}
	if !s.Routed && !s.Silent { // the namespace is made for the device: nobody else may have started its loopback
		lo, err := k.links.LinkByName("lo")
		if err != nil {
			return 0, nil, fmt.Errorf("ip link show dev lo: %w", err)
		}
		if err := k.raise(l, lo); err != nil {
			return 0, nil, err
		}
	}
	var routes []object
	for _, p := range s.Routes {
		routes = append(routes, route{dst: p.Masked(), table: unix.RT_TABLE_MAIN, dev: s.Device, index: index})
	}
	return index, append(want, routes...), l.add(k, routes, have)
}

// setDevice writes a setting of our device, and remembers for Close what it was.
func (k *Kernel) setDevice(l *ledger, s setting, index int) error {
	old, err := k.read(s.path)
	if err != nil {
		return fmt.Errorf("%s: %w", s.command(), err)
	}
	if old == s.value {
		return nil
	}
	return l.step(s.command(), func() error {
		k.saved = append(k.saved, savedSetting{setting{s.path, old}, index})
		return k.write(s)
	}, func() error {
		k.saved = k.saved[:len(k.saved)-1]
		return k.write(setting{s.path, old})
	})
}

func (k *Kernel) addAddress(l *ledger, a address) error {
	return l.step(a.command("add"), func() error {
		err := k.add(a)
		k.added[a] = err == nil
		return err
	}, func() error {
		delete(k.added, a)
		return k.del(a)
	})
}

// raise sets a device up, and remembers for Close that it was down.
func (k *Kernel) raise(l *ledger, link netlink.Link) error {
	at := link.Attrs()
	if at.Flags&net.FlagUp != 0 {
		return nil
	}
	return l.step("ip link set dev "+at.Name+" up", func() error {
		k.raised = append(k.raised, raisedLink{at.Name, at.Index})
		return k.links.LinkSetUp(link)
	}, func() error {
		k.raised = k.raised[:len(k.raised)-1]
		return k.links.LinkSetDown(link)
	})
}

// steer leads one family's packets to the device.
func (k *Kernel) steer(l *ledger, s State, family uint8, index int, have []object) (planner, error) {
	facts, err := k.facts(family, index)
	if err != nil {
		return planner{}, err
	}
	plan := s.plan(family, facts)
	if plan.early && facts.obstacle != (rule{}) {
		return planner{}, fmt.Errorf("the box has an address that is also a VIP or masquerades, so `lookup local` must stand behind preference %d, but another one stands before: %s",
			prefLocal, facts.obstacle.command("del"))
	}
	if err := k.forward(l, family); err != nil {
		return planner{}, err
	}
	if len(plan.proxies) > 0 {
		if err := k.answerForProxies(l, true); err != nil {
			return planner{}, err
		}
	}
	for proto := range plan.lost {
		if plan.lost[proto] {
			if err := k.routeFirst(l, proto, true); err != nil {
				return planner{}, err
			}
		}
	}
	return plan, l.add(k, plan.objects(), have)
}

// facts finds out what the plan must know.
func (k *Kernel) facts(family uint8, index int) (facts, error) {
	f := facts{index: index, neighbours: map[netip.Addr][]proxy{}}
	addresses, err := k.addresses(family)
	if err != nil {
		return f, err
	}
	for _, a := range addresses {
		f.local = append(f.local, single(a.prefix.Addr())) // IPv6 makes the local route a moment later
		k.addNeighbour(&f, a.address)
	}
	routes, err := k.routes(family, unix.RT_TABLE_LOCAL, 0)
	if err != nil {
		return f, err
	}
	for _, r := range routes {
		if r.kind == unix.RTN_LOCAL { // such as `ip route add local 203.0.113.0/24 dev lo`
			f.local = append(f.local, r.dst)
		}
	}
	rules, err := k.rules(family)
	if err != nil {
		return f, err
	}
	for _, r := range rules {
		switch {
		case r.first(), r.protocol == protocol && r.pref == prefLocal:
			f.localFirst = true
		case r.local() && r.protocol != protocol && r.pref < prefLocal:
			f.obstacle = r
		}
	}
	return f, nil
}

// addNeighbour adds the device of a if IPv6 neighbours are discovered there.
func (k *Kernel) addNeighbour(f *facts, a address) {
	addr := a.prefix.Addr()
	link, err := k.links.LinkByIndex(a.index)
	if err != nil || addr.Is4() || link.Attrs().RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) != 0 {
		return
	}
	f.neighbours[addr] = append(f.neighbours[addr], proxy{addr, a.dev, a.index})
}

// settle ends a change in which all that is wanted has been added: it puts the local rule where it belongs,
// and removes and switches off what is no longer wanted.
func (k *Kernel) settle(l *ledger, plans map[uint8]planner, have, want []object) error {
	for _, family := range k.families() {
		if err := k.placeLocal(l, family, plans[family].moved); err != nil {
			return err
		}
	}
	if err := l.remove(k, have, want); err != nil {
		return err
	}
	for _, family := range k.families() {
		if _, used := plans[family]; !used {
			if err := k.unforward(l, family); err != nil {
				return err
			}
		}
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		if !plans[unix.AF_INET].lost[proto] && !plans[unix.AF_INET6].lost[proto] {
			if err := k.routeFirst(l, proto, false); err != nil {
				return err
			}
		}
	}
	if k.ipv6 && len(plans[unix.AF_INET6].proxies) == 0 {
		return k.answerForProxies(l, false)
	}
	return nil
}

// placeLocal removes the kernel's `lookup local` at 0 when ours stands further behind, or puts it back
// before ours is removed. There is always one of them.
func (k *Kernel) placeLocal(l *ledger, family uint8, moved bool) error {
	rules, err := k.rules(family)
	if err != nil {
		return err
	}
	first := slices.IndexFunc(rules, rule.first)
	ours := slices.ContainsFunc(rules, func(r rule) bool { return r.protocol == protocol && r.pref == prefLocal })
	switch {
	case moved && ours && first >= 0:
		return l.removeOne(k, rules[first])
	case !moved && ours && first < 0:
		return l.addOne(k, kernelLocal(family))
	}
	return nil
}

// Close undoes all that Apply has done. What cannot be undone is named in the error, the rest is.
func (k *Kernel) Close() error {
	_, err := k.clean()
	return err
}

// Clean removes from the namespace at nsPath ("" is the caller's) what a crashed run has left there, and nothing
// else, and returns the commands that would have done the same. What is not left over but in use is ErrInUse:
// a TUN goes with the process that made it, so rules whose device is there belong to somebody who lives. A
// namespace that is gone has nothing left.
func Clean(nsPath string) ([]string, error) {
	k, err := Open(nsPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	have, err := k.ours()
	if device := k.inUse(have); device != "" {
		err = fmt.Errorf("%w: by whoever has made device %s; stop that one first", ErrInUse, device)
	}
	if err != nil {
		k.release()
		return nil, err
	}
	return k.clean()
}

func (k *Kernel) clean() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, nil
	}
	k.closed = true
	defer k.release()
	l := ledger{stubborn: true}
	var err error
	if !k.aside {
		have, failed := k.ours()
		if failed != nil {
			return nil, failed
		}
		err = k.settle(&l, nil, have, nil)
	}
	for _, link := range slices.Backward(k.raised) {
		l.lower(k, link)
	}
	for _, s := range slices.Backward(k.saved) {
		l.restore(k, s)
	}
	return l.done, errors.Join(append(l.errs, err)...)
}

// inUse is the device that rules of ours are for and that a process has open; "" if there is none.
func (k *Kernel) inUse(have []object) string {
	for _, o := range have {
		r, ok := o.(rule)
		if !ok || r.pref != prefDeviceLocal {
			continue
		}
		if link, err := k.links.LinkByName(r.iif); err == nil && link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return r.iif
		}
	}
	return ""
}
