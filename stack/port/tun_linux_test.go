package port

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/tunlb/tunlb/stack/packet"
)

var offloads = []Offload{OffloadAuto, OffloadTCP, OffloadOff}

// The router's far side: up routes it to the port.
var (
	far4 = netip.MustParseAddrPort("203.0.113.22:5353")
	far6 = netip.MustParseAddrPort("[2001:db8::22]:5353")
)

func eachOffload(t *testing.T, f func(t *testing.T, o Offload)) {
	for _, o := range offloads {
		t.Run(o.String(), func(t *testing.T) { f(t, o) })
	}
}

// listenUDP opens a UDP socket in the namespace.
func (s *space) listenUDP(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	s.do(t, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// readUDP reads until a UDP packet for dst comes: a kernel sends more than
// what it is told to.
func readUDP(t *testing.T, p Port, dst netip.AddrPort) []byte {
	t.Helper()
	buf := make([]byte, packet.BufferSize)
	for {
		n, err := p.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, ok := udpDestination(buf[packet.VnetLen:n]); ok && got == dst {
			return buf[:n]
		}
	}
}

func TestReadWhatTheKernelSends(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		p := s.open(t, TUNConfig{Offload: o})
		s.up(t, p.Name(), 1)
		for _, far := range []netip.AddrPort{far4, far6} {
			l3, local := 20, "10.1.0.1:0"
			if far.Addr().Is6() {
				l3, local = 40, "[fd00:1::1]:0"
			}
			c := s.listenUDP(t, local)
			payload := bytes.Repeat([]byte("tunlb"), 100)
			if _, err := c.WriteToUDPAddrPort(payload, far); err != nil {
				t.Fatal(err)
			}
			frame := readUDP(t, p, far)
			want := packet.Vnet{Flags: packet.FlagNeedsCsum, CsumStart: uint16(l3), CsumOffset: 6}
			if o == OffloadOff {
				want = packet.Vnet{}
				if err := checkUDP(frame[packet.VnetLen:]); err != nil {
					t.Error(err)
				}
			}
			if got := packet.DecodeVnet(frame); got != want {
				t.Errorf("%s: vnet header is %+v, want %+v", far, got, want)
			}
			if got := frame[packet.VnetLen+l3+8:]; !bytes.Equal(got, payload) {
				t.Errorf("%s: payload is %q", far, got)
			}
		}
	})
}

// sendSegmented hands the kernel one UDP super-packet of 3 datagrams.
func sendSegmented(t *testing.T, c *net.UDPConn, far netip.AddrPort) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) })
	if err != nil {
		t.Skipf("this kernel has no UDP_SEGMENT: %v", err)
	}
	if _, err := c.WriteToUDPAddrPort(make([]byte, 2500), far); err != nil {
		t.Fatal(err)
	}
}

func TestReadUDPSuperPackets(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		p := s.open(t, TUNConfig{Offload: o})
		s.up(t, p.Name(), 1)
		sendSegmented(t, s.listenUDP(t, "10.1.0.1:0"), far4)
		for sent := 2500; sent > 0; {
			frame := readUDP(t, p, far4)
			h := packet.DecodeVnet(frame)
			size := len(frame) - packet.VnetLen - 28
			if o == OffloadAuto && (h.GSOType != packet.GSOUDPL4 || h.GSOSize != 1000 || size != 2500) {
				t.Skipf("this kernel has no USO: %d bytes, %+v", size, h)
			}
			if o != OffloadAuto && (h.GSOType != packet.GSONone || size > 1000) {
				t.Fatalf("offload %s: %d bytes, %+v", o, size, h)
			}
			sent -= size
		}
	})
}

