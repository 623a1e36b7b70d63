package kernel

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	tcp   = unix.IPPROTO_TCP
	udp   = unix.IPPROTO_UDP
	icmp  = unix.IPPROTO_ICMP
	icmp6 = unix.IPPROTO_ICMPV6
)

// The networks of the tests:
//
//	client .2 -- 198.51.100.0/24 -- .1 box 192.168.0.100 -- 192.168.0.0/24 -- .10 server
//	        ::2 - 2001:db8:1::/64 - ::1     fd00::100    -- fd00::/64      -- ::10
//
// VIPs are 203.0.113.22 and 2001:db8:22::22.
type network struct {
	client, box, server *lab
	tun                 *os.File
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{client: newLab(t), box: newLab(t), server: newLab(t)}
	veth(n.box, "outer", n.client, "eth0")
	veth(n.box, "inner", n.server, "eth0")
	n.client.addr("eth0", "198.51.100.2/24", "2001:db8:1::2/64")
	n.box.addr("outer", "198.51.100.1/24", "2001:db8:1::1/64")
	n.box.addr("inner", "192.168.0.100/24", "fd00::100/64")
	n.server.addr("eth0", "192.168.0.10/24", "fd00::10/64")
	n.client.via("0.0.0.0/0", "198.51.100.1")
	n.client.via("::/0", "2001:db8:1::1")
	n.server.via("0.0.0.0/0", "192.168.0.100")
	n.server.via("::/0", "fd00::100")
	n.tun = n.box.tun("tunlb0")
	return n
}

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// full is a state with everything in it, for both families.
func full() State {
	return State{
		Device:    "tunlb0",
		Addresses: prefixes("10.255.0.1/30", "fd00:255::1/126"),
		Routed:    true,
		VIPs: []VIP{
			{netip.MustParseAddr("203.0.113.22"), []PortProto{{tcp, 80, 80}, {udp, 53, 53}}},
			{netip.MustParseAddr("2001:db8:22::22"), []PortProto{{tcp, 80, 80}, {udp, 53, 53}}},
		},
		Servers: []Server{
			{netip.MustParseAddr("192.168.0.10"), tcp, 8080, 8080}, {netip.MustParseAddr("192.168.0.10"), udp, 53, 53},
			{netip.MustParseAddr("fd00::10"), tcp, 8080, 8080}, {netip.MustParseAddr("fd00::10"), udp, 53, 53},
		},
		Gateways: []Gateway{
			{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParseAddr("198.51.100.1"), 32768, 60999},
			{netip.MustParsePrefix("fd00::/64"), netip.MustParseAddr("2001:db8:1::1"), 32768, 60999},
		},
	}
}

