package port

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// kept is a duplicate of a port's descriptor, as a predecessor's outlives it. Who inherits it closes it.
func kept(t *testing.T, p Port) int {
	t.Helper()
	fd, ok := Descriptor(p)
	if !ok {
		t.Fatalf("%s has no descriptor", p.Name())
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 3)
	must(t, err)
	return dup
}

// outOfTheWay moves a descriptor to a number that nobody else in the process is given: whether it is open says something then.
func outOfTheWay(t *testing.T, fd int) int {
	t.Helper()
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 900)
	must(t, err)
	must(t, unix.Close(fd))
	return high
}

// isOpen says whether a descriptor is.
func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

// A TUN whose port is closed stays as long as a duplicate is open: up, with its addresses and routes and what waits in its queue,
// which the next port reads first and in order.
func TestInheritedTUN(t *testing.T) {
	for _, from := range offloads {
		for _, to := range offloads {
			t.Run(fmt.Sprintf("%s-%s", from, to), func(t *testing.T) {
				s := newSpace(t)
				first := s.open(t, TUNConfig{Name: "lb0", MTU: 1400, Offload: from})
				s.up(t, "lb0", 1)
				before := s.link(t, "lb0").Attrs()
				routes := s.routes(t)
				fd := kept(t, first)
				must(t, first.Close())
				c := s.listenUDP(t, "10.1.0.1:0")
				var want []string
				for i := range 20 {
					text := fmt.Sprint("while nobody reads ", i)
					want = append(want, text)
					_, err := c.WriteToUDPAddrPort([]byte(text), far4)
					must(t, err)
				}
				if got := s.routes(t); !slices.Equal(got, routes) {
					t.Errorf("routes in between: %q, before %q", got, routes)
				}
				cfg := TUNConfig{Name: "lb0", MTU: 1300, TxQueueLen: 77, Offload: to, NetNS: s.path}
				must(t, cfg.Fits(fd))
				cfg.Inherited = fd
				second, err := OpenTUN(cfg)
				must(t, err)
				t.Cleanup(func() { second.Close() })
				after := s.link(t, "lb0").Attrs()
				if after.Index != before.Index || after.Flags&net.FlagUp == 0 {
					t.Errorf("index %d, flags %s; before %d", after.Index, after.Flags, before.Index)
				}
				if after.MTU != 1300 || after.TxQLen != 77 {
					t.Errorf("MTU %d, queue %d", after.MTU, after.TxQLen)
				}
				var got []string
				for range want {
					got = append(got, string(payload(readUDP(t, second, far4))))
				}
				if !slices.Equal(got, want) {
					t.Errorf("read %q\nwant %q", got, want)
				}
				must(t, second.Close())
				if _, err := s.nl.LinkByName("lb0"); !errors.As(err, &netlink.LinkNotFoundError{}) {
					t.Errorf("after the last Close: %v", err)
				}
			})
		}
	}
}

// payload is what a UDP packet carries.
func payload(frame []byte) []byte {
	ip := frame[packet.VnetLen:]
	return ip[int(ip[0]&15)*4+8:]
}

// routes are those of the namespace, for comparing.
func (s *space) routes(t *testing.T) (lines []string) {
	t.Helper()
	list, err := s.nl.RouteList(nil, netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range list {
		lines = append(lines, r.String())
	}
	slices.Sort(lines)
	return lines
}

// A super-packet that was queued while all offloads were on comes out whole where there are none any more.
func TestInheritedSuperPacket(t *testing.T) {
	s := newSpace(t)
	first := s.open(t, TUNConfig{Name: "lb0"})
	s.up(t, "lb0", 1)
	fd := kept(t, first)
	must(t, first.Close())
	c := s.listenUDP(t, "10.1.0.1:0")
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000)
	}))
	must(t, err)
	sent := bytes.Repeat([]byte("0123456789"), 3000)
	_, err = c.WriteToUDPAddrPort(sent, far4)
	must(t, err)
	second, err := OpenTUN(TUNConfig{Name: "lb0", NetNS: s.path, Offload: OffloadOff, Inherited: fd})
	must(t, err)
	t.Cleanup(func() { second.Close() })
	var got []byte
	for len(got) < len(sent) {
		got = append(got, payload(readUDP(t, second, far4))...)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what was read is not what was sent")
	}
}

