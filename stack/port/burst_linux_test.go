package port

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// collect reads until n frames of type experimental have come.
func (y *yard) collect(t *testing.T, n int) (got [][]byte) {
	t.Helper()
	frames := make([][]byte, 64)
	for len(got) < n {
		k, err := y.Receive(frames)
		must(t, err)
		for _, frame := range experiments(frames[:k]) {
			got = append(got, bytes.Clone(frame))
		}
	}
	return got
}

// secondYard is another cable from the host of y, which y.out sends into as well.
func secondYard(t testing.TB, y *yard) *yard {
	z := &yard{host: y.host, lan: newSpace(t), out: y.out}
	z.host.veth(t, "eth1", z.lan, "p0")
	z.link = z.host.link(t, "eth1").Attrs().Index
	z.Ring = z.lan.openPacket(t, PacketConfig{Interface: "p0"}).(Ring)
	return z
}

// TestBurstOutOfManyInterfaces: each frame leaves by its own, in order, more of them than a call takes, and frames that
// cannot be sent cost no other.
func TestBurstOutOfManyInterfaces(t *testing.T) {
	y := newYard(t)
	z := secondYard(t, y)
	must(t, y.host.nl.LinkSetDown(z.host.link(t, "eth1")))
	b := y.out.NewBurst()
	gone, long := z.link+1000, numbered(9, 1600)
	var want [][]byte
	for i := range 100 {
		frame := numbered(i, 60+i)
		want = append(want, bytes.Clone(frame))
		b.Put(frame, y.link)
		switch i {
		case 0, 1, 63, 64:
			b.Put(frame, z.link)
		case 50:
			b.Put(frame, gone)
			b.Put(long, y.link)
			b.Put(nil, y.link)
			b.Put(frame[:packet.VnetLen+13], y.link)
		}
	}
	failed, err := b.Flush()
	if failed != 8 || !errors.Is(err, ErrDown) {
		t.Errorf("%d failed, want 8: %v", failed, err)
	}
	if failed, err := b.Flush(); failed != 0 || err != nil {
		t.Errorf("nothing to send: %d failed: %v", failed, err)
	}
	for i, frame := range y.collect(t, len(want)) {
		if !bytes.Equal(frame, want[i]) {
			t.Fatalf("frame %d differs: % x", i, frame[:40])
		}
	}
	y.host.setUp(t, "eth1")
	z.host.awaitCarrier(t, "eth1")
	for i := range 10 {
		b.Put(want[i], []int{y.link, z.link}[i%2])
	}
	if failed, err := b.Flush(); failed != 0 || err != nil {
		t.Errorf("%d failed: %v", failed, err)
	}
	for _, yard := range []*yard{y, z} {
		for i, frame := range yard.collect(t, 5) {
			if at := 2 * i; yard == z && !bytes.Equal(frame, want[at+1]) || yard == y && !bytes.Equal(frame, want[at]) {
				t.Errorf("frame %d differs", i)
			}
		}
	}
}

// TestBurstSuperPackets: they leave whole, and those that the kernel refuses in segments, between others and in order.
func TestBurstSuperPackets(t *testing.T) {
	for _, tx := range []string{"tx on", "tx off"} {
		t.Run(tx, func(t *testing.T) {
			s := packetSegment(t)
			if tx == "tx off" {
				s.lan.noTxOffload(t, "p0")
			}
			for _, from := range []netip.AddrPort{played4, played6} {
				local := localAddr(from, "53")
				c := s.host.listenUDP(t, local)
				b, before := s.Port.(Ring).NewBurst(), StatsOf(s.Port).Segmented
				b.Put(s.frame(from, local, bytes.Repeat([]byte("a"), 500), 0), 0)
				b.Put(s.frame(from, local, bytes.Repeat([]byte("b"), 2500), 1000), 0)
				b.Put(s.frame(from, local, bytes.Repeat([]byte("c"), 2000), 10), 0) // the kernel's limit is 128 segments
				b.Put(s.frame(from, local, bytes.Repeat([]byte("d"), 500), 0), 0)
				if failed, err := b.Flush(); failed != 0 || err != nil {
					t.Fatalf("%d failed: %v", failed, err)
				}
				want := bytes.Repeat([]byte("a"), 500)
				want = append(append(want, bytes.Repeat([]byte("b"), 2500)...), bytes.Repeat([]byte("c"), 2000)...)
				want = append(want, bytes.Repeat([]byte("d"), 500)...)
				var got []byte
				for buf := make([]byte, 4096); len(got) < len(want); {
					n, err := c.Read(buf)
					must(t, err)
					got = append(got, buf[:n]...)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s: payload differs", from)
				}
				if n := StatsOf(s.Port).Segmented - before; n != 1 {
					t.Errorf("%d segmented in software, want 1", n)
				}
				c.Close()
			}
		})
	}
}

// TestBurstFull: what an interface has no room for is lost and counted, and the others' frames leave. Where the socket
// itself has no room a burst waits once, not for each frame.
func TestBurstFull(t *testing.T) {
	y := newYard(t)
	z := secondYard(t, y)
	slow := func(limit uint32) {
		t.Helper()
		err := y.host.nl.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: y.link, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       300, Limit: limit, Buffer: 10e9 / 64, // as in TestDirectFull
		})
		if err != nil {
			t.Skipf("no token bucket filter: %v", err)
		}
	}
	slow(3000)
	b, out := y.out.NewBurst(), numbered(1, 1000)
	for range 40 {
		b.Put(out, y.link)
	}
	b.Put(out, z.link)
	failed, err := b.Flush()
	if failed == 0 || failed > 40 || !errors.Is(err, unix.ENOBUFS) || y.out.Stats().Full != uint64(failed) {
		t.Errorf("%d failed, %v, %+v", failed, err, y.out.Stats())
	}
	z.collect(t, 1)
	slow(1 << 20)
	must(t, unix.SetsockoptInt(y.out.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<15))
	for range 300 {
		b.Put(out, y.link)
	}
	if failed, err := b.Flush(); failed < 200 || !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("%d failed, %v", failed, err)
	}
}

// TestBurstClosed: frames that meet Close are counted, and get its error.
func TestBurstClosed(t *testing.T) {
	for range 5 {
		y := newYard(t)
		var wg sync.WaitGroup
		started := make(chan bool, 3)
		for _, b := range []Burst{y.out.NewBurst(), y.out.NewBurst(), y.NewBurst()} {
			wg.Go(func() {
				frame := numbered(1, 100)
				for {
					for range 100 {
						b.Put(frame, y.link)
					}
					failed, err := b.Flush()
					select {
					case started <- true:
					default:
					}
					if err == os.ErrClosed && failed > 0 && failed <= 100 {
						return
					} else if err != nil && !errors.Is(err, unix.ENOBUFS) {
						t.Errorf("%d failed: %v", failed, err)
						return
					}
				}
			})
		}
		<-started
		must(t, y.out.Close())
		must(t, y.Ring.Close())
		wg.Wait()
	}
}
