package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sentinel ends a record of frames: an experimental type (IEEE 802, local).
const sentinel = 0x88b5

// whoHas is an ARP request for 198.51.100.1, the outer address of the box.
var whoHas = []byte{
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x99, 0x08, 0x06,
	0, 1, 0x08, 0, 6, 4, 0, 1, // Ethernet, IPv4, request
	0x02, 0, 0, 0, 0, 0x99, 198, 51, 100, 99,
	0, 0, 0, 0, 0, 0, 198, 51, 100, 1,
}

// heard returns the types of the frames that the kernel has sent into the TAP up to now.
func (l *lab) heard(tap *os.File, name string) []uint16 {
	l.t.Helper()
	l.must(l.inside(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		frame := make([]byte, 60)
		binary.BigEndian.PutUint16(frame[12:], sentinel)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.link(name).Attrs().Index})
	}))
	var types []uint16
	for buf := make([]byte, 2048); ; {
		_, err := tap.Read(buf)
		l.must(err)
		typ := binary.BigEndian.Uint16(buf[12:])
		if typ == sentinel {
			return types
		}
		types = append(types, typ)
	}
}

// groups6 counts the IPv6 groups that the kernel has joined on the device, and reports to its neighbours: not the
// one of all nodes, in which every device is and which nobody reports (RFC 3810, section 6).
func (l *lab) groups6(device string) (n int) {
	l.t.Helper()
	l.must(l.inside(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/igmp6")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == device && !strings.HasSuffix(f[2], "0000000000001") {
				n++
			}
		}
		return err
	}))
	return n
}

// TestSilent checks that a kernel keeps quiet on a TAP, and that it would not do so by itself.
func TestSilent(t *testing.T) {
	for _, c := range []struct {
		name   string
		silent bool
	}{
		{"silent", true},
		{"as the kernel has it", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			tap := n.box.device("tap0", unix.IFF_TAP)
			n.box.must(n.box.links.LinkSetDown(n.box.link("lo")))
			before := n.box.snapshot()
			k := open(t, n.box)
			if c.silent {
				apply(t, k, State{Device: "tap0", Silent: true})
				if !k.up("tap0") || k.up("lo") {
					t.Errorf("tap0 is up: %t; lo, which is nobody's business: %t", k.up("tap0"), k.up("lo"))
				}
			} else {
				n.box.up("tap0")
			}
			if _, err := tap.Write(whoHas); err != nil {
				t.Fatal(err)
			}
			if answered := slices.Contains(n.box.heard(tap, "tap0"), 0x0806); answered == c.silent {
				t.Errorf("the kernel answers for an address of another device: %t", answered)
			}
			if !c.silent {
				n.box.until("IPv6 to join the group of its address", func() bool { return n.box.groups6("tap0") > 0 })
				return
			}
			if groups := n.box.groups6("tap0"); groups > 0 {
				t.Errorf("IPv6 is in %d groups", groups)
			}
			if got := n.box.heard(tap, "tap0"); len(got) > 0 {
				t.Errorf("the kernel sent frames of types %#x", got)
			}
			if err := k.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			same(t, "Close", before, n.box.snapshot())
		})
	}
}

func (k *Kernel) up(device string) bool {
	link, err := k.links.LinkByName(device)
	return err == nil && link.Attrs().Flags&net.FlagUp != 0
}

// TestForeign checks that an interface of the administrator's is left alone, and has to be there and up.
func TestForeign(t *testing.T) {
	n := newNetwork(t)
	k := open(t, n.box)
	s := State{Device: "outer", Foreign: true}
	before := n.box.snapshot()
	apply(t, k, s)
	same(t, "Apply", before, n.box.snapshot())
	n.box.must(n.box.links.LinkSetDown(n.box.link("outer")))
	before = n.box.snapshot()
	if err := k.Apply(s); err == nil || !strings.Contains(err.Error(), "run `ip link set dev outer up`") {
		t.Errorf("an interface that is down: %v", err)
	}
	if err := k.Apply(State{Device: "outer9", Foreign: true}); err == nil || !strings.Contains(err.Error(), "ip link show dev outer9") {
		t.Errorf("no interface: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	same(t, "Close", before, n.box.snapshot())
}

// TestAside checks that the device of a segment beside a TUN takes nothing away from that one.
func TestAside(t *testing.T) {
	for _, aside := range []State{{Device: "tap0", Silent: true}, {Device: "outer", Foreign: true}} {
		n := newNetwork(t)
		n.box.device("tap0", unix.IFF_TAP)
		box := open(t, n.box)
		apply(t, box, full())
		before, others := n.box.snapshot(), n.box.snapshot("tap0")
		k := open(t, n.box)
		apply(t, k, aside)
		same(t, "Apply for "+aside.Device, others, n.box.snapshot("tap0"))
		apply(t, box, full())
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		same(t, "Close for "+aside.Device, before, n.box.snapshot())
		if _, err := Clean(n.box.path); !errors.Is(err, ErrInUse) {
			t.Errorf("Clean: %v, want %v", err, ErrInUse)
		}
	}
}

func TestAsideStandsAlone(t *testing.T) {
	n := newNetwork(t)
	k := open(t, n.box)
	for _, s := range []State{
		{Silent: true},
		{Foreign: true},
		{Device: "outer", Silent: true, Foreign: true},
		{Device: "outer", Silent: true, Routed: true},
		{Device: "outer", Foreign: true, Addresses: prefixes("10.255.0.1/30")},
		{Device: "outer", Silent: true, Routes: prefixes("::/0")},
		{Device: "outer", Silent: true, Alone: true},
		{Device: "outer", Alone: true},
		{Device: "outer", Absent: []netip.Addr{netip.MustParseAddr("203.0.113.5")}},
		{Absent: []netip.Addr{netip.MustParseAddr("203.0.113.5")}},
		{Device: "outer", Foreign: true, Absent: []netip.Addr{{}}},
		{Device: "outer", Foreign: true, Absent: []netip.Addr{netip.MustParseAddr("::ffff:203.0.113.5")}},
	} {
		if err := k.Apply(s); err == nil {
			t.Errorf("%+v: no error", s)
		}
	}
}
