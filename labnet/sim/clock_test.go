package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// TestIdleTimePasses: what nobody does anything in passes many times as fast.
func TestIdleTimePasses(t *testing.T) {
	l := nat(t)
	const idle = time.Minute
	var took []time.Duration
	for range 5 {
		began, before := time.Now(), l.Now()
		pass(l, idle)
		took = append(took, time.Since(began))
		if passed := l.Now() - before; passed < idle || passed > idle+5*time.Second {
			t.Errorf("%v have passed, want %v", passed, idle)
		}
	}
	slices.Sort(took)
	t.Logf("%v pass in %v", idle, took)
	if median := took[len(took)/2]; median > time.Second {
		t.Errorf("%v of the lab's clock took %v, want less than 1s", idle, median)
	}
}

// TestNoHurry: while nobody waits, a lab's time is ours.
func TestNoHurry(t *testing.T) {
	l := nat(t)
	began, before := time.Now(), l.Now()
	<-l.clock.after(300 * time.Millisecond)
	real, lab := time.Since(began), l.Now()-before
	if ahead := lab - real; ahead > 10*time.Millisecond || real < 300*time.Millisecond {
		t.Errorf("%v of the lab's time have passed in %v of ours", lab, real)
	}
}

// TestNothingIsMissed: time does not jump over what somebody is doing, whatever keeps the processors busy: no packet is
// sent twice, and no check fails, in a lab without losses.
func TestNothingIsMissed(t *testing.T) {
	for name, disturb := range map[string]func(*testing.T){
		"alone":       func(*testing.T) {},
		"beside hogs": func(t *testing.T) { besideHogs(t, 2) },
		"with a hog": func(t *testing.T) {
			var end atomic.Bool
			done := make(chan struct{})
			go func() {
				defer close(done)
				for !end.Load() {
				}
			}()
			t.Cleanup(func() { end.Store(true); <-done })
		},
	} {
		t.Run(name, func(t *testing.T) {
			disturb(t)
			l := up(t, parse(t, fmt.Sprintf(natLab, "\n        health: {type: http, interval: 300ms, timeout: 300ms, fall: 1}")))
			within(t, l, 5*time.Second, "both servers are up", func() bool { return bothUp(t, l) })
			last := lastEvent(t, l)
			began := time.Now()
			for i := range 30 {
				p, err := get(l, "client", "http://"+vip+"/bytes/300000", 5*time.Second)
				if err != nil || len(p.body) != 300000 {
					t.Fatalf("request %d: %d bytes, %v", i, len(p.body), err)
				}
				pass(l, 100*time.Millisecond)
			}
			t.Logf("%v in %v", l.Now(), time.Since(began))
			for name, h := range l.hosts {
				if s := h.stack.Stats().TCP; s.Retransmits.Value()+s.Timeouts.Value() > 0 {
					t.Errorf("%s: %d retransmissions, %d timeouts, want none", name, s.Retransmits.Value(), s.Timeouts.Value())
				}
			}
			if now := lastEvent(t, l); now != last {
				t.Errorf("servers went up or down: %d events since all were up", now-last)
			}
		})
	}
}

func bothUp(t *testing.T, l *Lab) bool {
	status, err := l.Control().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range status.Services[0].Servers {
		if srv.Health != "up" || srv.Weight == 0 { // the table follows a little later
			return false
		}
	}
	return true
}

// lastEvent is the number of the director's last event.
func lastEvent(t *testing.T, l *Lab) (last uint64) {
	t.Helper()
	l.director.engine.Events(t.Context(), 0, false, eventNumber(&last))
	return last
}

// TestTimers: they fire in order, once, and not if they are stopped.
func TestTimers(t *testing.T) {
	c := newClock()
	defer c.close()
	c.hurry()
	defer c.calm()
	fired := make(chan int, 10)
	at := func(n int) func() { return func() { fired <- n } }
	third := c.AfterFunc(time.Hour, at(3))
	stopped := c.AfterFunc(2*time.Second, at(9))
	c.AfterFunc(time.Second, at(1))
	second := c.AfterFunc(10*time.Hour, at(2))
	second.Reset(3 * time.Second)
	third.Reset(4 * time.Second)
	if !stopped.Stop() || stopped.Stop() {
		t.Error("a timer is stopped once")
	}
	began := c.now()
	for want := 1; want <= 3; want++ {
		if got := <-fired; got != want {
			t.Errorf("timer %d fires, want %d", got, want)
		}
	}
	if passed := c.now() - began; passed < 4*time.Second || passed > 5*time.Second {
		t.Errorf("%v have passed, want 4s", passed)
	}
	third.Reset(time.Second)
	if got := <-fired; got != 3 || third.Stop() {
		t.Error("a timer that has fired can be set again, and then has fired")
	}
}

// TestRate: time passes no faster than agreed, however little there is to do.
func TestRate(t *testing.T) {
	c := newClock()
	defer c.close()
	c.hurry()
	defer c.calm()
	const span = 40 * time.Second
	began := time.Now()
	<-c.after(span)
	if real, least := time.Since(began), (span-burst)/(maxRate+1); real < least {
		t.Errorf("%v have passed in %v, want at least %v", span, real, least)
	}
}

// TestDeadline: a connection's deadline is of the lab's time, and one that is set anew is another.
func TestDeadline(t *testing.T) {
	l := nat(t)
	if err := l.Behave("rs1", 7, scenario.Behaviour{Silent: true}); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Dial(context.Background(), "client", "tcp", netAddr("192.168.0.10:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began, before := time.Now(), l.Now()
	if err := errors.Join(conn.SetDeadline(time.Now().Add(time.Second)), conn.SetDeadline(time.Now().Add(20*time.Second))); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	var timeout interface{ Timeout() bool }
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	if passed := l.Now() - before; passed < 19*time.Second || passed > 25*time.Second {
		t.Errorf("it came after %v, want 20s", passed)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("20 s took %v", took)
	}
}