func TestInheritedTAP(t *testing.T) {
	s := newSpace(t)
	s.bridge(t, "br0")
	s.bridge(t, "br1")
	mac := packet.MAC{0xfe, 0, 0x5e, 0x10, 0, 1}
	first := s.openTAP(t, TAPConfig{Name: "lb0", MAC: mac, Bridge: "br0"})
	s.setUp(t, "lb0")
	before := s.link(t, "lb0").Attrs()
	fd := kept(t, first)
	must(t, first.Close())
	other := packet.MAC{0xfe, 0, 0x5e, 0x10, 0, 2}
	cfg := TAPConfig{Name: "lb0", NetNS: s.path, MTU: 1400, MAC: other, Bridge: "br1"}
	must(t, cfg.Fits(fd))
	cfg.Inherited = fd
	second, err := OpenTAP(cfg)
	must(t, err)
	t.Cleanup(func() { second.Close() })
	after := s.link(t, "lb0").Attrs()
	if after.Index != before.Index || after.Flags&net.FlagUp == 0 || after.MTU != 1400 {
		t.Errorf("index %d, flags %s, MTU %d; before %d", after.Index, after.Flags, after.MTU, before.Index)
	}
	if after.HardwareAddr.String() != other.String() || after.MasterIndex != s.link(t, "br1").Attrs().Index {
		t.Errorf("MAC %s, master %d", after.HardwareAddr, after.MasterIndex)
	}
	if p, ok := Descriptor(second); !ok || p != fd {
		t.Errorf("descriptor %d, %v, want %d", p, ok, fd)
	}
}

// What does not fit is told, closed, and replaced by a device as without it.
func TestInheritedOfAnotherKind(t *testing.T) {
	s, elsewhere := newSpace(t), newSpace(t)
	tun := func(s *space, name string) int {
		p := s.open(t, TUNConfig{Name: name})
		defer p.Close()
		return kept(t, p)
	}
	bare := func(flags uint16) int {
		var fd int
		s.do(t, func() (err error) {
			if fd, err = unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				return err
			}
			ifr, err := unix.NewIfreq("lb0")
			if err != nil {
				return err
			}
			ifr.SetUint16(flags)
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		})
		return fd
	}
	for name, tt := range map[string]struct {
		fd   func() int
		says string
	}{
		"another name":      {func() int { return tun(s, "lb1") }, "inherited device is lb1"},
		"another namespace": {func() int { return tun(elsewhere, "lb0") }, "another network namespace"},
		"TAP": {func() int {
			p := s.openTAP(t, TAPConfig{Name: "lb0"})
			defer p.Close()
			return kept(t, p)
		}, "another kind"},
		"without vnet header": {func() int { return bare(unix.IFF_TUN | unix.IFF_NO_PI) }, "another kind"},
		"many queues":         {func() int { return bare(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE) }, "another kind"},
		"deleted": {func() int {
			fd := tun(s, "lb0")
			must(t, s.nl.LinkDel(s.link(t, "lb0")))
			return fd
		}, "no queue of a device"},
		"a file": {func() int {
			fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
			must(t, err)
			return fd
		}, "no queue of a device"},
	} {
		t.Run(name, func(t *testing.T) {
			fd := outOfTheWay(t, tt.fd())
			cfg := TUNConfig{Name: "lb0", NetNS: s.path}
			if err := cfg.Fits(fd); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("fits: %v, want %q", err, tt.says)
			}
			if !isOpen(fd) {
				t.Error("to ask closes the descriptor")
			}
			cfg.Inherited = fd
			p, err := OpenTUN(cfg)
			must(t, err)
			defer p.Close()
			if isOpen(fd) {
				t.Error("the descriptor is still open")
			}
			if s.link(t, "lb0").Attrs().Flags&net.FlagUp != 0 {
				t.Error("the device is not a new one")
			}
			if _, err := s.nl.LinkByName("lb1"); !errors.As(err, &netlink.LinkNotFoundError{}) {
				t.Errorf("the other device: %v", err)
			}
		})
	}
}

func TestInheritedLeaksNothing(t *testing.T) {
	s := newSpace(t)
	p := s.open(t, TUNConfig{Name: "lb0"})
	index := s.link(t, "lb0").Attrs().Index
	before := openDescriptors(t)
	for i := range 50 {
		fd := kept(t, p)
		must(t, p.Close())
		var err error
		p, err = OpenTUN(TUNConfig{Name: "lb0", NetNS: s.path, Offload: offloads[i%3], Inherited: fd})
		must(t, err)
	}
	if got := s.link(t, "lb0").Attrs().Index; got != index {
		t.Errorf("index %d, at first %d", got, index)
	}
	must(t, p.Close())
	if after := openDescriptors(t); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

func TestDeviceNames(t *testing.T) {
	for _, tt := range []struct {
		device, name string
		want         bool
	}{
		{"lb0", "lb0", true}, {"lb0", "lb1", false}, {"lb0", "lb%d", true}, {"lb12x", "lb%dx", true},
		{"lb", "lb%d", false}, {"lb1x", "lb%d", false}, {"x1", "lb%d", false}, {"lbx", "lb%dx", false},
	} {
		if got := matches(tt.device, tt.name); got != tt.want {
			t.Errorf("%s for %s: %v", tt.device, tt.name, got)
		}
	}
}

// Packet sockets and pipes have no descriptor that outlives them.
func TestNoDescriptor(t *testing.T) {
	a, b := Pipe("x", packet.LinkIP, 1500)
	defer a.Close()
	defer b.Close()
	if _, ok := Descriptor(a); ok {
		t.Error("a pipe has one")
	}
}
