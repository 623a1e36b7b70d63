package stack

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A stuck stack fills the queue; Deliver says so at once, by frames or by bytes.
func TestQueueFull(t *testing.T) {
	for _, tt := range []struct {
		name     string
		size     int
		min, max int
	}{
		{"frames", 100, queueFrames, queueFrames + 1},
		{"bytes", 60_000, queueBytes/60_000 - 1, queueBytes/60_000 + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stuck := make(chan struct{})
			called := make(chan struct{}, 1)
			h := newTestHost(t, HostConfig{Addresses: []netip.Addr{families[0].vip}, Output: func([]byte) error {
				select {
				case called <- struct{}{}:
				default:
				}
				<-stuck
				return nil
			}})
			defer close(stuck)
			h.Deliver(pt.Echo(t, families[0].client, families[0].vip, 1, 1))
			<-called
			frame := pt.Echo(t, families[0].client, families[0].other, 1, 1, pt.PayloadLen(tt.size))
			taken := 0
			start := time.Now()
			for range 2 * queueFrames {
				if h.Deliver(frame) {
					taken++
				}
			}
			if taken < tt.min || taken > tt.max {
				t.Errorf("took %d frames, want %d to %d", taken, tt.min, tt.max)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("Deliver blocked: %v", d)
			}
			if got, want := h.Stats().QueueFull, uint64(2*queueFrames-taken); got != want {
				t.Errorf("QueueFull: got %d, want %d", got, want)
			}
		})
	}
}

// After a panic the host has a fresh stack with the same addresses and
// listeners; old connections are reset, not left hanging.
func TestPanic(t *testing.T) {
	var armed atomic.Bool
	fam := families[0]
	p := newPair(t, func(frame []byte, to *Host) error {
		if p, err := pt.Decode(frame); err == nil && p.Proto == fam.icmp && armed.CompareAndSwap(true, false) {
			panic("as if by gVisor")
		}
		return deliverTo(frame, to)
	})
	addr := at(fam.vip, 80)
	l := listen(t, p.server, addr)
	oldClient, oldServer := p.dial(t, l, addr)
	transfer(t, oldClient, oldServer, randomBytes(1000))

	for i := range uint64(2) { // the second rebuild comes rebuildInterval later
		armed.Store(true)
		p.server.Deliver(pt.Echo(t, fam.client, fam.vip, 1, 1))
		if _, err := oldServer.Read(make([]byte, 1)); err == nil {
			t.Error("the server's connection lives on")
		}
		if _, err := oldClient.Read(make([]byte, 1)); err == nil {
			t.Error("the client's connection lives on")
		}
		client, server := p.dial(t, l, addr)
		transfer(t, client, server, randomBytes(100_000))
		if got, want := p.server.Stats().Panics, i+1; got != want {
			t.Errorf("Panics: got %d, want %d", got, want)
		}
		oldClient, oldServer = client, server
	}
	if err := p.server.SetAddresses([]netip.Addr{fam.vip}); err != nil {
		t.Error(err)
	}
}

