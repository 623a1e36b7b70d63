package port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// yard is a cable with somebody at one end who sends into it, and a ring at the other.
//
//	out, eth0 host -- p0 lan, ring
type yard struct {
	Ring
	out       *Direct
	link      int
	host, lan *space
}

func newYard(t testing.TB) *yard {
	t.Helper()
	y := &yard{host: newSpace(t), lan: newSpace(t)}
	y.host.veth(t, "eth0", y.lan, "p0")
	y.link = y.host.link(t, "eth0").Attrs().Index
	y.Ring = y.lan.openPacket(t, PacketConfig{Interface: "p0"}).(Ring)
	y.out = y.host.direct(t)
	return y
}

func (s *space) direct(t testing.TB) *Direct {
	t.Helper()
	d, err := OpenDirect(s.path, 0)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

// numbered is a frame of type experimental with a number and what follows from it.
func numbered(number, length int) []byte {
	b := append(make([]byte, packet.VnetLen), playedMAC[:]...)
	b = append(b, 2, 9, 9, 9, 9, 9, experimental>>8, experimental&0xff)
	b = binary.BigEndian.AppendUint32(b, uint32(number))
	for i := range length {
		b = append(b, byte(number+i*7))
	}
	return b
}

// experiments are the frames of type experimental among frames: the kernel has something to say, too.
func experiments(frames [][]byte) (e [][]byte) {
	for _, frame := range frames {
		if h, _ := packet.DecodeEthernet(frame); h.Type == experimental {
			e = append(e, frame)
		}
	}
	return e
}

func (y *yard) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	b := y.out.NewBurst()
	for _, frame := range frames {
		b.Put(frame, y.link)
	}
	if failed, err := b.Flush(); err != nil || failed > 0 {
		t.Fatalf("%d were not sent: %v", failed, err)
	}
}

// TestRingWrapsAround: far more frames than the ring has slots come in order and whole, many for a wake-up.
func TestRingWrapsAround(t *testing.T) {
	y := newYard(t)
	random := rand.New(rand.NewPCG(1, 2))
	sent, got, calls := 0, 0, 0
	for got < 100_000 {
		var out [][]byte
		for range 1 + random.IntN(slots-120) { // beside 100 that are lent, and some of the kernel
			out = append(out, numbered(sent, 46+random.IntN(1450)))
			sent++
		}
		y.send(t, out...)
		for i := 0; i < len(out); {
			frames := make([][]byte, 1+random.IntN(100))
			n, err := y.Receive(frames)
			must(t, err)
			calls++
			for _, frame := range experiments(frames[:n]) {
				if !bytes.Equal(frame, out[i]) {
					t.Fatalf("frame %d: got %d bytes % x, want %d", got, len(frame), frame[:40], len(out[i]))
				}
				clear(frame) // they are ours
				i++
				got++
			}
		}
	}
	if s := StatsOf(y.Ring); s != (Stats{}) {
		t.Errorf("stats are %+v", s)
	}
	t.Logf("%d frames, %.1f a call", got, float64(got)/float64(calls))
}

// TestRingManyAtOnce: as many as there is room for, and what is lent stays as it is whatever comes meanwhile.
func TestRingManyAtOnce(t *testing.T) {
	y := newYard(t)
	var out [][]byte
	for i := range 100 {
		out = append(out, numbered(i, 100))
	}
	y.send(t, out...)
	frames := make([][]byte, 64)
	n, err := y.Receive(frames)
	must(t, err)
	if n != len(frames) {
		t.Errorf("%d frames, want %d", n, len(frames))
	}
	lent := experiments(frames[:n])
	for range 5 {
		y.send(t, out[50:]...) // more than there are slots
	}
	if lost := StatsOf(y.Ring).Overruns; lost == 0 {
		t.Error("no overruns")
	}
	for i, frame := range lent {
		if !bytes.Equal(frame, out[i]) {
			t.Fatalf("frame %d has changed: % x", i, frame[:40])
		}
	}
	if n, err := y.Receive(nil); n != 0 || err != io.ErrShortBuffer {
		t.Errorf("without room: %d, %v", n, err)
	}
	n, err = y.Receive(frames[:40])
	must(t, err)
	if next := experiments(frames[:n]); len(next) == 0 || !bytes.Equal(next[0], out[len(lent)]) {
		t.Errorf("%d frames, the first is not number %d", len(next), len(lent))
	}
}