func open(t testing.TB, l *lab) *Kernel {
	t.Helper()
	k, err := Open(l.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func apply(t testing.TB, k *Kernel, s State) {
	t.Helper()
	if err := k.Apply(s); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// TestApplyClose checks that Close leaves exactly what was, and that a second Apply changes nothing.
func TestApplyClose(t *testing.T) {
	virtual := State{Device: "tunlb0", Addresses: prefixes("10.255.0.1/30", "fd00:255::1/126"), Routes: prefixes("10.0.0.0/8", "fd01::/16")}
	v4, v6 := full(), full()
	v4.Addresses, v4.VIPs, v4.Servers, v4.Gateways = v4.Addresses[:1], v4.VIPs[:1], v4.Servers[:2], v4.Gateways[:1]
	v6.Addresses, v6.VIPs, v6.Servers, v6.Gateways = v6.Addresses[1:], v6.VIPs[1:], v6.Servers[2:], v6.Gateways[1:]
	plain := full()
	plain.Gateways = nil
	for _, c := range []struct {
		name    string
		state   State
		prepare func(n *network)
	}{
		{"both families", full(), nil},
		{"IPv4 only", v4, nil},
		{"IPv6 only", v6, nil},
		{"nothing local", plain, nil},
		{"VIPs of the box", full(), func(n *network) { n.box.addr("lo", "203.0.113.22/32"); n.box.addr("outer", "2001:db8:22::22/128") }},
		{"forwarding was on", full(), func(n *network) {
			n.box.setSysctl("ipv4/ip_forward", "1")
			n.box.setSysctl("ipv6/conf/all/forwarding", "1")
		}},
		{"forwarding was on here and there", full(), func(n *network) {
			n.box.setSysctl("ipv4/conf/outer/forwarding", "1")
			n.box.setSysctl("ipv4/conf/default/forwarding", "1")
			n.box.setSysctl("ipv6/conf/inner/forwarding", "1")
			n.box.setSysctl("ipv4/conf/all/accept_redirects", "0")
		}},
		{"proxy_ndp was on", full(), func(n *network) { n.box.setSysctl("ipv6/conf/all/proxy_ndp", "1") }},
		{"local rule elsewhere", full(), func(n *network) { n.box.moveLocalAway(32000) }},
		{"virtual router", virtual, func(n *network) { n.box.must(n.box.links.LinkSetDown(n.box.link("lo"))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			if c.prepare != nil {
				c.prepare(n)
			}
			before := n.box.snapshot()
			k := open(t, n.box)
			apply(t, k, c.state)
			applied := n.box.snapshot()
			if diff(before, applied) == "" {
				t.Error("Apply has changed nothing")
			}
			apply(t, k, c.state)
			same(t, "a second Apply", applied, n.box.snapshot())
			if err := k.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			same(t, "Close", before, n.box.snapshot())
			if err := k.Close(); err != nil {
				t.Errorf("a second Close: %v", err)
			}
			if err := k.Apply(c.state); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Apply after Close: got %v, want %v", err, os.ErrClosed)
			}
		})
	}
}

// moveLocalAway is what an administrator does who wants the local rule elsewhere.
func (l *lab) moveLocalAway(pref uint32) {
	l.t.Helper()
	for _, f := range l.families() {
		moved := kernelLocal(f)
		moved.pref, moved.protocol = pref, unix.RTPROT_STATIC
		l.must(l.add(moved))
		l.must(l.del(kernelLocal(f)))
	}
}

// TestCrash checks that Clean finds what a crashed run has left, and leaves others' alone.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(n *network)
		crash   func(n *network)
	}{
		{name: "plain"},
		{name: "VIPs of the box", prepare: func(n *network) {
			n.box.addr("lo", "203.0.113.22/32")
			n.box.addr("outer", "2001:db8:22::22/128")
		}},
		{name: "in the middle of moving the local rule", crash: func(n *network) { n.box.must(n.box.add(kernelLocal(unix.AF_INET))) }},
		{name: "forwarding here and there", prepare: func(n *network) {
			n.box.setSysctl("ipv4/conf/outer/forwarding", "1")
			n.box.setSysctl("ipv6/conf/inner/forwarding", "1")
			n.box.setSysctl("ipv4/conf/all/accept_redirects", "0")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			if c.prepare != nil {
				c.prepare(n)
			}
			for _, foreign := range []object{ // right among ours
				rule{family: unix.AF_INET, pref: prefVIP, action: nl.FR_ACT_TO_TBL, table: 100, to: prefixes("203.0.113.99/32")[0], protocol: unix.RTPROT_STATIC},
				rule{family: unix.AF_INET6, pref: noteForwarding, action: nl.FR_ACT_NOP, iif: "inner", protocol: unix.RTPROT_STATIC},
			} {
				n.box.must(n.box.add(foreign))
			}
			before := n.box.snapshot("tunlb0")
			k := open(t, n.box)
			apply(t, k, full())
			k.release() // and the process is gone, and its device with it
			k.closed = true
			n.tun.Close()
			n.box.gone("tunlb0")
			if c.crash != nil {
				c.crash(n)
			}
			done, err := Clean(n.box.path)
			if err != nil {
				t.Errorf("Clean: %v", err)
			}
			same(t, "Clean", before, n.box.snapshot("tunlb0"))
			for _, want := range []string{
				"ip rule del pref 7431 to 198.51.100.1 ipproto tcp dport 32768-60999 lookup 7474 protocol 174",
				"ip -6 rule del pref 7441 from fd00::10 ipproto tcp sport 8080 lookup 7474 protocol 174",
				"ip rule del pref 7480 nop protocol 174",
				"ip rule del pref 7411 iif tunlb0 goto 7499 protocol 174",
				"sysctl -w net.ipv4.ip_forward=0",
			} {
				if !slices.Contains(done, want) {
					t.Errorf("Clean does not mention %q, but:\n%s", want, strings.Join(done, "\n"))
				}
			}
			if done, err := Clean(n.box.path); err != nil || len(done) > 0 {
				t.Errorf("a second Clean: got %q, %v, want nothing", done, err)
			}
		})
	}
}

// TestCrashOfAnOldDevice checks Clean where the device was there before and outlives the crash.
func TestCrashOfAnOldDevice(t *testing.T) {
	n := newNetwork(t)
	k := open(t, n.box)
	apply(t, k, full())
	k.release()
	k.closed = true
	n.box.addr("tunlb0", "10.9.9.9/32") // somebody else's
	alive := n.box.snapshot()
	if _, err := Clean(n.box.path); !errors.Is(err, ErrInUse) {
		t.Errorf("Clean while a process has the device: %v, want ErrInUse", err)
	}
	same(t, "Clean while in use", alive, n.box.snapshot())
	n.box.must(unix.IoctlSetInt(int(n.tun.Fd()), unix.TUNSETPERSIST, 1))
	n.tun.Close()
	if _, err := Clean(n.box.path); err != nil {
		t.Errorf("Clean: %v", err)
	}
	if rest, err := n.box.ours(); err != nil || len(rest) > 0 {
		t.Errorf("Clean leaves %v, %v", rest, err)
	}
	v, err := n.box.view("tunlb0")
	if err != nil || !v.Local(netip.MustParseAddr("10.9.9.9"), "") {
		t.Errorf("Clean has removed a foreign address: %v, %v", v, err)
	}
}

// TestLeftovers checks that Apply takes over what a crashed run has left, and that Close then leaves what was
// before that run.
func TestLeftovers(t *testing.T) {
	n := newNetwork(t)
	n.box.addr("lo", "203.0.113.22/32")
	before := n.box.snapshot("tunlb0")
	crashed := open(t, n.box)
	apply(t, crashed, full())
	crashed.release()
	crashed.closed = true
	n.tun.Close()
	n.box.gone("tunlb0")
	n.tun = n.box.tun("tunlb1")
	s := full()
	s.Device, s.Servers = "tunlb1", s.Servers[2:]
	k := open(t, n.box)
	apply(t, k, s)
	for _, f := range n.box.families() {
		rules, err := n.box.rules(f)
		n.box.must(err)
		for _, r := range rules {
			if r.iif == "tunlb0" || r.from == prefixes("192.168.0.10/32")[0] {
				t.Errorf("left over: %s", r.command("add"))
			}
		}
	}
	if err := k.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	n.tun.Close()
	n.box.gone("tunlb1")
	same(t, "Close", before, n.box.snapshot("tunlb0"))
}

// TestNoNamespace checks that a namespace that is gone is nothing to clean, but cannot be opened.
func TestNoNamespace(t *testing.T) {
	path := t.TempDir() + "/gone"
	if done, err := Clean(path); err != nil || len(done) > 0 {
		t.Errorf("Clean: got %q, %v, want nothing", done, err)
	}
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open: got %v, want %v", err, os.ErrNotExist)
	}
}