// Close does not wait for ever for an Output that does not return.
func TestCloseStuck(t *testing.T) {
	others := goleak.IgnoreCurrent()
	stuck, called := make(chan struct{}), make(chan struct{})
	h, err := NewHost(HostConfig{Addresses: []netip.Addr{families[0].vip}, Output: func([]byte) error {
		close(called)
		<-stuck
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.Deliver(pt.Echo(t, families[0].client, families[0].vip, 1, 1))
	<-called
	if err := h.Close(); err == nil {
		t.Error("Close: no error")
	}
	close(stuck)
	goleak.VerifyNone(t, others)
}

// A call into a stack whose locks are stuck ends with the stack.
func TestCallLost(t *testing.T) {
	n, err := newNetstack(1500, func([]byte) error { return nil }, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	defer close(stuck)
	time.AfterFunc(10*time.Millisecond, n.destroy)
	if _, err := call(n, func() (int, error) { <-stuck; return 0, nil }); !errors.Is(err, errLost) {
		t.Errorf("got %v, want %v", err, errLost)
	}
}

// seeds are frames of every kind that a host may get.
func seeds(t testing.TB) [][]byte {
	var out [][]byte
	for _, fam := range families {
		client, open := at(fam.client, 40000), at(fam.vip, 80)
		ping := pt.Echo(t, fam.client, fam.vip, 1, 1, pt.PayloadLen(3000))
		datagram := pt.UDP(t, client, open, pt.PayloadLen(30))
		out = append(out,
			pt.TCP(t, client, open, pt.Flags(packet.TCPSyn), pt.TCPOptions(2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 3, 3, 7)),
			pt.TCP(t, client, open, pt.Flags(packet.TCPSyn), pt.DataValid()),
			pt.TCP(t, client, open, pt.Flags(packet.TCPAck), pt.Ack(1), pt.PayloadLen(5000), pt.GSO(1400)),
			pt.TCP(t, client, at(fam.vip, 81), pt.Flags(packet.TCPFin|packet.TCPAck), pt.PartialChecksum()),
			datagram,
			pt.UDP(t, client, open, pt.NoChecksum()),
			pt.UDP(t, client, open, pt.PayloadLen(3000), pt.GSO(1000)),
			pt.UDP(t, open, client, pt.PartialChecksum()),
			ping,
			pt.Unreachable(t, fam.client, fam.vip, pt.TCP(t, open, client, pt.Flags(packet.TCPAck))),
			pt.ICMPError(t, fam.client, fam.vip, 2+fam.icmp/58, 0, pt.UDP(t, open, client), pt.NextMTU(1280)), // v6: packet too big
			pt.Raw(t, 47, fam.client, fam.vip, pt.PayloadLen(40)),                                             // GRE
			pt.Raw(t, 253, fam.client, fam.vip, pt.PayloadLen(40)),
			pt.Raw(t, fam.icmp, fam.client, fam.vip, pt.Payload([]byte{13, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})), // timestamp
			pt.Raw(t, fam.icmp, fam.client, fam.vip, pt.Payload(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, fam.vip.AsSlice()...)), pt.TTL(255)),
			[]byte{}, make([]byte, 10), make([]byte, 31),
		)
		out = append(out, pt.Fragments(t, ping, 1500, 1)...)
		out = append(out, pt.Fragments(t, datagram, 60, 2)...)
		if fam.vip.Is4() {
			out = append(out, pt.Echo(t, fam.client, fam.vip, 1, 1, pt.IPOptions(7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0)), // record route
				pt.UDP(t, client, open, pt.IPOptions(0x83, 7, 4, 198, 51, 100, 1))) // source route
		} else {
			out = append(out, pt.Echo(t, fam.client, fam.vip, 1, 1, pt.Extension(0, 1, 4, 0, 0, 0, 0)),
				pt.UDP(t, client, open, pt.Extension(43, 0, 0, 0, 0, 0, 0)))
		}
	}
	return out
}

// target is a host with something to hit.
func target(t testing.TB) *rig {
	r := &rig{Host: newTestHost(t, HostConfig{
		Addresses: []netip.Addr{families[0].vip, families[1].vip},
		Output:    func(frame []byte) error { return nil },
	})}
	for _, fam := range families {
		listen(t, r.Host, at(fam.vip, 80))
		conn, err := r.Dial(t.Context(), "udp", at(fam.client, 40000), at(fam.vip, 80))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	return r
}

// hit delivers frame and waits until it has been dealt with.
func (r *rig) hit(t testing.TB, frame []byte) {
	fixHeader(frame)
	before := r.done()
	for !r.Deliver(frame) {
		runtime.Gosched()
	}
	for start := time.Now(); r.done() == before; runtime.Gosched() {
		if time.Since(start) > 5*time.Second {
			stacks := make([]byte, 1<<20)
			t.Fatalf("the stack hangs on %x\n%s", frame, stacks[:runtime.Stack(stacks, true)])
		}
	}
	if n := r.Stats().Panics; n > 0 {
		t.Fatalf("the stack panicked on %x", frame)
	}
}

func (r *rig) done() uint64 {
	s := r.Stats()
	return s.Delivered + s.Refused + s.Panics
}

// fixHeader completes the IPv4 header checksum, which keeps mutations from the
// stack's depths. For transport checksums the mutant sets DATA_VALID or NEEDS_CSUM.
func fixHeader(frame []byte) {
	if len(frame) < packet.VnetLen+header.IPv4MinimumSize {
		return
	}
	h := header.IPv4(frame[packet.VnetLen:])
	if header.IPVersion(h) == 4 && int(h.HeaderLength()) >= header.IPv4MinimumSize && int(h.HeaderLength()) <= len(h) {
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	}
}

func TestMalformed(t *testing.T) {
	r := target(t)
	all := seeds(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		frame := append([]byte(nil), all[rng.IntN(len(all))]...)
		if len(frame) == 0 {
			continue
		}
		for range rng.IntN(4) {
			i := rng.IntN(min(len(frame), 100))
			if rng.IntN(2) == 0 {
				frame[i] = byte(rng.Uint32())
			} else {
				frame[i] ^= 1 << rng.IntN(8)
			}
		}
		if rng.IntN(4) == 0 {
			frame = frame[:rng.IntN(len(frame)+1)]
			if len(frame) > packet.VnetLen+4 && rng.IntN(2) == 0 { // a length that fits
				binary.BigEndian.PutUint16(frame[packet.VnetLen+2:], uint16(len(frame)-packet.VnetLen))
			}
		}
		r.hit(t, frame)
	}
}

// FuzzDeliver wants -fuzzminimizetime=10x: coverage depends on goroutines, so
// that minimizing, by default, runs into its time limit again and again.
func FuzzDeliver(f *testing.F) {
	for _, frame := range seeds(f) {
		f.Add(frame)
	}
	r := target(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > packet.VnetLen+packet.MaxPacket {
			return
		}
		r.hit(t, frame)
	})
}

func BenchmarkNewHost(b *testing.B) {
	var before, after runtime.MemStats
	hosts := make([]*Host, 0, b.N)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		h, err := NewHost(HostConfig{Addresses: []netip.Addr{families[0].vip}, Output: func([]byte) error { return nil }})
		if err != nil {
			b.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	b.StopTimer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(hosts)), "heap-B/host")
	for _, h := range hosts {
		h.Close()
	}
}

func BenchmarkPing(b *testing.B) {
	replies := make(chan struct{}, 1)
	h := newTestHost(b, HostConfig{Addresses: []netip.Addr{families[0].vip}, Output: func([]byte) error {
		replies <- struct{}{}
		return nil
	}})
	frame := pt.Echo(b, families[0].client, families[0].vip, 1, 1, pt.PayloadLen(56))
	b.ReportAllocs()
	for b.Loop() {
		h.Deliver(frame)
		<-replies
	}
}
