package namespaces

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
)

func (l *lab) mustDial(t *testing.T, network, to string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), endurance)
	defer cancel()
	c, err := l.Dial(ctx, "client", network, netip.MustParseAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(endurance)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPing(t *testing.T) {
	l := openTwo(t)
	for _, to := range []string{"10.0.0.10", "fd00::10"} {
		if d, err := l.Ping(t.Context(), "client", netip.MustParseAddr(to)); err != nil || d <= 0 {
			t.Errorf("%s: %v, %v", to, d, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Ping(ctx, "client", netip.MustParseAddr("10.0.0.99")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody's address: %v", err)
	}
}

// TestBehave: a stopped program's port refuses until it runs again, and the others' go on.
func TestBehave(t *testing.T) {
	l := openTwo(t)
	ask := func() string {
		c := l.mustDial(t, "tcp", "10.0.0.10:80")
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	behave := func(b scenario.Behaviour) {
		t.Helper()
		if err := l.Behave("rs1", 80, b); err != nil {
			t.Fatal(err)
		}
	}
	behave(scenario.Behaviour{Fail: 503})
	if text := ask(); !strings.Contains(text, " 503 ") {
		t.Errorf("fails: %s", text)
	}
	behave(scenario.Behaviour{Stopped: true})
	behave(scenario.Behaviour{Stopped: true})
	if _, err := l.Dial(t.Context(), "client", "tcp", netip.MustParseAddrPort("10.0.0.10:80")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("stopped: %v", err)
	}
	l.mustDial(t, "tcp", "10.0.0.10:7")
	behave(scenario.Behaviour{})
	if text := ask(); !strings.Contains(text, " 200 ") {
		t.Errorf("runs again: %s", text)
	}
	if err := l.Behave("rs1", 81, scenario.Behaviour{}); err == nil {
		t.Error("nothing runs there")
	}
}

// TestDelay: each direction is late by what was asked, and a link that is changed or mended is so at once.
func TestDelay(t *testing.T) {
	l := openTwo(t)
	// The best of some: others' work on the machine makes packets later, and never earlier.
	best := func(host, to string) time.Duration {
		t.Helper()
		least := time.Hour
		for range 8 {
			ctx, cancel := context.WithTimeout(context.Background(), endurance)
			d, err := l.Ping(ctx, host, netip.MustParseAddr(to))
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			least = min(least, d)
		}
		return least
	}
	impair := func(host string, d time.Duration) {
		t.Helper()
		if err := l.Impair(host, "lan", scenario.Impairment{Delay: d}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want || got > want+time.Millisecond {
			t.Errorf("%s: %v there and back, want %v to 1 ms more", what, got, want)
		}
		t.Logf("%s: %v, asked for %v", what, got, want)
	}
	offload := func(want bool) {
		t.Helper()
		if _, segmentation, err := l.net.NS("client").Offload("eth0"); err != nil || segmentation != want {
			t.Errorf("the client's NIC sends super-packets: %v, %v; want %v", segmentation, err, want)
		}
	}
	check("good", best("client", "10.0.0.10"), 0)
	offload(true)
	impair("client", 10*time.Millisecond)
	offload(false)
	check("client's link", best("client", "10.0.0.10"), 20*time.Millisecond)
	check("client's link, IPv6, from the other side", best("rs1", "fd00::7"), 20*time.Millisecond)
	check("others' links", best("lb", "10.0.0.10"), 0)
	impair("rs1", 3*time.Millisecond)
	check("both links", best("client", "10.0.0.10"), 26*time.Millisecond)
	impair("client", time.Millisecond)
	check("changed", best("client", "10.0.0.10"), 8*time.Millisecond)
	impair("client", 0)
	impair("rs1", 0)
	impair("rs1", 0)
	check("mended", best("client", "10.0.0.10"), 0)
	offload(true)
	for _, bad := range [][2]string{{"client", "wan"}, {"nobody", "lan"}} {
		if err := l.Impair(bad[0], bad[1], scenario.Impairment{}); err == nil {
			t.Errorf("%v is no link", bad)
		}
	}
}

// TestImpairedTCP: what is lost and reordered comes through whole, and super-packets are cut before it happens to them.
func TestImpairedTCP(t *testing.T) {
	l := openTwo(t)
	if err := l.Impair("rs1", "lan", scenario.Impairment{Delay: time.Millisecond, Loss: 0.01, Reorder: 0.02}); err != nil {
		t.Fatal(err)
	}
	c := l.mustDial(t, "tcp", "10.0.0.10:7")
	const much = 2 << 20
	go io.Copy(c, labnet.Bytes(much))
	want, err := io.ReadAll(labnet.Bytes(much))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, much)
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

// burst sends numbered datagrams from one host to a socket of another, and returns the numbers in the order of their arrival.
func burst(t *testing.T, l *lab, n int) (got []int) {
	t.Helper()
	ns, err := l.host("rs1")
	if err != nil {
		t.Fatal(err)
	}
	sink, err := ns.ListenPacket("udp", "10.0.0.10:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := sink.SetReadDeadline(time.Now().Add(endurance)); err != nil {
		t.Fatal(err)
	}
	c := l.mustDial(t, "udp", "10.0.0.10:9999")
	buf := make([]byte, 16)
	// In parts that no queue is too short for. Each ends with marks, one of which arrives, behind all that did.
	const part = 50
	for first := 0; first < n; first += part {
		for i := first; i < first+part; i++ {
			if _, err := fmt.Fprint(c, i); err != nil {
				t.Fatal(err)
			}
		}
		mark := fmt.Sprintf("end %d", first)
		for range 40 {
			if _, err := fmt.Fprint(c, mark); err != nil {
				t.Fatal(err)
			}
		}
		for {
			k, _, err := sink.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:k]) == mark {
				break
			}
			var i int
			if _, err := fmt.Sscanf(string(buf[:k]), "%d", &i); err == nil {
				got = append(got, i)
			}
		}
	}
	return got
}

// TestLoss: as many are lost as were asked for, within what chance does (five standard deviations).
func TestLoss(t *testing.T) {
	l := openTwo(t)
	const n, loss = 5000, 0.2
	if got := len(burst(t, l, n)); got != n {
		t.Fatalf("%d of %d before anything is lost", got, n)
	}
	if err := l.Impair("client", "lan", scenario.Impairment{Loss: loss}); err != nil {
		t.Fatal(err)
	}
	const want, deviation = n * (1 - loss), 28.3 // sqrt(n p (1-p))
	if got := float64(len(burst(t, l, n))); got < want-5*deviation || got > want+5*deviation {
		t.Errorf("%v of %d arrived, want %v ± %v", got, n, want, 5*deviation)
	} else {
		t.Logf("%v of %d arrived, asked for %v", got, n, want)
	}
	if err := l.Impair("client", "lan", scenario.Impairment{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.Ping(ctx, "client", netip.MustParseAddr("10.0.0.10")); err == nil {
		t.Error("a cut link carries a ping")
	}
}

// TestReorder: as many overtake as were asked for, within what chance does, and all arrive.
func TestReorder(t *testing.T) {
	l := openTwo(t)
	ns, err := l.host("rs1")
	if err != nil {
		t.Fatal(err)
	}
	sink, err := ns.ListenPacket("udp", "10.0.0.10:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := sink.SetReadDeadline(time.Now().Add(2 * endurance)); err != nil {
		t.Fatal(err)
	}
	c := l.mustDial(t, "udp", "10.0.0.10:9999")
	// A part is sent at once and waited for.
	const parts, part = 40, 25
	overtakers := func(share float64) (count int) {
		t.Helper()
		if err := l.Impair("client", "lan", scenario.Impairment{Delay: 20 * time.Millisecond, Reorder: share}); err != nil {
			t.Fatal(err)
		}
		for range parts {
			for i := range part {
				if _, err := c.Write([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
			}
			var order [part]byte
			for i := range order {
				if _, _, err := sink.ReadFrom(order[i : i+1]); err != nil {
					t.Fatal(err)
				}
			}
			for i, one := range order {
				if slices.ContainsFunc(order[i+1:], func(later byte) bool { return later < one }) {
					count++
				}
			}
		}
		return count
	}
	if got := overtakers(0); got != 0 {
		t.Errorf("%d overtook without reordering", got)
	}
	// The first ones of a part have fewer to overtake: none if they overtake as well.
	const want, deviation = parts * part * 0.2, 12.7 // sqrt(n p (1-p))
	if got := float64(overtakers(0.2)); got < want-5*deviation-parts*0.25 || got > want+5*deviation {
		t.Errorf("%v of %d overtook, want %v ± %v", got, parts*part, want, 5*deviation)
	} else {
		t.Logf("%v of %d overtook, asked for %v", got, parts*part, want)
	}
}

// TestRelayEnds: a lab that is closed while frames are on their way does not wait for them.
func TestRelayEnds(t *testing.T) {
	l := openTwo(t)
	if err := l.Impair("client", "lan", scenario.Impairment{Delay: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Ping(ctx, "client", netip.MustParseAddr("10.0.0.10")); err == nil {
		t.Error("a ping in no time")
	}
	began := time.Now()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closed after %v", took)
	}
	if err := l.Impair("client", "lan", scenario.Impairment{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed lab: %v", err)
	}
}