// TestRouterAdvertisement checks that the box keeps the default route that it has learnt, although it
// becomes a router.
func TestRouterAdvertisement(t *testing.T) {
	n := newNetwork(t)
	n.client.advertise("eth0")
	learnt := func() bool {
		routes, err := n.box.routes(unix.AF_INET6, unix.RT_TABLE_MAIN, unix.RTPROT_RA)
		n.box.must(err)
		return len(routes) == 1
	}
	n.box.until("the default route", learnt)
	before := n.box.snapshot()
	k := open(t, n.box)
	apply(t, k, full())
	if got := n.box.sysctl("ipv6/conf/outer/accept_ra"); got != "2" || !learnt() {
		t.Errorf("accept_ra is %s, want 2; the default route is there: %v", got, learnt())
	}
	if err := k.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	same(t, "Close", before, n.box.snapshot())
}

// advertise sends a router advertisement.
func (l *lab) advertise(dev string) {
	l.t.Helper()
	all := unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(l.link(dev).Attrs().Index)}
	l.must(l.inside(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		return unix.Sendto(fd, []byte{
			134, 0, 0, 0, // type, code, checksum (the kernel's)
			64, 0, 0x07, 0x08, // hop limit, flags, lifetime 1800 s
			0, 0, 0, 0, 0, 0, 0, 0, // reachable and retransmission time: unspecified
		}, 0, &all)
	}))
}

// gone waits until a device has disappeared: closing a TUN's last descriptor does that.
func (l *lab) gone(name string) {
	l.t.Helper()
	l.until("the end of "+name, func() bool {
		_, err := l.links.LinkByName(name)
		return errors.As(err, &netlink.LinkNotFoundError{})
	})
}
