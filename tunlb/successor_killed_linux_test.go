package tunlb

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// What words say and records mean is the same at any moment at which a process may be killed.

// speechless is memory that takes no words: whoever has it may as well have been killed before.
type speechless struct {
	Keep
	fails bool
	tries int
}

func (k *speechless) SetWords(b []byte) error {
	k.tries++
	if k.fails {
		return errors.New("no memory")
	}
	return k.Keep.SetWords(b)
}

// TestPortsInAnotherOrder: successors with their ports in another order, any number of which are killed before they have written words,
// leave each connection its ways.
func TestPortsInAnotherOrder(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		m := newMemory(t)
		now := time.Hour
		on := func(k Keep, turned bool) *rig {
			r := newRouter(t, func(o *Options, _ *Config) {
				o.Keep, o.Now = k, func() time.Duration { return now }
				if turned {
					slices.Reverse(o.Attachments)
				}
			})
			if turned {
				slices.Reverse(r.ports) // as the lanes are
			}
			return r
		}
		old := on(m, false)
		talk(t, old, packetEnd{0, at(f.client, 40000)}, packetEnd{0, at(f.vip, 80)}, packetEnd{port: 1})
		if err := old.e.remember(); err != nil {
			t.Fatal(err)
		}
		for i, c := range []struct{ turned, killed bool }{{true, true}, {true, true}, {false, true}, {true, false}, {true, true}, {false, false}, {false, false}} {
			r := on(&speechless{Keep: inherited(t, m), fails: c.killed}, c.turned)
			if s := r.e.Succession(); s.Adopted != 1 {
				t.Fatalf("generation %d: %+v", i, s)
			}
			clients, servers := 0, 1
			if c.turned {
				clients, servers = 1, 0
			}
			pt.Check(t, r.one(clients, servers, pt.TCP(t, at(f.client, 40000), at(f.vip, 80), ack(), pt.Seq(101), pt.Ack(501), pt.PayloadLen(30))), pt.SrcDst(at(f.client, 40000), at(f.rs1, 8080)))
			pt.Check(t, r.one(servers, clients, pt.TCP(t, at(f.rs1, 8080), at(f.client, 40000), ack(), pt.Seq(501), pt.Ack(131), pt.PayloadLen(10))), pt.SrcDst(at(f.vip, 80), at(f.client, 40000)))
		}
	})
}