// TestRingReadGivesBack: a frame that was copied takes no place, and Read and Receive may take turns.
func TestRingReadGivesBack(t *testing.T) {
	y := newYard(t)
	buf, frames := make([]byte, packet.BufferSize), make([][]byte, 3)
	for i := 0; i < 3*slots; i += 4 {
		out := [][]byte{numbered(i, 60), numbered(i+1, 60), numbered(i+2, 60), numbered(i+3, 60)}
		y.send(t, out...)
		for len(out) > 0 {
			n, err := y.Read(buf)
			must(t, err)
			got := experiments([][]byte{buf[:n]})
			if i%8 == 0 {
				n, err = y.Receive(frames)
				must(t, err)
				got = append(got, experiments(frames[:n])...)
			}
			for _, frame := range got {
				if !bytes.Equal(frame, out[0]) {
					t.Fatalf("round %d: % x, want % x", i, frame, out[0])
				}
				out = out[1:]
			}
		}
	}
}

// TestRingCloseWithFramesLent: they can be read until the reader comes back, and the interface is left as it was at once.
func TestRingCloseWithFramesLent(t *testing.T) {
	y := newYard(t)
	out := numbered(1, 500)
	y.send(t, out)
	frames := make([][]byte, 64)
	var lent [][]byte
	for len(lent) == 0 {
		n, err := y.Receive(frames)
		must(t, err)
		lent = experiments(frames[:n])
	}
	must(t, y.Close())
	if n := y.lan.link(t, "p0").Attrs().Promisc; n != 0 {
		t.Errorf("promiscuous for %d", n)
	}
	y.send(t, numbered(2, 500)) // nobody hears it
	if !bytes.Equal(lent[0], out) {
		t.Errorf("% x", lent[0][:40])
	}
	socket := y.Ring.(*ringPort).socket
	if !listed(t, socket.fd) {
		t.Error("the socket is closed under its frames")
	}
	if _, err := y.Receive(frames); err != os.ErrClosed {
		t.Errorf("receive: %v", err)
	}
	if listed(t, socket.fd) {
		t.Error("the socket is still open")
	}
	if _, err := y.Receive(frames); err != os.ErrClosed {
		t.Errorf("receive again: %v", err)
	}
}

// listed tells whether there is a descriptor with this number. No other is opened in between.
func listed(t *testing.T, fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil && err != unix.EBADF {
		t.Fatal(err)
	}
	return err == nil
}

// TestRingCloseWhileReceiving: Close meets a reader wherever it is, waiting or with frames in its hands.
func TestRingCloseWhileReceiving(t *testing.T) {
	for i := range 20 {
		y := newYard(t)
		var wg sync.WaitGroup
		seen := make(chan bool, 1)
		wg.Go(func() {
			frames, sum := make([][]byte, 8), 0
			for {
				n, err := y.Receive(frames)
				if err != nil {
					if err != os.ErrClosed {
						t.Error(err)
					}
					return
				}
				for _, frame := range frames[:n] {
					for j := range frame {
						sum += int(frame[j])
						frame[j] = byte(sum)
					}
				}
				select {
				case seen <- true:
				default:
				}
			}
		})
		stop := make(chan bool)
		if i%2 == 0 {
			wg.Go(func() {
				b, frame := y.out.NewBurst(), numbered(0, 1400)
				for {
					select {
					case <-stop:
						return
					default:
					}
					for range 20 {
						b.Put(frame, y.link)
					}
					b.Flush()
				}
			})
			<-seen
		}
		must(t, y.Close())
		close(stop)
		wg.Wait()
		if listed(t, y.Ring.(*ringPort).in) && y.Ring.(*ringPort).socket.lending.state.Load() != lentNone {
			t.Error("the socket is still open")
		}
	}
}

