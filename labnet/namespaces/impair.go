package namespaces

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// underway is how many frames a link holds in each direction; more are lost. 10000 are 120 ms at 1 Gbit/s.
const underway = 10000

// Impair is scenario.Lab's. Frames that are on the way when a link gets rid of its impairment are lost.
func (l *lab) Impair(host, network string, i scenario.Impairment) error {
	for _, at := range l.links {
		if at.member == host && at.network == network {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ended {
				return net.ErrClosed
			}
			if err := l.impair(at, i); err != nil {
				return fmt.Errorf("impair the link of %s to %s: %w", host, network, err)
			}
			return nil
		}
	}
	if _, err := l.host(host); err != nil {
		return err
	}
	return fmt.Errorf("%s has no link to a network %q", host, network)
}

// impairLinks does what the file says.
func (l *lab) impairLinks() error {
	members := append([]scenario.Host{{Name: l.file.Director.Name, Attachments: l.file.Director.Attachments}}, l.file.Hosts...)
	for _, m := range members {
		for _, a := range m.Attachments {
			if a.Link == (scenario.Impairment{}) {
				continue
			}
			if err := l.Impair(m.Name, a.Network, a.Link); err != nil {
				return err
			}
		}
	}
	return nil
}

// impair wants l.mu.
func (l *lab) impair(at link, i scenario.Impairment) error {
	r := l.relays[at]
	switch {
	case r != nil && i == (scenario.Impairment{}):
		delete(l.relays, at)
		return r.remove()
	case r != nil:
		r.does.Store(&i)
		return nil
	case i == (scenario.Impairment{}):
		return nil
	}
	r, err := openRelay(l.net.NS(at.member), l.net.NS(switchOf(at.network)), at, i)
	if err != nil {
		return err
	}
	l.relays[at] = r
	return nil
}

// relay is a link through this process: the cable's end is taken out of the switch, and a TAP put in its place. What
// comes by the one leaves by the other, later or never.
//
//	host eth0 === port0 | packet socket --- relay --- TAP | bridge
type relay struct {
	link         link
	member, node *netns.NS
	cable, plug  port.Port
	does         atomic.Pointer[scenario.Impairment]
	quit         chan struct{}
	running      sync.WaitGroup
	closed       func() error // once
}

func openRelay(member, node *netns.NS, at link, i scenario.Impairment) (r *relay, err error) {
	r = &relay{link: at, member: member, node: node, quit: make(chan struct{})}
	r.closed = sync.OnceValue(r.close)
	r.does.Store(&i)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.remove())
		}
	}()
	// One packet a frame: what is lost is a packet, and not 64 KiB of them.
	if err := member.SetOffload(at.inner, false); err != nil {
		return r, err
	}
	// The bridge's own MAC is the lowest of its ports': the TAP's is a high one.
	mac := packet.MAC{0xfe, 0, 0, 0, 0, 1}
	r.plug, err = port.OpenTAP(port.TAPConfig{Name: "impair%d", MTU: at.mtu, NetNS: node.Path(), Offload: port.OffloadOff, MAC: mac, Bridge: "br0"})
	if err != nil {
		return r, err
	}
	if r.cable, err = port.OpenPacket(port.PacketConfig{Interface: at.outer, NetNS: node.Path()}); err != nil {
		return r, err
	}
	if err := r.unplug(); err != nil {
		return r, err
	}
	r.start(r.cable, r.plug)
	r.start(r.plug, r.cable)
	if err := node.Up(r.plug.Name()); err != nil {
		return r, err
	}
	return r, node.Settle()
}

func (r *relay) unplug() error {
	l, err := r.node.Handle().LinkByName(r.link.outer)
	if err != nil {
		return err
	}
	return r.node.Handle().LinkSetNoMaster(l)
}

// remove makes the link a plain one again.
func (r *relay) remove() error {
	err := r.Close()
	handle := r.node.Handle()
	outer, err1 := handle.LinkByName(r.link.outer)
	bridge, err2 := handle.LinkByName("br0")
	if err := errors.Join(err, err1, err2); err != nil {
		return err
	}
	if err := handle.LinkSetMaster(outer, bridge); err != nil {
		return err
	}
	return errors.Join(r.member.SetOffload(r.link.inner, true), r.node.Settle())
}

// Close ends the relay, and the link with it.
func (r *relay) Close() error { return r.closed() }

func (r *relay) close() error {
	close(r.quit)
	var errs []error
	for _, p := range [...]port.Port{r.cable, r.plug} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	r.running.Wait()
	return errors.Join(errs...)
}

// frame is one on its way.
type frame struct {
	due  time.Time
	data []byte
}

func (r *relay) start(from, to port.Port) {
	queue := make(chan frame, underway)
	r.running.Go(func() { r.take(from, to, queue) })
	r.running.Go(func() { r.give(to, queue) })
}

// take reads until the port is closed, and decides what becomes of each frame. Those that overtake the others
// are sent at once.
func (r *relay) take(from, to port.Port, queue chan<- frame) {
	defer close(queue)
	buf := make([]byte, packet.VnetLen+packet.EthernetLen+packet.MaxPacket)
	for {
		n, err := from.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, port.ErrGone):
			return
		case err != nil: // it is down for a moment
			continue
		}
		now, does := time.Now(), r.does.Load()
		switch {
		case rand.Float64() < does.Loss:
		case rand.Float64() < does.Reorder:
			_ = to.Write(buf[:n]) // what a full queue loses is lost
		default:
			select {
			case queue <- frame{now.Add(does.Delay), append([]byte(nil), buf[:n]...)}:
			default:
			}
		}
	}
}

// give sends what is due, until the queue is closed. A frame waits for those before it, so that only reordering reorders.
func (r *relay) give(to port.Port, queue <-chan frame) {
	for f := range queue {
		r.await(f.due)
		_ = to.Write(f.data)
	}
}

// await returns at a moment, or at quit. Go's timers are up to a millisecond late on an idle machine, so the last part is
// the kernel's.
func (r *relay) await(due time.Time) {
	const coarse = 2 * time.Millisecond
	if d := time.Until(due) - coarse; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.quit:
			return
		}
	}
	for d := time.Until(due); d > 0; d = time.Until(due) { // signals, which the runtime has its own of, cut it short
		nap(d)
	}
}
