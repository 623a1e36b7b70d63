package sim

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/stack/packet"
)

// onWay bounds what is on its way in one direction of a link with a delay: half a second of a gigabit.
const onWay = 40_000

// link is a cable between a host's interface, or a port of the director's, and a network.
type link struct {
	network  *network
	up, down direction // to the network, and from it
	tooBig   atomic.Uint64
}

// newLink makes the cable of a network whose other end is to. seed decides its fortune.
func newLink(n *network, c *clock, seed uint64, to func(*buffer.View)) *link {
	l := &link{network: n}
	l.up = direction{clock: c, out: func(frame *buffer.View) { n.forward(l, frame) }, random: rand.New(rand.NewPCG(seed, 1))}
	l.down = direction{clock: c, out: to, random: rand.New(rand.NewPCG(seed, 2))}
	n.links = append(n.links, l)
	return l
}

// send takes over a frame from the link's host. One that is longer than the network's is dropped.
func (l *link) send(frame *buffer.View) {
	if longest(frame.AsSlice()) > l.network.mtu {
		l.tooBig.Add(1)
		frame.Release()
		return
	}
	l.up.pass(frame)
}

// longest is the length of the longest packet in a frame.
func longest(frame []byte) int {
	if h := packet.DecodeVnet(frame); h.GSOType != packet.GSONone {
		return int(h.HdrLen) + int(h.GSOSize) - packet.EthernetLen
	}
	return len(frame) - packet.VnetLen - packet.EthernetLen
}

// impair changes what the link does, in both directions.
func (l *link) impair(i scenario.Impairment) {
	for _, d := range [...]*direction{&l.up, &l.down} {
		d.mu.Lock()
		d.impairment = i
		d.direct.Store(i == scenario.Impairment{} && !d.armed)
		d.mu.Unlock()
	}
}

// direction is one of a link's two. What it delays stays in order, but for what is to overtake.
type direction struct {
	clock  *clock
	out    func(*buffer.View)
	direct atomic.Bool // nothing is done to frames, and none is on its way

	mu         sync.Mutex
	impairment scenario.Impairment
	random     *rand.Rand
	delayed    []delayed // in the order in which they came: none overtakes one with an earlier, longer delay
	timer      tcpip.Timer
	armed      bool   // the timer is set, or arrive is at work
	lost       uint64 // by chance
	full       uint64 // there was no room
}

type delayed struct {
	due   time.Duration
	frame *buffer.View
}

// pass takes over a frame.
func (d *direction) pass(frame *buffer.View) {
	if d.direct.Load() {
		d.out(frame)
		return
	}
	d.clock.rest.disturb()
	if packet.DecodeVnet(frame.AsSlice()).GSOType == packet.GSONone {
		d.impaired(frame)
		return
	}
	// Fate strikes packets, not super-packets. An error is that the frame is none, and nobody's loss.
	_ = packet.Segment(packet.LinkEthernet, frame.AsSlice(), func(segment []byte) error {
		d.impaired(buffer.NewViewWithData(segment))
		return nil
	})
	frame.Release()
}

// impaired takes over a frame of one packet.
func (d *direction) impaired(frame *buffer.View) {
	if d.suffer(frame) {
		d.out(frame)
	}
}

// suffer says whether a frame goes on at once. Otherwise it has been taken over.
func (d *direction) suffer(frame *buffer.View) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := &d.impairment
	switch {
	case i.Loss > 0 && d.random.Float64() < i.Loss:
		d.lost++
	case i.Delay > 0 && i.Reorder > 0 && d.random.Float64() < i.Reorder:
		return true
	case i.Delay == 0 && !d.armed:
		return true
	case len(d.delayed) >= onWay:
		d.full++
	default:
		d.delayed = append(d.delayed, delayed{d.clock.now() + i.Delay, frame})
		if !d.armed {
			d.armed = true
			d.timer = d.clock.AfterFunc(i.Delay, d.arrive)
		}
		return false
	}
	frame.Release()
	return false
}

// arrive hands on what is due, one frame after the other: there is never a second one of it.
func (d *direction) arrive() {
	for frames := d.due(); len(frames) > 0; frames = d.due() {
		for _, late := range frames {
			d.out(late.frame)
		}
	}
}

// due takes out what is due. If nothing is, arrive ends and comes back when something will be.
func (d *direction) due() (frames []delayed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, n := d.clock.now(), 0
	for n < len(d.delayed) && d.delayed[n].due <= now {
		n++
	}
	frames, d.delayed = d.delayed[:n:n], d.delayed[n:]
	switch {
	case n > 0:
	case len(d.delayed) > 0:
		d.timer.Reset(d.delayed[0].due - now)
	default:
		d.armed = false
		d.direct.Store(d.impairment == scenario.Impairment{})
	}
	return frames
}

// close lets go of what is on its way.
func (l *link) close() {
	for _, d := range [...]*direction{&l.up, &l.down} {
		d.mu.Lock()
		for _, late := range d.delayed {
			late.frame.Release()
		}
		d.delayed = nil
		d.mu.Unlock()
	}
}