// TestIDsOfTheKilled: a server that goes and comes again while its predecessor's words are those that are kept gets no ID that these say
// is another's. In direct routing nothing else would tell.
func TestIDsOfTheKilled(t *testing.T) {
	eachLAN(t, func(t *testing.T, n lan) {
		m := newMemory(t)
		now := time.Hour
		on := func(k Keep) *rig {
			return newOneArm(t, func(o *Options, _ *Config) { o.Keep, o.Now = k, func() time.Duration { return now } })
		}
		old := on(m)
		both := old.e.config
		none := both
		none.Services = slices.Clone(both.Services)
		for i := range none.Services {
			if none.Services[i].ListensAt(policy.TCP, n.vip.As16(), 80) {
				none.Services[i].Servers = nil
			}
		}
		change := func() {
			t.Helper()
			for _, c := range []Config{none, both} { // words are written later, by Apply or the clock
				if err := old.e.apply(c, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		change()
		to := func(r *rig, opts ...pt.Option) packet.MAC {
			t.Helper()
			_, h := strip(t, settled(r).one(0, 0, from(macClient, pt.TCP(t, at(n.client, 40000), at(n.vip, 80), opts...))))
			return h.Dst
		}
		was := to(old, syn, pt.Seq(100))
		if got := to(old, ack(), pt.Seq(101), pt.Ack(7)); got != was {
			t.Fatalf("goes to %v, and then to %v", was, got)
		}
		killed := on(inherited(t, m))
		if s := killed.e.Succession(); s.Adopted != 0 || s.Refused != 1 { // the words do not know it
			t.Errorf("of a server that words do not know: %+v", s)
		}

		// Once they are written it is known, and those that are gone from them are used again.
		m = newMemory(t)
		old = on(m)
		ids := map[uint32]bool{}
		for range 10 {
			change()
			for _, svc := range old.e.services.Services() {
				for _, srv := range svc.Servers {
					ids[srv.ID] = true
				}
			}
			if err := old.e.remember(); err != nil {
				t.Fatal(err)
			}
		}
		servers := 0
		for _, svc := range both.Services {
			servers += len(svc.Servers)
		}
		if len(ids) > 2*servers {
			t.Errorf("%d servers have had %d IDs in ten reloads", servers, len(ids))
		}
		was = to(old, syn, pt.Seq(100))
		to(old, ack(), pt.Seq(101), pt.Ack(7))
		if got := to(on(inherited(t, m)), ack(), pt.Seq(101), pt.Ack(7), pt.PayloadLen(10)); got != was {
			t.Errorf("goes to %v after the kill, went to %v", got, was)
		}
	})
}

// TestUnknownServer: a server that the words do not know has come after them, and may have the number of one that its predecessor
// had given to another.
func TestUnknownServer(t *testing.T) {
	f := families[0]
	m := newMemory(t)
	on := func(k Keep) *rig {
		return newBox(t, func(o *Options, c *Config) {
			o.Keep, o.Now = k, func() time.Duration { return time.Hour }
			c.Services = c.Services[:1]
		})
	}
	old := on(m)
	for i := range uint16(2) { // to each of the two
		talk(t, old, packetEnd{0, at(f.client, 40000+i)}, packetEnd{0, at(f.vip, 80)}, packetEnd{})
	}
	w, _, err := wordsOf(m)
	if err != nil || len(w.Known) != 2 || w.Known[1].ID != 2 {
		t.Fatalf("%+v (%v)", w.Known, err)
	}
	w.Known = w.Known[:1]
	b, err := json.Marshal(w)
	if err == nil {
		err = m.SetWords(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := on(inherited(t, m))
	if s := r.e.Succession(); s.Adopted != 1 || s.Refused != 1 || r.e.services.Services()[0].Servers[1].ID != 2 {
		t.Errorf("%+v", s)
	}
}

// TestPlaceOfAnother: a connection whose client has called another service is not this one's, whatever the record says. To a place
// that is nobody's any more it goes on, as with the predecessor.
func TestPlaceOfAnother(t *testing.T) {
	f := families[0]
	m := newMemory(t)
	now := time.Hour
	on := func(k Keep) *rig {
		return newBox(t, func(o *Options, _ *Config) { o.Keep, o.Now = k, func() time.Duration { return now } })
	}
	old := on(m)
	talk(t, old, packetEnd{0, at(f.client, 40000)}, packetEnd{0, at(f.vip, 80)}, packetEnd{})
	talk(t, old, packetEnd{0, at(f.client, 40001)}, packetEnd{0, at(f.vip, 443)}, packetEnd{})
	web, full := old.e.services.Services()[0].Servers[0], old.e.services.Services()[2].Servers[0]
	old.e.flows.Walk(0, 10, func(f *flow.Flow) {
		if f.Server() == web.ID {
			f.SetServer(full.ID) // same address, same mode
		}
	})
	if err := old.e.remember(); err != nil {
		t.Fatal(err)
	}
	if s := on(inherited(t, m)).e.Succession(); s.Adopted != 1 || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
	moved := old.e.config
	moved.Services = slices.Clone(moved.Services)
	moved.Services[2].Listen = append(slices.Clone(moved.Services[2].Listen), policy.On(at(f.vip, 444), policy.TCP)...)
	if err := old.e.Apply(moved); err != nil {
		t.Fatal(err)
	}
	moved.Services = slices.Clone(moved.Services)
	moved.Services[2].Listen = policy.On(at(f.vip, 444), policy.TCP)
	if err := old.e.Apply(moved); err != nil {
		t.Fatal(err)
	}
	if s := on(inherited(t, m)).e.Succession(); s.Adopted != 1 {
		t.Errorf("a place that is nobody's any more: %+v", s)
	}
}

// TestWordless: records without words are nobody's, also not those of the next one's words.
func TestWordless(t *testing.T) {
	f := families[0]
	m := newMemory(t)
	on := func(k Keep) *rig {
		return newBox(t, func(o *Options, _ *Config) { o.Keep, o.Now = k, func() time.Duration { return time.Hour } })
	}
	old := on(&speechless{Keep: m, fails: true})
	for i := range uint16(10) {
		talk(t, old, packetEnd{0, at(f.client, 40000+i)}, packetEnd{0, at(f.vip, 80)}, packetEnd{})
	}
	next := on(inherited(t, m))
	if s := next.e.Succession(); s.Cause == "" || s.Refused != 10 || s.Adopted != 0 {
		t.Errorf("no words: %+v", s)
	}
	talk(t, next, packetEnd{0, at(f.client, 50000)}, packetEnd{0, at(f.vip, 80)}, packetEnd{})
	if s := on(inherited(t, m)).e.Succession(); s.Cause != "" || s.Adopted != 1 || s.Refused+s.Damaged > 0 {
		t.Errorf("the one after: %+v", s)
	}
}

// lineCounter counts lines of a log.
type lineCounter struct{ lines atomic.Int32 }

func (c *lineCounter) Write(b []byte) (int, error) {
	c.lines.Add(int32(bytes.Count(b, []byte("\n"))))
	return len(b), nil
}

// TestWordsAreTriedAgain: words that could not be written are, later; it is told once that they could not, and once that they are.
func TestWordsAreTriedAgain(t *testing.T) {
	k := &speechless{Keep: newMemory(t)}
	now := time.Hour
	var told lineCounter
	r := newBox(t, func(o *Options, _ *Config) {
		o.Keep, o.Log, o.Now = k, zerolog.New(&told), func() time.Duration { return now }
	})
	if _, err := r.e.Order(ServerOrder{Service: "web-v4", Server: "rs2", Do: Drain}); err != nil {
		t.Fatal(err)
	}
	told.lines.Store(0)
	k.fails, k.tries = true, 0
	for range 80 { // 20 s
		r.e.rememberDue()
		now += expirePeriod
	}
	if k.tries != 4 || told.lines.Load() != 1 {
		t.Errorf("%d tries in 20 s and %d lines in the log, want one each 5 s, and one line", k.tries, told.lines.Load())
	}
	r.e.rememberOrLog() // by who has changed something
	if k.tries != 5 || told.lines.Load() != 1 {
		t.Errorf("not at once: %d tries, %d lines", k.tries, told.lines.Load())
	}
	k.fails = false
	for range 40 {
		r.e.rememberDue()
		now += expirePeriod
	}
	if k.tries != 6 || told.lines.Load() != 2 {
		t.Errorf("%d tries and %d lines when there is memory again, want 6 and 2", k.tries, told.lines.Load())
	}
	w, _, err := wordsOf(k)
	if err != nil || !slices.ContainsFunc(w.Said, func(s policy.Said) bool { return s.Drained }) {
		t.Errorf("what was said is %+v (%v)", w.Said, err)
	}
}
