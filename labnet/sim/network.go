package sim

import (
	"maps"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/tunlb/tunlb/stack/packet"
)

// network is an Ethernet switch: it learns who is behind which of its links, and floods what it does not know. It runs on
// its senders' goroutines and holds nothing back. Nobody moves in a lab, so that it never forgets.
type network struct {
	name string
	mtu  int

	links []*link // all there are, before the first frame
	mu    sync.Mutex
	known atomic.Pointer[map[packet.MAC]*link] // immutable; stored under mu
}

func newNetwork(name string, mtu int) *network {
	n := &network{name: name, mtu: mtu}
	n.known.Store(&map[packet.MAC]*link{})
	return n
}

// forward takes over a frame that has come in by a link.
func (n *network) forward(from *link, frame *buffer.View) {
	h, ok := packet.DecodeEthernet(frame.AsSlice())
	if !ok {
		frame.Release()
		return
	}
	known := *n.known.Load()
	if known[h.Src] != from && !h.Src.IsGroup() {
		n.learn(h.Src, from)
	}
	if to := known[h.Dst]; to != nil {
		if to == from {
			frame.Release()
			return
		}
		to.down.pass(frame)
		return
	}
	for _, to := range n.links {
		if to != from {
			to.down.pass(frame.Clone())
		}
	}
	frame.Release()
}

func (n *network) learn(mac packet.MAC, at *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := maps.Clone(*n.known.Load())
	known[mac] = at
	n.known.Store(&known)
}
