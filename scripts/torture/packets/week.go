package packets

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

const week = 7 * 24 * time.Hour

// pace is how often time passes in a week of n lives, and how many flows the table takes: floods go beyond.
func pace(n int) (step time.Duration, limit int) {
	if n < 1_000_000 {
		return time.Minute, 1 << 12
	}
	return 2 * time.Second, 1 << 15
}

// Week lets n connections live and end within a week of the engine's clock: by FIN of either side, RST, silence, eviction in
// SYN floods, the deletion of their server, and through reloads. The heap is flat from the first day on, nothing is left in the
// end, and the counters add up.
func Week(ctx context.Context, n int, seed uint64) (*Result, error) {
	weekStep, limit := pace(n)
	s, err := newRouter(limit, seed)
	if err != nil {
		return nil, err
	}
	defer s.engine.Close()
	w := &weekRun{site: s, step: weekStep, limit: limit, random: rand.New(rand.NewPCG(seed, 6)), full: s.config.Services}
	w.see = func(frame []byte) { w.out = append(w.out[:0], frame...) }
	r := &Result{}
	start := time.Now()
	var heaps []float64
	steps := int(week / weekStep)
	for step, lives := 0, 0; step < steps; step++ {
		if step%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for ; lives < int(int64(n)*int64(step+1)/int64(steps)); lives++ {
			if err := w.live(lives); err != nil {
				return nil, err
			}
		}
		if err := w.events(step); err != nil {
			return nil, err
		}
		w.advance(weekStep, weekStep)
		if quarter := steps / 28; step%quarter == quarter-1 && step >= 4*quarter {
			heaps = append(heaps, heap())
		}
	}
	if err := w.reload(w.full); err != nil {
		return nil, err
	}
	w.advance(3*time.Hour, 10*time.Second) // the gateway's timeout is more than two
	w.sum(r, heaps, n)
	r.figure("a week took", time.Since(start).Seconds(), "s")
	r.drops(w.name, w.engine.Drops())
	return r, nil
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// weekRun is a week under way.
type weekRun struct {
	*site
	step    time.Duration
	limit   int
	random  *rand.Rand
	out     []byte // the last frame that was written
	full    []policy.Spec
	floods  int
	reloads int
	endings [6]int
}

// live is a whole connection, but for those that only fall silent: these end by their timeouts.
func (w *weekRun) live(i int) error {
	k := &casts[i&1]
	client := at(k.client, uint16(1024+i/2%60_000))
	switch i % 8 {
	case 6:
		w.endings[4]++
		return w.datagrams(client, at(k.vip, 53), k)
	case 7:
		w.endings[5]++
		if i%16 == 7 {
			return w.inject(1, pt.Echo(tb, k.rs[1], k.outside, uint16(i), 1))
		}
		return w.inject(1, pt.UDP(tb, at(k.rs[1], uint16(1024+i/2%60_000)), at(k.outside, 53), pt.PayloadLen(9)))
	}
	vip := at(k.vip, []uint16{80, 81, 443}[i/8%3])
	seq, server := w.random.Uint32(), w.random.Uint32()
	if err := w.client(client, vip, packet.TCPSyn, seq, 0); err != nil {
		return err
	}
	var v packet.View
	if v.Parse(append([]byte(nil), w.out...)) != packet.None {
		return fmt.Errorf("what became of a SYN does not parse: %x", w.out)
	}
	back := v.Tuple.Reverse() // what the server answers to
	reply := func(flags uint8, seq, ackNo uint32) error {
		return w.inject(1, pt.TCP(tb, back.Source(), back.Destination(), pt.Flags(flags), pt.Seq(seq), pt.Ack(ackNo), pt.PayloadLen(100*int(flags&packet.TCPPsh)/packet.TCPPsh)))
	}
	const fin = packet.TCPFin | packet.TCPAck
	type say struct {
		server bool
		flags  uint8
		seq    uint32
		ack    uint32
	}
	talk := []say{{true, packet.TCPSyn | packet.TCPAck, server, seq + 1}, {false, packet.TCPAck, seq + 1, server + 1}, {true, packet.TCPAck | packet.TCPPsh, server + 1, seq + 1}}
	ending := w.random.IntN(4)
	w.endings[ending]++
	switch ending {
	case 0: // the client closes first
		talk = append(talk, say{false, fin, seq + 1, server + 101}, say{true, fin, server + 101, seq + 2}, say{false, packet.TCPAck, seq + 2, server + 102})
	case 1: // the server does
		talk = append(talk, say{true, fin, server + 101, seq + 1}, say{false, fin, seq + 1, server + 102}, say{true, packet.TCPAck, server + 102, seq + 2})
	case 2:
		talk = append(talk, say{i%3 == 0, packet.TCPRst, seq + 1, 0})
		if last := &talk[len(talk)-1]; last.server {
			last.seq = server + 101
		}
	}
	for _, t := range talk {
		var err error
		if t.server {
			err = reply(t.flags, t.seq, t.ack)
		} else {
			err = w.client(client, vip, t.flags, t.seq, t.ack)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *weekRun) client(client, vip netip.AddrPort, flags uint8, seq, ackNo uint32) error {
	return w.inject(0, pt.TCP(tb, client, vip, pt.Flags(flags), pt.Seq(seq), pt.Ack(ackNo)))
}

func (w *weekRun) datagrams(client, vip netip.AddrPort, k *cast) error {
	if err := w.inject(0, pt.UDP(tb, client, vip, pt.PayloadLen(30))); err != nil {
		return err
	}
	var v packet.View
	if v.Parse(append([]byte(nil), w.out...)) != packet.None || v.Tuple.Source() != client {
		return nil // no server at the moment
	}
	return w.inject(1, pt.UDP(tb, v.Tuple.Destination(), client, pt.PayloadLen(300)))
}

// events are what an operator and an attacker do: a server is deleted and comes back, a reload changes nothing, a flood fills the table.
func (w *weekRun) events(step int) error {
	hour := int(time.Hour / w.step)
	switch step % (3 * hour) {
	case hour:
		less := make([]policy.Spec, len(w.full))
		copy(less, w.full)
		for i := range less {
			less[i].Servers = less[i].Servers[:1]
		}
		return w.reload(less)
	case 2 * hour:
		return w.reload(w.full)
	case 2*hour + hour/2:
		if step > 8*3*hour && step%(24*hour) > 3*hour {
			return nil // a flood a day, but for the first
		}
		w.floods++
		for i := range 2 * w.limit {
			src := netip.AddrFrom4([4]byte{11, byte(w.floods), byte(i >> 8), byte(i)})
			if err := w.client(at(src, uint16(1024+i>>16)), at(casts[0].vip, 80), packet.TCPSyn, w.random.Uint32(), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *weekRun) reload(specs []policy.Spec) error {
	w.reloads++
	cfg := w.config
	cfg.Services = specs
	return w.engine.Apply(cfg)
}

func (w *weekRun) sum(r *Result, heaps []float64, n int) {
	w.left(r)
	status := w.engine.Status()
	f := status.Flows
	least, most := heaps[0], heaps[0]
	for _, h := range heaps {
		least, most = min(least, h), max(most, h)
	}
	r.prove("lives", float64(n), float64(n), "")
	r.prove("flows opened", float64(f.Opened), float64(n)*.9, "")
	r.prove("evicted by floods", float64(f.Evicted), float64(w.limit), "")
	r.prove("deleted: killed with their server, or reused", float64(f.Deleted), 100, "")
	r.prove("reloads", float64(w.reloads), 100, "")
	for i, name := range []string{"the client's FIN", "the server's FIN", "RST", "silence", "UDP", "gateway"} {
		r.prove("ended by "+name, float64(w.endings[i]), float64(n)/32, "")
	}
	r.atMost("heap, most over least from the second day on", 100*(most/least-1), 2, "%")
	r.figure("heap", most/(1<<20), "MiB")
	r.atMost("flows, fragments, mappings and connections left", float64(len(r.Failures)), 0, "")
}