func TestWriteReachesSockets(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		p := s.open(t, TUNConfig{Offload: o})
		s.up(t, p.Name(), 1)
		for _, tt := range []struct {
			name          string
			local         string
			from          netip.AddrPort
			size, gso     int
			wantSegmented bool
		}{
			{"v4", "10.1.0.1:53", far4, 500, 0, false},
			{"v6", "[fd00:1::1]:53", far6, 500, 0, false},
			{"v4 super-packet", "10.1.0.1:54", far4, 2500, 1000, o == OffloadOff},
			{"v6 super-packet", "[fd00:1::1]:54", far6, 2500, 1000, o == OffloadOff},
			// The kernel's limit is 128 segments: a valid frame that it refuses.
			{"v4 refused", "10.1.0.1:55", far4, 2000, 10, true},
			{"v6 refused", "[fd00:1::1]:55", far6, 2000, 10, true},
		} {
			before := StatsOf(p).Segmented
			c := s.listenUDP(t, tt.local)
			payload := bytes.Repeat([]byte("0123456789"), tt.size/10)
			if err := p.Write(udpFrame(tt.from, netip.MustParseAddrPort(tt.local), payload, tt.gso)); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			var got []byte
			buf := make([]byte, 4096)
			for len(got) < len(payload) {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != tt.from {
					t.Fatalf("%s: from %s, %v", tt.name, from, err)
				}
				if tt.gso > 0 && n > tt.gso {
					t.Fatalf("%s: a datagram of %d bytes", tt.name, n)
				}
				got = append(got, buf[:n]...)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("%s: payload differs", tt.name)
			}
			if got := StatsOf(p).Segmented > before; got != tt.wantSegmented {
				t.Errorf("%s: segmented in software: %t, want %t", tt.name, got, tt.wantSegmented)
			}
		}
	})
}

func TestWriteCompletesChecksums(t *testing.T) {
	s := newSpace(t)
	p := s.open(t, TUNConfig{Offload: OffloadOff})
	s.up(t, p.Name(), 1)
	c := s.listenUDP(t, "10.1.0.1:53")
	frame := udpFrame(far4, netip.MustParseAddrPort("10.1.0.1:53"), []byte("partial"), 1000)
	packet.Vnet{Flags: packet.FlagNeedsCsum, CsumStart: 20, CsumOffset: 6}.Encode(frame)
	before := slices.Clone(frame)
	if err := p.Write(frame); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frame, before) {
		t.Error("Write changed the frame")
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "partial" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestWriteWhileDown(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		p := newSpace(t).open(t, TUNConfig{Offload: o})
		frame := udpFrame(far4, far4, nil, 0)
		if err := p.Write(frame); !errors.Is(err, ErrDown) {
			t.Errorf("got %v, want %v", err, ErrDown)
		}
	})
}

func TestNewDevice(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		p := s.open(t, TUNConfig{Name: "lb%d", MTU: 9000, TxQueueLen: 1234, Offload: o})
		if p.Name() != "lb0" || p.MTU() != 9000 {
			t.Errorf("name %s, MTU %d", p.Name(), p.MTU())
		}
		link, err := s.nl.LinkByName("lb0")
		if err != nil {
			t.Fatal(err)
		}
		if a := link.Attrs(); a.MTU != 9000 || a.TxQLen != 1234 || a.Flags&net.FlagUp != 0 {
			t.Errorf("MTU %d, tx queue length %d, flags %s", a.MTU, a.TxQLen, a.Flags)
		}
		if _, err := net.InterfaceByName("lb0"); err == nil {
			t.Error("the device is in our own namespace")
		}
		if err := s.nl.LinkSetMTU(link, 1400); err != nil {
			t.Fatal(err)
		}
		for p.MTU() != 1400 { // the test's own time limit bounds it
			runtime.Gosched()
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.nl.LinkByName("lb0"); !errors.As(err, &netlink.LinkNotFoundError{}) {
			t.Errorf("after Close: %v", err)
		}
		if err := p.Write(udpFrame(far4, far4, nil, 0)); err != os.ErrClosed {
			t.Errorf("write after Close: %v", err)
		}
		if _, err := p.Read(make([]byte, packet.BufferSize)); err != os.ErrClosed {
			t.Errorf("read after Close: %v", err)
		}
	})
}

// reader reads until an error comes and sends it. tid is its thread.
func reader(p Port) (tid int, result <-chan error) {
	started, ended := make(chan int), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		started <- unix.Gettid()
		buf := make([]byte, packet.BufferSize)
		for {
			if _, err := p.Read(buf); err != nil {
				ended <- err
				return
			}
		}
	}()
	return <-started, ended
}

// awaitAsleep returns when the thread sleeps: here, when Read waits.
func awaitAsleep(t *testing.T, tid int) {
	t.Helper()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", tid))
		if err != nil {
			t.Fatal(err)
		}
		if _, state, _ := strings.Cut(string(stat), ") "); state[0] == 'S' {
			return
		}
		runtime.Gosched()
	}
}

