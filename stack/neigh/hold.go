package neigh

import (
	"bytes"

	"github.com/tunlb/tunlb/stack/packet"
)

// Held is a packet that has waited for a neighbour's MAC. It is the receiver's.
type Held struct {
	Frame []byte
	Addr  [16]byte   // the neighbour
	MAC   packet.MAC // zero: it does not answer, so the packet is dropped as packet.Unresolved
}

// Hold keeps a copy of a packet for a neighbour of which Lookup says Incomplete. Unresolved: it can't
// wait, since too many do already, or there is nothing to wait for.
func (t *Table) Hold(addr [16]byte, frame []byte) packet.Reason {
	e := t.entries[addr]
	if e == nil || e.state != Incomplete || e.holds == maxHeld || t.heldBytes+len(frame) > maxHeldBytes {
		return packet.Unresolved
	}
	e.held[e.holds] = bytes.Clone(frame)
	e.holds++
	t.heldBytes += len(frame)
	return packet.None
}

// release lets a neighbour's packets go, with its MAC or with none.
func (t *Table) release(e *entry, mac packet.MAC) {
	for i := range e.holds {
		t.released = append(t.released, Held{Frame: e.held[i], Addr: e.addr, MAC: mac})
		e.held[i] = nil
	}
	e.holds = 0
}

// Released hands over the packets whose waiting has ended, in the order they came for each neighbour.
func (t *Table) Released() []Held {
	out := t.released
	t.released = nil
	for _, h := range out {
		t.heldBytes -= len(h.Frame)
	}
	return out
}