// TestRingInterfaceGoes: a reader that waits in Receive hears of it, and frames in its hands stay.
func TestRingInterfaceGoes(t *testing.T) {
	for range 5 {
		y := newYard(t)
		out := numbered(1, 500)
		y.send(t, out)
		frames, result := make([][]byte, 64), make(chan error)
		var lent [][]byte
		for len(lent) == 0 {
			n, err := y.Receive(frames)
			must(t, err)
			lent = experiments(frames[:n])
		}
		must(t, y.lan.nl.LinkDel(y.lan.link(t, "p0")))
		if !bytes.Equal(lent[0], out) {
			t.Errorf("% x", lent[0][:40])
		}
		go func() {
			for {
				if _, err := y.Receive(frames); err != nil {
					result <- err
					return
				}
			}
		}()
		if err := <-result; !errors.Is(err, ErrGone) {
			t.Errorf("receive: %v, want %v", err, ErrGone)
		}
	}
}

// TestRingTakesErrors: an interface that goes down wakes the reader by an error of the socket, who takes it: poll would
// report it again and again.
func TestRingTakesErrors(t *testing.T) {
	y := newYard(t)
	tid, result := reader(y)
	awaitAsleep(t, tid)
	must(t, y.lan.nl.LinkSetDown(y.lan.link(t, "p0")))
	for fds := []unix.PollFd{{Fd: int32(y.Ring.(*ringPort).in), Revents: unix.POLLERR}}; fds[0].Revents != 0; {
		if _, err := unix.Poll(fds, 0); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	must(t, y.Close())
	if err := <-result; err != os.ErrClosed {
		t.Error(err)
	}
}

// TestRingLeavesOutBigTCP: what is longer than a slot is left out and counted, not cut.
func TestRingLeavesOutBigTCP(t *testing.T) {
	y := newYard(t)
	const size = 180_000
	for s, n := range map[*space]byte{y.host: 1, y.lan: 2} {
		name := map[byte]string{1: "eth0", 2: "p0"}[n]
		if err := s.nl.LinkSetGSOMaxSize(s.link(t, name), size); err != nil {
			t.Skipf("no BIG TCP: %v", err)
		}
		s.host(t, name, n)
	}
	var listener net.Listener
	y.lan.do(t, func() (err error) {
		listener, err = net.Listen("tcp", "[fd00:9::2]:80")
		return err
	})
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	var c net.Conn
	y.host.do(t, func() (err error) {
		c, err = net.Dial("tcp", "[fd00:9::2]:80")
		return err
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		frames := make([][]byte, 64)
		for {
			n, err := y.Receive(frames)
			if err != nil {
				return
			}
			for _, frame := range frames[:n] {
				if len(frame) > packet.VnetLen+packet.EthernetLen+packet.MaxPacket {
					t.Errorf("a frame of %d bytes", len(frame))
				}
			}
		}
	})
	data := make([]byte, 1<<20)
	deadline := time.Now().Add(5 * time.Second)
	for StatsOf(y.Ring).Unfit == 0 && time.Now().Before(deadline) {
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if StatsOf(y.Ring).Unfit == 0 {
		t.Error("none was left out")
	}
	must(t, y.Close())
	wg.Wait()
}

// TestRingAllocatesNothing: neither receiving nor sending makes garbage.
func TestRingAllocatesNothing(t *testing.T) {
	y := newYard(t)
	frames, out, burst := make([][]byte, 64), numbered(1, 60), y.out.NewBurst()
	back, buf := y.NewBurst(), make([]byte, packet.BufferSize)
	gone := y.link + 1000
	for what, f := range map[string]func(){
		"a burst and what it brings": func() {
			for range 100 {
				burst.Put(out, y.link)
			}
			burst.Flush()
			y.Receive(frames)
			back.Put(out, 0)
			back.Flush()
			y.Receive(frames)
		},
		"a read": func() {
			burst.Put(out, y.link)
			burst.Flush()
			y.Read(buf)
		},
		"a burst to no link": func() {
			for range 10 {
				burst.Put(out, gone)
			}
			burst.Flush()
		},
	} {
		if n := testing.AllocsPerRun(50, f); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

var (
	boxVIPs   = []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00:9::2")}
	boxServer = []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00:9::1")}
)

// TestClaimOnInterface: of what a box gets on an interface of its own, a port with a claim sees what it takes, and no more; and the box
// gets all of it, too.
func TestClaimOnInterface(t *testing.T) {
	host, lan := newSpace(t), newSpace(t)
	host.veth(t, "eth0", lan, "p0")
	host.host(t, "eth0", 1)
	lan.host(t, "p0", 2)
	claim := packet.Claim{}
	p := lan.openPacket(t, PacketConfig{Interface: "p0", Claim: &claim})
	if n := lan.link(t, "p0").Attrs().Promisc; n != 0 {
		t.Errorf("promiscuous for %d", n)
	}
	ring, out := p.(Ring), host.direct(t)
	box, link := packet.MAC(lan.link(t, "p0").Attrs().HardwareAddr), host.link(t, "eth0").Attrs().Index
	send := func(to packet.MAC, src, dst netip.AddrPort) {
		t.Helper()
		frame := udpFrame(src, dst, []byte("payload"), 0)
		must(t, out.Write(packet.AppendEthernet(nil, frame, to, playedMAC), link))
	}
	at := netip.AddrPortFrom
	for i, vip := range boxVIPs {
		server := boxServer[i]
		must(t, p.(Claimer).SetClaim(packet.Claim{
			VIPs:    []packet.Endpoints{{Addr: vip, Proto: packet.ProtoUDP, First: 53, Last: 53}, {Addr: vip, Proto: packet.ProtoUDP, First: 99, Last: 99}},
			Servers: []packet.Endpoints{{Addr: server, Proto: packet.ProtoUDP, First: 7000, Last: 7009}},
			Own:     []netip.Addr{vip},
		}))
		beyond := boxVIPs[i].Next().Next() // who is not the box
		send(box, at(server, 6000), at(vip, 53))
		send(packet.MAC{2, 9, 9}, at(server, 6001), at(vip, 53))
		send(packet.Broadcast, at(server, 6002), at(vip, 53))
		send(box, at(server, 6003), at(vip, 54))
		send(box, at(server, 7000), at(beyond, 6004))
		send(box, at(server, 7000), at(vip, 6005))
		send(box, at(server, 7010), at(beyond, 6006))
		send(box, at(server, 7009), at(beyond, 6007))
		send(box, at(server, 6008), at(vip, 99))
		var got []uint16
		frames := make([][]byte, 64)
		for len(got) == 0 || got[len(got)-1] != 6008 {
			n, err := ring.Receive(frames)
			must(t, err)
			for _, frame := range frames[:n] {
				var v packet.View
				if r := v.ParseEthernet(frame); r != packet.None {
					t.Fatalf("%s: % x", r, frame)
				}
				if got = append(got, v.Tuple.SrcPort); v.Tuple.SrcPort >= 7000 {
					got[len(got)-1] = v.Tuple.DstPort
				}
			}
		}
		if want := []uint16{6000, 6004, 6007, 6008}; !equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	c := lan.listenUDP(t, "10.9.0.2:53")
	send(box, at(boxServer[0], 6000), at(boxVIPs[0], 53))
	if _, _, err := c.ReadFrom(make([]byte, 100)); err != nil {
		t.Errorf("the box: %v", err)
	}
	must(t, p.Close())
	if err := p.(Claimer).SetClaim(claim); err != os.ErrClosed {
		t.Errorf("after Close: %v", err)
	}
}

func equal(a, b []uint16) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestClaimChangesAtOnce: while claims come and go, what all of them take comes in, and what none takes does not.
func TestClaimChangesAtOnce(t *testing.T) {
	host, lan := newSpace(t), newSpace(t)
	host.veth(t, "eth0", lan, "p0")
	vip := packet.Endpoints{Addr: boxVIPs[0], Proto: packet.ProtoUDP, First: 53, Last: 53}
	claims := []packet.Claim{{VIPs: []packet.Endpoints{vip}}, {VIPs: []packet.Endpoints{vip}, Own: boxVIPs}}
	for i := range 200 {
		other := packet.Endpoints{Addr: netip.AddrFrom4([4]byte{10, 8, 0, byte(i)}), Proto: packet.ProtoTCP}
		claims[1].VIPs = append(claims[1].VIPs, other)
	}
	p := lan.openPacket(t, PacketConfig{Interface: "p0", Claim: &claims[0]})
	stop, changed := make(chan bool), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				changed <- n
				return
			default:
				if err := p.(Claimer).SetClaim(claims[n%2]); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	box, link := packet.MAC(lan.link(t, "p0").Attrs().HardwareAddr), host.link(t, "eth0").Attrs().Index
	burst, frames := host.direct(t).NewBurst(), make([][]byte, 64)
	to := func(port uint16) []byte {
		frame := udpFrame(netip.AddrPortFrom(boxServer[0], 1000), netip.AddrPortFrom(vip.Addr, port), nil, 0)
		return packet.AppendEthernet(nil, frame, box, playedMAC)
	}
	ours, others := to(53), to(54)
	for range 500 {
		for range 50 {
			burst.Put(ours, link)
			burst.Put(others, link)
		}
		_, err := burst.Flush()
		must(t, err)
		for got := 0; got < 50; {
			n, err := p.(Ring).Receive(frames)
			must(t, err)
			for _, frame := range frames[:n] {
				if !bytes.Equal(frame[packet.VnetLen:], ours[packet.VnetLen:]) {
					t.Fatalf("% x", frame)
				}
			}
			got += n
		}
	}
	close(stop)
	if n := <-changed; n < 10 {
		t.Errorf("only %d changes", n)
	} else {
		t.Logf("%d changes", n)
	}
}

// TestClaimIsCoarserWhereThereIsNoRoom: what is to be taken comes all the same.
func TestClaimIsCoarserWhereThereIsNoRoom(t *testing.T) {
	host, lan := newSpace(t), newSpace(t)
	host.veth(t, "eth0", lan, "p0")
	lan.do(t, func() error {
		if err := os.WriteFile("/proc/sys/net/core/optmem_max", []byte("12000"), 0); err != nil {
			t.Skipf("the limit is not a namespace's: %v", err)
		}
		return nil
	})
	var claim packet.Claim
	for i := range 1000 {
		claim.VIPs = append(claim.VIPs, packet.Endpoints{Addr: netip.AddrFrom4([4]byte{10, 7, byte(i >> 7), byte(i << 1)}), Proto: packet.ProtoUDP, First: 53, Last: 53})
	}
	p := lan.openPacket(t, PacketConfig{Interface: "p0", Claim: &claim})
	must(t, p.(Claimer).SetClaim(claim))
	out, box := host.direct(t), packet.MAC(lan.link(t, "p0").Attrs().HardwareAddr)
	frame := udpFrame(netip.MustParseAddrPort("10.9.0.1:1"), netip.AddrPortFrom(claim.VIPs[765].Addr, 53), nil, 0)
	must(t, out.Write(packet.AppendEthernet(nil, frame, box, playedMAC), host.link(t, "eth0").Attrs().Index))
	if n, err := p.Read(make([]byte, packet.BufferSize)); err != nil || n < len(frame) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestClaimRefused(t *testing.T) {
	y := newYard(t)
	if err := y.Ring.(Claimer).SetClaim(packet.Claim{}); err == nil {
		t.Error("a port without a claim got one")
	}
	cfg := PacketConfig{Interface: "p0", NetNS: y.lan.path, Claim: &packet.Claim{}, Station: playedMAC}
	failsCleanly(t, func() (Port, error) { return OpenPacket(cfg) }, nil, "leave the station out")
}
