package nft

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// flood sends one frame again and again, as witness number 1, until stop is called, which tells how many were sent.
func (w *witness) flood(frame []byte) (stop func() uint64) {
	var sent atomic.Uint64
	var ended atomic.Bool
	var sending sync.WaitGroup
	sending.Go(func() {
		for !ended.Load() {
			w.send(1, frame)
			sent.Add(1)
		}
	})
	return func() uint64 {
		ended.Store(true)
		sending.Wait()
		return sent.Load()
	}
}

// TestGuardChanges: while a guard is set again and again, to claims that have an endpoint in common, none of that endpoint's packets gets
// through, from the first Set on.
func TestGuardChanges(t *testing.T) {
	l := newLab(t)
	g, w := l.guard(t), l.witness(t)
	// The way to the verdict is long: what is found last is found in the largest of sets.
	common := packet.Claim{
		VIPs:    []packet.Endpoints{{Addr: vip4, Proto: 17, First: 53, Last: 53}, {Addr: vip4, Proto: 17, First: 90, Last: 99}},
		Servers: []packet.Endpoints{{Addr: rs4, Proto: 6, First: 80, Last: 80}, {Addr: rs4, Proto: 17, First: 100, Last: 199}},
	}
	more := common
	more.Servers = append(slices.Clone(common.Servers), packet.Endpoints{Addr: client4, Proto: 17, First: 100, Last: 199})
	claims := []packet.Claim{common, more}
	must(t, g.Set([]string{"clients"}, claims[0]))
	stop := w.flood(onCable(pt.UDP(t, netip.AddrPortFrom(rs4, 150), netip.AddrPortFrom(client4, 4000)), l.macs["clients"]))
	const changes = 2000
	for i := range changes {
		must(t, g.Set([]string{"clients", "servers"}[:1+i%2], claims[i%2]))
	}
	sent := stop()
	w.pass(nil) // all have come
	passed := w.counted[1]
	t.Logf("%d of %d packets got through %d changes", passed, sent, changes)
	if passed > 0 {
		t.Errorf("the kernel has got %d of %d packets", passed, sent)
	}
	if sent < changes {
		t.Errorf("only %d packets", sent)
	}
}
