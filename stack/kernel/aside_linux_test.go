package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// refused wants Apply to fail with all of want in its error, and to have changed nothing.
func (l *lab) refused(k *Kernel, s State, want ...string) {
	l.t.Helper()
	before := l.snapshot()
	err := k.Apply(s)
	if err == nil {
		l.t.Fatalf("%+v: no error", s)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			l.t.Errorf("%+v: %v, want %q", s, err, w)
		}
	}
	same(l.t, "a refused Apply", before, l.snapshot())
}

// TestAbsent: tunlb's addresses may be the box's own on lo, and nowhere else.
func TestAbsent(t *testing.T) {
	absent := []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8:113::5"), netip.MustParseAddr("203.0.113.22"), netip.MustParseAddr("2001:db8:113::22")}
	for _, s := range []State{
		{Device: "outer", Foreign: true, Absent: absent},
		{Device: "tap0", Silent: true, Absent: absent},
	} {
		t.Run(s.Device, func(t *testing.T) {
			n := newNetwork(t)
			n.box.device("tap0", unix.IFF_TAP)
			n.box.addr("lo", "203.0.113.22/32", "2001:db8:113::22/128")
			n.box.addr("outer", "203.0.113.6/24", "2001:db8:113::6/64") // a neighbour of theirs
			k := open(t, n.box)
			for _, c := range [][2]string{
				{"outer", "203.0.113.5/24"}, {"outer", "2001:db8:113::5/64"},
				{"inner", "203.0.113.5/25"}, {"inner", "2001:db8:113::5/128"},
				{"inner", "203.0.113.22/32"}, {"inner", "2001:db8:113::22/128"}, // on lo besides
			} {
				n.box.addr(c[0], c[1])
				p := netip.MustParsePrefix(c[1])
				n.box.refused(k, s, fmt.Sprintf("address %s is this box's own, on %s, but tunlb is a host of its own", p.Addr(), c[0]),
					fmt.Sprintf("`%s addr del %s dev %s`", ip(familyOf(p.Addr())), p, c[0]))
				n.box.delAddr(c[0], c[1])
			}
			n.box.addr("outer", "203.0.113.5/24")
			n.box.addr("inner", "2001:db8:113::5/64")
			n.box.refused(k, s, "ip addr del 203.0.113.5/24 dev outer", "ip -6 addr del 2001:db8:113::5/64 dev inner")
			without := s
			without.Absent = nil
			apply(t, k, without) // nothing but Absent is in the way
			n.box.refused(k, s, "203.0.113.5/24")
			n.box.delAddr("outer", "203.0.113.5/24")
			n.box.delAddr("inner", "2001:db8:113::5/64")
			apply(t, k, s)
		})
	}
}

// TestAbsentElsewhere: another namespace's addresses are that one's own matter.
func TestAbsentElsewhere(t *testing.T) {
	n := newNetwork(t)
	apply(t, open(t, n.box), State{Device: "outer", Foreign: true, Absent: []netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:1::2")}})
}

// TestAlone: an interface of the switch is no port of a bridge or bond.
func TestAlone(t *testing.T) {
	for _, c := range []struct {
		master netlink.Link
		alone  bool // with it as the master
	}{
		{&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "master0"}}, false},
		{netlink.NewLinkBond(netlink.LinkAttrs{Name: "master0"}), false},
		{&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "master0"}, Table: 9}, true},
	} {
		t.Run(c.master.Type(), func(t *testing.T) {
			n := newNetwork(t)
			k := open(t, n.box)
			s := State{Device: "outer", Foreign: true, Alone: true}
			apply(t, k, s)
			if err := n.box.links.LinkAdd(c.master); err != nil {
				t.Skipf("no %s: %v", c.master.Type(), err)
			}
			if c.master.Type() == "bond" { // takes only those that are down
				n.box.must(n.box.links.LinkSetDown(n.box.link("outer")))
			}
			n.box.must(n.box.links.LinkSetMaster(n.box.link("outer"), n.box.link("master0")))
			n.box.up("outer")
			n.box.until("its carrier", func() bool { return n.box.link("outer").Attrs().Flags&net.FlagRunning != 0 })
			if c.alone {
				apply(t, k, s)
				return
			}
			n.box.refused(k, s, "interface outer is a port of master0 ("+c.master.Type()+")", "`ip link set outer nomaster`")
			apply(t, k, State{Device: "outer", Foreign: true}) // one-arm, it may be
			n.box.must(n.box.links.LinkSetNoMaster(n.box.link("outer")))
			n.box.up("outer")
			apply(t, k, s)
		})
	}
}
