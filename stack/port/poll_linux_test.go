package port

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// pair is a TUN and a ring that one goroutine reads.
type pair struct {
	*yard
	tun  Port
	far  *space // where the TUN is
	poll Poll
}

func newPair(t testing.TB, spare bool) *pair {
	t.Helper()
	p := &pair{yard: newYard(t), far: newSpace(t)}
	p.tun = p.far.open(t, TUNConfig{})
	if p.poll = NewPoll([]Port{p.tun, p.Ring}, spare); p.poll == nil {
		t.Fatal("a TUN and a ring can't be waited for together")
	}
	return p
}

// try reads the TUN's packets and the ring's until there are none, calls seen for each, and returns a port's end.
func (p *pair) try(seen func(from int, frame []byte)) error {
	buf, frames := make([]byte, packet.BufferSize), make([][]byte, 8)
	for {
		n, err := p.tun.(Pollable).TryRead(buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		seen(0, buf[:n])
	}
	for {
		n, err := p.TryReceive(frames)
		if n == 0 {
			return err
		}
		for _, frame := range frames[:n] {
			seen(1, frame)
		}
	}
}

// serve waits and reads until a port ends, and returns why.
func (p *pair) serve() error {
	for {
		err := p.poll.Wait()
		if err == nil {
			err = p.try(func(int, []byte) {})
		}
		if err != nil {
			return err
		}
	}
}

// TestPoll: what comes to either ends the wait and is found there, and nothing else is.
func TestPoll(t *testing.T) {
	for _, spare := range []bool{false, true} {
		t.Run(fmt.Sprintf("spare %v", spare), func(t *testing.T) { testPoll(t, newPair(t, spare)) })
	}
}

func testPoll(t *testing.T, p *pair) {
	p.far.up(t, p.tun.Name(), 1)
	c := p.far.listenUDP(t, "10.1.0.1:0")
	for i := range 40 {
		datagram, frame := []byte{byte(i), 1}, numbered(i, 200)
		both := i%3 == 0
		if both || i%3 == 1 {
			if _, err := c.WriteToUDPAddrPort(datagram, far4); err != nil {
				t.Fatal(err)
			}
		}
		if both || i%3 == 2 {
			p.send(t, frame)
		}
		var got [2]bool
		for want := [2]bool{both || i%3 == 1, both || i%3 == 2}; got != want; {
			must(t, p.poll.Wait())
			ready := [2]bool{p.poll.Ready(0), p.poll.Ready(1)}
			var some [2]bool
			must(t, p.try(func(from int, b []byte) {
				some[from] = true
				if from == 0 {
					to, udp, ok := udpDestination(b[packet.VnetLen:])
					got[0] = got[0] || ok && to == far4 && bytes.Equal(udp.Payload(), datagram)
				}
				if from == 1 && bytes.Equal(b, frame) {
					got[1] = true
				}
			}))
			for from, ready := range ready {
				if ready && !some[from] {
					t.Errorf("port %d was said to be ready and has nothing", from)
				}
			}
		}
	}
}

// TestPollEnds: the wait ends with any of the ports, closed or deleted, whether it has begun or not.
func TestPollEnds(t *testing.T) {
	for i := range 4 { // the last two times with a processor to spare
		for name, c := range map[string]struct {
			end  func(p *pair) error
			want error
		}{
			"TUN closed":   {func(p *pair) error { return p.tun.Close() }, os.ErrClosed},
			"ring closed":  {func(p *pair) error { return p.Ring.Close() }, os.ErrClosed},
			"TUN deleted":  {func(p *pair) error { return p.far.nl.LinkDel(p.far.link(t, p.tun.Name())) }, ErrGone},
			"veth deleted": {func(p *pair) error { return p.lan.nl.LinkDel(p.lan.link(t, "p0")) }, ErrGone},
		} {
			p := newPair(t, i >= 2)
			started, ended := make(chan int), make(chan error, 1)
			go func() {
				runtime.LockOSThread()
				started <- unix.Gettid()
				ended <- p.serve()
			}()
			tid := <-started
			if i%2 == 0 { // the other times the end meets Wait wherever it is
				awaitAsleep(t, tid)
			}
			must(t, c.end(p))
			if err := <-ended; !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			must(t, p.tun.Close())
			must(t, p.Ring.Close())
			if err := p.poll.Wait(); err != os.ErrClosed {
				t.Errorf("%s: the wait for closed ports: %v", name, err)
			}
		}
	}
}

// TestPollSpell: a thread that waits keeps its processor for a spell, and not from the collector and the others.
func TestPollSpell(t *testing.T) {
	p := newPair(t, true)
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ended <- p.serve()
	}()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // without one to spare
	for range 100 {
		p.send(t, numbered(1, 200))
		runtime.GC()
	}
	must(t, p.Ring.Close())
	if err := <-ended; err != os.ErrClosed {
		t.Error(err)
	}
}

// TestPollNeedsDescriptors: other ports are read by a goroutine each.
func TestPollNeedsDescriptors(t *testing.T) {
	a, b := Pipe("pipe", packet.LinkIP, 1500)
	defer a.Close()
	defer b.Close()
	if NewPoll([]Port{a, b}, false) != nil {
		t.Error("pipes can't be polled")
	}
}
