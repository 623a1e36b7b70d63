package sim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/stack/packet"
)

// numbered is a frame that says which one it is.
func numbered(n int) *buffer.View {
	frame := make([]byte, l3+4)
	binary.BigEndian.PutUint32(frame[l3:], uint32(n))
	return buffer.NewViewWithData(frame)
}

// arrivals passes n frames through a direction, one each gap of its clock's time, and gives what arrives, when the
// clock has gone on for long enough.
func arrivals(t *testing.T, i scenario.Impairment, n int) (order []int, late []time.Duration) {
	t.Helper()
	c := newClock()
	defer c.close()
	var mu sync.Mutex
	sent := make([]time.Duration, n)
	l := newLink(newNetwork("net", 1500), c, 7, func(frame *buffer.View) {
		mu.Lock()
		defer mu.Unlock()
		k := int(binary.BigEndian.Uint32(frame.AsSlice()[l3:]))
		order, late = append(order, k), append(late, c.now()-sent[k])
		frame.Release()
		c.rest.disturb() // as whoever gets frames does
	})
	l.impair(i)
	for k := range n {
		mu.Lock()
		sent[k] = c.now()
		mu.Unlock()
		l.down.pass(numbered(k))
	}
	c.hurry()
	defer c.calm()
	<-c.after(2*i.Delay + time.Second)
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(order), slices.Clone(late)
}

// TestImpairments: the fate of each frame is what its link's impairment says.
func TestImpairments(t *testing.T) {
	const n = 10_000
	t.Run("none", func(t *testing.T) {
		order, _ := arrivals(t, scenario.Impairment{}, n)
		if len(order) != n || !slices.IsSorted(order) {
			t.Errorf("%d of %d have come, in order: %v", len(order), n, slices.IsSorted(order))
		}
	})
	for _, loss := range []float64{0.01, 0.2, 0.5, 1} {
		t.Run(fmt.Sprintf("loss %v", loss), func(t *testing.T) {
			order, _ := arrivals(t, scenario.Impairment{Loss: loss}, n)
			want, deviation := n*(1-loss), math.Sqrt(n*loss*(1-loss))
			if math.Abs(float64(len(order))-want) > 4*deviation {
				t.Errorf("%d of %d have come, want %v, give or take %.0f", len(order), n, want, 4*deviation)
			}
			if !slices.IsSorted(order) {
				t.Error("loss has changed the order")
			}
		})
	}
	t.Run("delay", func(t *testing.T) {
		const delay = 3 * time.Second
		order, late := arrivals(t, scenario.Impairment{Delay: delay}, n)
		if len(order) != n || !slices.IsSorted(order) {
			t.Fatalf("%d of %d have come, in order: %v", len(order), n, slices.IsSorted(order))
		}
		if slices.Min(late) < delay || slices.Max(late) > 2*delay { // handling ten thousand takes its time, too
			t.Errorf("they took from %v to %v, want %v", slices.Min(late), slices.Max(late), delay)
		}
	})
	t.Run("reorder", func(t *testing.T) {
		const part = 0.25
		order, late := arrivals(t, scenario.Impairment{Delay: 3 * time.Second, Reorder: part}, n)
		early, last := 0, -1
		for i, k := range order {
			if late[i] < 3*time.Second {
				early++
			} else if k < last {
				t.Fatalf("%d has been overtaken by another late one", k)
			} else {
				last = k
			}
		}
		if want, deviation := n*part, math.Sqrt(n*part*(1-part)); len(order) != n || math.Abs(float64(early)-want) > 4*deviation {
			t.Errorf("%d have come, %d of them early, want %v, give or take %.0f", len(order), early, want, 4*deviation)
		}
	})
}

// TestShorterDelay: what comes after a change stays behind what was on its way before.
func TestShorterDelay(t *testing.T) {
	c := newClock()
	defer c.close()
	c.hurry()
	defer c.calm()
	got := make(chan int, 3)
	l := newLink(newNetwork("net", 1500), c, 7, func(frame *buffer.View) {
		got <- int(binary.BigEndian.Uint32(frame.AsSlice()[l3:]))
		frame.Release()
	})
	l.impair(scenario.Impairment{Delay: 10 * time.Second})
	l.down.pass(numbered(0))
	l.impair(scenario.Impairment{Delay: time.Second})
	l.down.pass(numbered(1))
	l.impair(scenario.Impairment{})
	l.down.pass(numbered(2))
	for want := range 3 {
		if k := <-got; k != want {
			t.Errorf("frame %d comes, want %d", k, want)
		}
	}
}

