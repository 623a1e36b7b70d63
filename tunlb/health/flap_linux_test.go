package health

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/policy"
)

const (
	flappers  = 500
	flapFor   = 4 * time.Second
	flapState = time.Second / 3 // each server goes through all its states once a second
)

// flapper is a server that is well, then hangs, then is gone.
type flapper struct {
	at   netip.AddrPort
	kind string
	open []io.Closer
	all  sync.WaitGroup
}

// turn closes what is open and goes on in another state.
func (f *flapper) turn(state int) error {
	for _, c := range f.open {
		c.Close()
	}
	f.all.Wait()
	f.open = nil
	if state%3 == 2 {
		return nil
	}
	well := state%3 == 0
	if f.kind == "udp" {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(f.at))
		if err != nil {
			return err
		}
		f.open = append(f.open, c)
		f.all.Go(func() {
			buf := make([]byte, 100)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				if well {
					_, _ = c.WriteToUDPAddrPort(buf[:n], from)
				}
			}
		})
		return nil
	}
	l, err := net.Listen("tcp", f.at.String())
	if err != nil {
		return err
	}
	var last net.Conn // one is enough: a server has one probe at a time
	var mu sync.Mutex
	hangUp := func() {
		mu.Lock()
		defer mu.Unlock()
		if last != nil {
			last.Close()
		}
	}
	f.open = append(f.open, l, closer(hangUp))
	f.all.Go(func() {
		defer hangUp() // on whom it accepted as it was turned off
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if last != nil {
				last.Close()
			}
			last = c
			mu.Unlock()
			if !well {
				continue
			}
			if f.kind == "http" {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					continue
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			} else {
				_, _ = io.WriteString(c, "ready")
			}
		}
	})
	return nil
}

type closer func()

func (f closer) Close() error { f(); return nil }

// TestFlapping: servers of all kinds that come and go once a second, some of them hanging up and some just
// hanging, cost a bounded number of goroutines and descriptors, and none when all is over.
func TestFlapping(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	others := goleak.IgnoreCurrent()
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	var servers []*flapper
	var targets []Target
	for i := range flappers {
		addr := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		if i%2 == 1 {
			addr = netip.IPv6Loopback()
		}
		f := &flapper{at: netip.AddrPortFrom(addr, uint16(10000+i)), kind: []string{"tcp", "http", "udp"}[i/2%3]} // below the ephemeral ports
		servers = append(servers, f)
		h := policy.Health{Type: f.kind, Interval: 250 * time.Millisecond, Timeout: 200 * time.Millisecond}
		switch f.kind {
		case "tcp":
			h.Reply = "ready"
		case "http":
			h.Body = "ok"
		case "udp":
			h.Send = "ping"
		}
		targets = append(targets, Target{Key: Key{"web", f.at}, Address: f.at, Health: h, Dial: Kernel{}})
		if err := f.turn(i); err != nil {
			t.Fatal(err)
		}
	}
	var got ledger
	c := New(got.add)
	c.Set(targets)
	// What the servers take: a listener, a connection and a goroutine each; what a probe takes: a socket,
	// and two goroutines for a moment, besides the target's own.
	most, files := goroutines+4*flappers+50, descriptors+3*flappers+50
	tick := time.NewTicker(flapState)
	defer tick.Stop()
	for turn := 1; turn <= int(flapFor/flapState); turn++ {
		<-tick.C
		for i, f := range servers {
			if err := f.turn(i + turn); err != nil {
				t.Fatal(err)
			}
		}
		if n := runtime.NumGoroutine(); n > most {
			t.Errorf("%d goroutines, want at most %d", n, most)
		}
		if n := openFiles(t); n > files {
			t.Errorf("%d descriptors, want at most %d", n, files)
		}
	}
	c.Set(targets[:flappers/2])
	c.Close()
	for _, f := range servers {
		if err := f.turn(2); err != nil {
			t.Fatal(err)
		}
	}
	goleak.VerifyNone(t, others)
	if n := openFiles(t); n > descriptors {
		t.Errorf("%d descriptors after all, %d before", n, descriptors)
	}
	causes, probes, blind := map[string]int{}, 0, 0
	for _, target := range targets {
		well, ill := 0, 0
		for _, r := range got.of(target.Key) {
			probes++
			if r.OK {
				well++
			} else {
				ill++
				causes[target.Health.Type+": "+r.Cause]++
			}
		}
		if well == 0 || ill == 0 {
			blind++
		}
	}
	if blind > flappers/20 { // a busy machine misses some
		t.Errorf("%d servers that were not seen both up and down", blind)
	}
	t.Logf("%d probes of %d servers in %v; failures: %v", probes, flappers, flapFor, causes)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNoTimeWait: the sockets of probes that went well are gone at once.
func TestNoTimeWait(t *testing.T) {
	eachFamily(t, func(t *testing.T, loopback netip.Addr) {
		before := timeWait(t)
		plain := serveTCP(t, loopback, hush)
		banner := serveTCP(t, loopback, say("220 ready\r\n"))
		for range 100 {
			if cause := once(plain, policy.Health{Type: "tcp"}); cause != "" {
				t.Fatal(cause)
			}
			if cause := once(banner, policy.Health{Type: "tcp", Reply: "220"}); cause != "" {
				t.Fatal(cause)
			}
		}
		if n := timeWait(t) - before; n > 0 {
			t.Errorf("%d sockets in TIME-WAIT", n)
		}
	})
}

// timeWait counts the namespace's sockets in that state.
func timeWait(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), " tw ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
