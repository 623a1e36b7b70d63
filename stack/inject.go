package stack

// The way of a frame into the stack:
//  1. Deliver copies it into a bounded queue,
//  2. injectLoop takes it out and injects it under recover,
//  3. classify decides in which form the stack can take it,
//  4. after a panic the stack is replaced.

import (
	"encoding/binary"
	"runtime/debug"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// rebuildInterval is the least time between two replacements of the stack. It
// bounds what a stream of packets of death can cost, in log lines and in memory:
// a stack that panicked with a lock held never ends.
const rebuildInterval = time.Second

// Deliver hands a frame to the host. It copies the frame and never blocks;
// false means that the queue is full (or the host closed) and the frame was
// not taken. The frame must have passed packet.View.Parse.
func (h *Host) Deliver(frame []byte) bool {
	size := int64(len(frame))
	if h.isClosed() || h.queuedBytes.Add(size) > queueBytes {
		return h.overflow(size)
	}
	view := buffer.NewViewWithData(frame)
	h.pending.Add(1)
	select {
	case h.queue <- view:
		return true
	default:
		h.pending.Done()
		view.Release()
		return h.overflow(size)
	}
}

// Settle returns when the stack has worked on all that Deliver has taken, and what it answers at once has been sent.
// Nobody may call Deliver or Close meanwhile.
func (h *Host) Settle() { h.pending.Wait() }

func (h *Host) overflow(size int64) bool {
	h.queuedBytes.Add(-size)
	h.count.queueFull.Add(1)
	return false
}

// injectLoop feeds the stack until Close.
func (h *Host) injectLoop() {
	n := h.current()
	var rebuilt time.Time
	for {
		select {
		case <-h.closing:
			return
		case view := <-h.queue:
			h.queuedBytes.Add(-int64(view.Size()))
			if h.inject(n, view) {
				continue
			}
		}
		// Meanwhile the queue fills up and Deliver says so.
		select {
		case <-h.closing:
			return
		case <-time.After(rebuildInterval - time.Since(rebuilt)):
		}
		rebuilt = time.Now()
		n = h.rebuild(n)
	}
}

// inject hands one frame to n and owns view. It returns false if n panicked.
// Only the stack's work in this goroutine is covered, which is IP, ICMP, UDP and
// the demultiplexing of TCP. TCP segments of an endpoint are handled by
// goroutines of gVisor's own, whose panics nobody can recover.
func (h *Host) inject(n *netstack, view *buffer.View) (ok bool) {
	defer h.pending.Done()
	defer func() {
		if cause := recover(); cause != nil {
			h.count.panics.Add(1)
			h.cfg.Log.Error().Str("host", h.cfg.Name).Interface("panic", cause).Bytes("stack", debug.Stack()).
				Msg("the network stack panicked on a packet: replacing it, its connections are lost")
		}
	}()
	frame := view.AsSlice()
	proto, form := classify(frame)
	switch form {
	case formRefused:
		view.Release()
		h.count.refused.Add(1)
		return true
	case formSplit:
		err := packet.Segment(packet.LinkIP, frame, func(segment []byte) error {
			n.link.inject(proto, buffer.NewViewWithData(segment[packet.VnetLen:]), false)
			return nil
		})
		view.Release()
		if err != nil {
			h.count.refused.Add(1)
			return true
		}
	default:
		view.TrimFront(packet.VnetLen)
		n.link.inject(proto, view, form == formTrusted)
	}
	h.count.delivered.Add(1)
	return true
}

// form is how a frame goes into the stack.
type form uint8

const (
	formRefused form = iota // not at all
	formWhole               // as it is, the stack verifies its checksums
	formTrusted             // as it is, the sender of the frame vouches for the checksums
	formSplit               // segmented and with completed checksums
)

// classify looks at the frame's vnet header and at the IP header's fixed part.
func classify(frame []byte) (tcpip.NetworkProtocolNumber, form) {
	if len(frame) < packet.VnetLen+header.IPv4MinimumSize {
		return 0, formRefused
	}
	vnet, ip := packet.DecodeVnet(frame), frame[packet.VnetLen:]
	var proto tcpip.NetworkProtocolNumber
	var wholeTCP bool // a TCP header follows and the packet is no fragment
	switch ip[0] >> 4 {
	case 4:
		proto = header.IPv4ProtocolNumber
		const fragmentBits = 0x3fff // offset and MF
		wholeTCP = ip[9] == uint8(header.TCPProtocolNumber) && binary.BigEndian.Uint16(ip[6:])&fragmentBits == 0
		// The stack would answer a ping to 224.0.0.1 and 255.255.255.255.
		if ip[16] >= 224 {
			return 0, formRefused
		}
	case 6:
		if len(ip) < header.IPv6MinimumSize {
			return 0, formRefused
		}
		proto = header.IPv6ProtocolNumber
		wholeTCP = ip[6] == uint8(header.TCPProtocolNumber)
		if ip[24] == 0xff { // likewise for ff02::1
			return 0, formRefused
		}
	default:
		return 0, formRefused
	}
	partial := vnet.Flags&packet.FlagNeedsCsum != 0 || vnet.GSOType != packet.GSONone
	switch {
	// A TCP super-packet costs the stack no more than a small one.
	case wholeTCP && (partial || vnet.Flags&packet.FlagDataValid != 0):
		return proto, formTrusted
	// The stack knows neither UDP super-packets nor partial checksums, and it
	// quotes what it got in its ICMP errors.
	case partial:
		return proto, formSplit
	}
	// Never trusted on other grounds: that would hide corruption.
	return proto, formWhole
}

// rebuild replaces old, which panicked, and returns the new stack (or old, if
// that fails: its successor is made at the next panic).
//
// Going on with the old stack is no option. gVisor unlocks without defer in many
// places, and a lock left behind (an endpoint's, the demultiplexer's) would
// block the next packet of that connection, or the next Dial, for ever: a host
// that is silently dead. So its connections are reset; listeners move to the
// new stack and go on accepting.
func (h *Host) rebuild(old *netstack) *netstack {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := newNetstack(h.cfg.mtu(), h.send, h.cfg.Clock, seeded(h.cfg.Seed))
	if err != nil {
		h.cfg.Log.Error().Str("host", h.cfg.Name).Err(err).Msg("cannot replace the network stack")
		return old
	}
	if err := n.setAddresses(h.addresses); err != nil {
		h.cfg.Log.Error().Str("host", h.cfg.Name).Err(err).Msg("the new network stack lacks addresses")
	}
	h.net = n // before old ends: whoever is told so asks for the current one
	for l := range h.listeners {
		l.move(n)
	}
	h.lost.Go(old.destroy)
	return n
}