// TestPingDelay: a link's delay counts in both directions, on the lab's clock.
func TestPingDelay(t *testing.T) {
	l := nat(t)
	ping := func() time.Duration {
		t.Helper()
		ctx, cancel := l.After(context.Background(), 10*time.Second)
		defer cancel()
		took, err := l.Ping(ctx, "client", netip.MustParseAddr("192.168.0.10"))
		if err != nil {
			t.Fatal(err)
		}
		return took
	}
	ping() // neighbours are known then
	for _, link := range [][2]string{{"client", "outside"}, {"lb", "inside"}, {"rs1", "inside"}} {
		if err := l.Impair(link[0], link[1], scenario.Impairment{Delay: 500 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		if took := ping(); took < time.Second || took > 1200*time.Millisecond {
			t.Errorf("%v: took %v, want 1s", link, took)
		}
		if err := l.Impair(link[0], link[1], scenario.Impairment{}); err != nil {
			t.Fatal(err)
		}
		pass(l, time.Second) // what is on its way would be waited for
	}
	if took := ping(); took > 500*time.Millisecond {
		t.Errorf("took %v without a delay", took)
	}
	if l.Impair("client", "inside", scenario.Impairment{}) == nil {
		t.Error("a link that is none can be impaired")
	}
}

// TestBadLink: TCP brings all of it over a link that loses, delays and reorders.
func TestBadLink(t *testing.T) {
	l := nat(t)
	if err := l.Impair("client", "outside", scenario.Impairment{Delay: 20 * time.Millisecond, Loss: 0.02, Reorder: 0.05}); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	p, err := get(l, "client", fmt.Sprintf("http://%s/bytes/%d", vip, size), 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	if _, err := io.Copy(want, labnet.Bytes(size)); err != nil {
		t.Fatal(err)
	}
	if got := sha256.Sum256([]byte(p.body)); string(got[:]) != string(want.Sum(nil)) {
		t.Errorf("%d bytes have come, and not as they were sent", len(p.body))
	}
	if n := l.hosts["rs1"].stack.Stats().TCP.Retransmits.Value(); n == 0 {
		t.Error("nothing was sent twice: the link has lost nothing")
	}
}

// TestMTU: a network's is that of its hosts, and senders elsewhere are told.
func TestMTU(t *testing.T) {
	text := strings.Replace(fmt.Sprintf(natLab, ""), "inside: {}", "inside: {mtu: 1300}", 1)
	l := up(t, parse(t, text))
	for _, vip := range []string{vip, vip6} {
		conn, err := l.Dial(context.Background(), "client", "tcp", netip.AddrPortFrom(netip.MustParseAddr(vip), 7))
		if err != nil {
			t.Fatal(err)
		}
		const size = 200_000
		go func() { _, _ = io.Copy(conn, labnet.Bytes(size)) }()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.CopyN(io.Discard, conn, size); err != nil {
			t.Errorf("%s: %d bytes have come back: %v", vip, n, err)
		}
		conn.Close()
	}
	// The servers' MSS is enough for TCP. A datagram is too long for the director.
	for size, arrives := range map[int]bool{1200: true, 1400: false} {
		before := l.tooBig(t)
		got, err := exchange(l, "client", netAddr("192.168.0.10:7"), strings.Repeat("x", size))
		if told := l.tooBig(t) > before; (err == nil) != arrives || told == arrives {
			t.Errorf("%d bytes: got %d, %v; the director dropped it: %v", size, len(got), err, told)
		}
	}
}

// tooBig counts the packets that the director could not forward since they were too long.
func (l *Lab) tooBig(t *testing.T) uint64 {
	t.Helper()
	status, err := l.Control().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status.Drops[packet.TooBig.String()]
}

// TestTooLong: a link drops what is longer than its network's MTU; of a super-packet each packet counts.
func TestTooLong(t *testing.T) {
	c := newClock()
	defer c.close()
	came := 0
	n := newNetwork("net", 1300)
	from := newLink(n, c, 1, func(*buffer.View) {})
	newLink(n, c, 2, func(frame *buffer.View) { came++; frame.Release() })
	for _, l := range n.links {
		l.impair(scenario.Impairment{})
	}
	const headers = packet.EthernetLen + 20 + 20
	super := func(size uint16) packet.Vnet {
		return packet.Vnet{Flags: packet.FlagNeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: size, HdrLen: headers}
	}
	for _, test := range []struct {
		length int
		vnet   packet.Vnet
		passes bool
	}{
		{1300, packet.Vnet{}, true},
		{1301, packet.Vnet{}, false},
		{60000, super(1260), true},
		{60000, super(1261), false},
	} {
		frame := make([]byte, l3+test.length)
		test.vnet.Encode(frame)
		packet.SetMACs(frame, packet.MAC{2, 2}, packet.MAC{2, 1})
		before, dropped := came, from.tooBig.Load()
		from.send(buffer.NewViewWithData(frame))
		if passed, counted := came > before, from.tooBig.Load() > dropped; passed != test.passes || counted == test.passes {
			t.Errorf("%d bytes with %+v: passed %v, counted as too long %v", test.length, test.vnet, passed, counted)
		}
	}
}