func TestCloseUnblocksRead(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		for i := range 20 {
			p := s.open(t, TUNConfig{Offload: o})
			tid, result := reader(p)
			if i%2 == 0 { // the other times Close meets Read wherever it is
				awaitAsleep(t, tid)
			}
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if err := p.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			if err := <-result; err != os.ErrClosed {
				t.Fatalf("got %v, want %v", err, os.ErrClosed)
			}
			wg.Wait()
		}
	})
}

func TestDeletedDevice(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		for i := range 20 {
			p := s.open(t, TUNConfig{Offload: o})
			link, err := s.nl.LinkByName(p.Name())
			if err != nil {
				t.Fatal(err)
			}
			tid, result := reader(p)
			if i%2 == 0 {
				awaitAsleep(t, tid)
			}
			if err := s.nl.LinkDel(link); err != nil {
				t.Fatal(err)
			}
			if err := <-result; !errors.Is(err, ErrGone) {
				t.Fatalf("blocked read: %v, want %v", err, ErrGone)
			}
			if _, err := p.Read(make([]byte, packet.BufferSize)); !errors.Is(err, ErrGone) {
				t.Errorf("next read: %v, want %v", err, ErrGone)
			}
			if err := p.Write(udpFrame(far4, far4, nil, 0)); !errors.Is(err, ErrGone) {
				t.Errorf("write: %v, want %v", err, ErrGone)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A descriptor number that Close gave back early would send a late writer's
// frame into whatever was opened next: here, into a pipe.
func TestWritersDuringClose(t *testing.T) {
	eachOffload(t, func(t *testing.T, o Offload) {
		s := newSpace(t)
		for range 20 {
			p := s.open(t, TUNConfig{Offload: o})
			s.up(t, p.Name(), 1)
			_, result := reader(p)
			frame := udpFrame(far4, netip.MustParseAddrPort("10.1.0.1:9"), []byte("stray"), 0)
			var wg sync.WaitGroup
			started := make(chan struct{}, 4)
			for range 4 {
				wg.Go(func() {
					err := p.Write(frame)
					started <- struct{}{}
					for err == nil {
						err = p.Write(frame)
					}
					if err != os.ErrClosed {
						t.Errorf("write: %v", err)
					}
				})
			}
			<-started
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			var pipes [4][2]int
			for i := range pipes {
				if err := unix.Pipe2(pipes[i][:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
			if err := <-result; err != os.ErrClosed {
				t.Errorf("read: %v", err)
			}
			for _, fds := range pipes {
				if n, err := unix.Read(fds[0], make([]byte, 100)); err != unix.EAGAIN {
					t.Errorf("a pipe got %d bytes, %v", n, err)
				}
				unix.Close(fds[0])
				unix.Close(fds[1])
			}
		}
	})
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestFailedOpenLeaksNothing(t *testing.T) {
	s := newSpace(t)
	taken := s.open(t, TUNConfig{Name: "taken"})
	for _, tt := range []struct {
		cfg  TUNConfig
		want error
	}{
		{TUNConfig{Name: taken.Name()}, unix.EBUSY},
		{TUNConfig{Name: "lo"}, unix.EINVAL},
		{TUNConfig{Name: "sixteen-bytes-aa"}, unix.EINVAL},
		{TUNConfig{Name: "a/b"}, unix.EINVAL},
		{TUNConfig{MTU: 10}, unix.EINVAL},
		{TUNConfig{MTU: 65536}, unix.EINVAL},
		{TUNConfig{TxQueueLen: -1}, unix.EINVAL},
		{TUNConfig{Offload: 9}, nil},
		{TUNConfig{NetNS: "/nonexistent/netns"}, unix.ENOENT},
		{TUNConfig{NetNS: "/proc/self/ns/uts"}, unix.EINVAL},
	} {
		ignore := goleak.IgnoreCurrent()
		before := countDescriptors(t)
		for range 5 {
			cfg := tt.cfg
			if cfg.NetNS == "" {
				cfg.NetNS = s.path
			}
			p, err := OpenTUN(cfg)
			if err == nil {
				p.Close()
				t.Fatalf("%+v: no error", tt.cfg)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%+v: %v, want %v", tt.cfg, err, tt.want)
			}
		}
		goleak.VerifyNone(t, ignore)
		// Fewer are an earlier port's: wireguard closes a pipe when Close is long over.
		if after := countDescriptors(t); after > before {
			t.Errorf("%+v: %d descriptors, before %d", tt.cfg, after, before)
		}
	}
	if links, err := s.nl.LinkList(); err != nil || len(links) != 2 { // lo and taken
		t.Errorf("left %d links, %v", len(links), err)
	}
}

func TestOpenCloseLeaksNothing(t *testing.T) {
	s := newSpace(t)
	ignore := goleak.IgnoreCurrent()
	s.open(t, TUNConfig{Offload: OffloadOff}).Close() // Go's poller opens its own
	goleak.VerifyNone(t, ignore)
	before := countDescriptors(t)
	eachOffload(t, func(t *testing.T, o Offload) {
		for range 20 {
			s.open(t, TUNConfig{Offload: o}).Close()
		}
	})
	goleak.VerifyNone(t, ignore)
	if after := countDescriptors(t); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func TestUnavailable(t *testing.T) {
	if noKernel != "" {
		t.Skip(noKernel)
	}
	// The tests have a mount namespace of their own.
	if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount("/dev/net", unix.MNT_DETACH)
	_, err := OpenTUN(TUNConfig{})
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "modprobe tun") {
		t.Errorf("without %s: %v", clonePath, err)
	}
	for _, refused := range []error{explainOpen(unix.EACCES), explainAttach(unix.EPERM, "tunlb0", unix.IFF_TUN)} {
		if !errors.Is(refused, ErrUnavailable) {
			t.Errorf("%v is not %v", refused, ErrUnavailable)
		}
	}
}

func TestNetNSReturnsHome(t *testing.T) {
	s := newSpace(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var tid int
	var inside string
	failed := errors.New("what f returns")
	err = inNetNS(s.path, func() (err error) {
		tid = unix.Gettid()
		if inside, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return failed
	})
	if err != failed {
		t.Errorf("got %v, want %v", err, failed)
	}
	if inside == before {
		t.Errorf("f ran in our own namespace %s", inside)
	}
	after, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", tid))
	if err == nil && after != before { // an error: the thread is no more
		t.Errorf("the thread stayed in %s, home is %s", after, before)
	}
}

// A namespace does not die under a port: the descriptor holds it.
func TestPortOutlivesNamespacePath(t *testing.T) {
	s := newSpace(t)
	p := s.open(t, TUNConfig{})
	s.up(t, p.Name(), 1)
	if err := unix.Unmount(s.path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	s.nl.Close()
	s.gone = true
	if err := p.Write(udpFrame(far4, netip.MustParseAddrPort("10.1.0.1:9"), nil, 0)); err != nil {
		t.Error(err)
	}
}

// A persistent device is somebody else's and stays.
func TestTakesOverPersistentDevice(t *testing.T) {
	s := newSpace(t)
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "kept0"}, Mode: netlink.TUNTAP_MODE_TUN}
	// Making one is an ioctl on a descriptor, not netlink: it takes the thread.
	if err := inNetNS(s.path, func() error { return netlink.LinkAdd(link) }); err != nil {
		t.Skipf("no persistent device: %v", err)
	}
	for range 2 {
		s.open(t, TUNConfig{Name: "kept0"}).Close()
	}
	if _, err := s.nl.LinkByName("kept0"); err != nil {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	s := newSpace(t)
	p := s.open(t, TUNConfig{})
	frame := udpFrame(far4, netip.MustParseAddrPort("10.1.0.1:9"), []byte("x"), 0)
	check := func(what string, f func()) {
		t.Helper()
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	check("a write to a device that is down", func() { p.Write(frame) })
	s.up(t, p.Name(), 1)
	check("a write", func() { p.Write(frame) })
	c := s.listenUDP(t, "10.1.0.1:0")
	for range 300 {
		if _, err := c.WriteToUDPAddrPort([]byte("x"), far4); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, packet.BufferSize)
	check("a read", func() { p.Read(buf) })
	check("a wait", func() { p.(*rawPort).awaitFrame(0) })
}

// A full send buffer cannot be had from a TUN device at will, so a socket
// stands in for its descriptor.
func TestWriteGivesUpWhenFull(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	dev := &fakeDevice{events: make(chan tun.Event)}
	p, err := newRawPort(tunDevice{newDevice(dev, "fake0", 1500, dev.MTU, func() {}), tuntap(fds[0])}, fds[0], fds[0], -1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	frame := make([]byte, 1000)
	for err == nil {
		err = p.Write(frame)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %v, want %v", err, unix.EAGAIN)
	}
	if _, err := p.Read(make([]byte, 100)); err != io.ErrShortBuffer {
		t.Errorf("read into a short buffer: %v", err)
	}
}
