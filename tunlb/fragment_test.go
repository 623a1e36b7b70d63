package tunlb

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// permutations calls visit with every order of n things.
func permutations(n int, visit func(order []int)) {
	var grow func(order []int)
	grow = func(order []int) {
		if len(order) == n {
			visit(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				grow(append(slices.Clone(order), i))
			}
		}
	}
	grow(nil)
}

// TestFragmentsInAnyOrder: a 4 kB datagram arrives in pieces, and leaves in pieces that fit together.
func TestFragmentsInAnyOrder(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		client, vip, rs := at(f.client, 40000), at(f.vip, 53), at(f.rs1, 5353)
		payload := bytes.Repeat([]byte("0123456789abcdef"), 256)
		whole := pt.UDP(t, client, vip, pt.Payload(payload))
		want := pt.UDP(t, client, rs, pt.Payload(payload))
		permutations(3, func(order []int) {
			r := newBox(t)
			pieces := pt.Fragments(t, whole, 1500, 77)
			wanted := pt.Fragments(t, want, 1500, 77)
			if len(pieces) != 3 {
				t.Fatalf("%d fragments, want 3", len(pieces))
			}
			var got [][]byte
			for _, i := range order {
				got = append(got, r.send(0, 0, pieces[i])...)
			}
			if len(got) != 3 {
				t.Fatalf("order %v: %d fragments left, want 3; drops: %v", order, len(got), r.e.Drops())
			}
			for i, w := range wanted {
				if !slices.ContainsFunc(got, func(g []byte) bool { return bytes.Equal(g, w) }) {
					t.Errorf("order %v: fragment %d is not among what left", order, i)
				}
			}
			status := r.e.Status()
			if p := status.Ports[0]; p.RxPackets != 3 || p.TxPackets != 3 || p.RxBytes != p.TxBytes {
				t.Errorf("order %v: counted %+v, want 3 packets in and out", order, p)
			}
			for _, svc := range status.Services {
				if svc.Listen[0].AddrPort() == vip && (svc.Traffic.InPackets != 3 || svc.Traffic.InBytes != status.Ports[0].RxBytes) {
					t.Errorf("order %v: the service counts %+v, want all 3 packets", order, svc.Traffic)
				}
			}
			if n := len(r.e.fragments.byKey); n != 0 {
				t.Errorf("order %v: %d datagrams are remembered after the last piece", order, n)
			}
		})
	})
}

// TestFragmentAbuse: overlaps, duplicates, pieces without a first, floods.
func TestFragmentAbuse(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		client, vip := at(f.client, 40000), at(f.vip, 53)
		piece := func(id uint32, offset, n int, more bool) []byte {
			return pt.Raw(t, packet.ProtoUDP, f.client, f.vip, pt.Fragment(id, offset, more), pt.PayloadLen(n))
		}
		first := pt.Fragments(t, pt.UDP(t, client, vip, pt.PayloadLen(4000)), 1500, 5)[0]
		size := len(first) - packet.VnetLen - 20
		if f.name == "v6" {
			size -= 28
		}

		r := newBox(t)
		r.one(0, 0, first)
		r.dropped(0, piece(5, size-8, 800, true), packet.OverlappingFragment)
		r.dropped(0, piece(5, size, 800, true), packet.OverlappingFragment) // the datagram is spoilt

		r = newBox(t)
		r.one(0, 0, first)
		r.one(0, 0, piece(5, size, 800, true))
		r.dropped(0, piece(5, size, 800, true), packet.DuplicateFragment)

		r = newBox(t)
		for id := range uint32(20) {
			if n := len(r.send(0, 0, piece(id, 8000, 800, true))); n != 0 {
				t.Fatal("a piece without a first has left")
			}
		}
		r.now = 31 * time.Second
		r.e.expire()
		if got := r.e.drops[packet.FragmentTimeout].Load(); got != 20 {
			t.Errorf("%d pieces timed out, want 20", got)
		}
		if fs := r.e.fragments; fs.parked != 0 || len(fs.byKey) != 0 || len(fs.bySource) != 0 || fs.kinds[0].held != 0 || fs.kinds[1].held != 0 {
			t.Errorf("left behind: %d bytes, %d datagrams", r.e.fragments.parked, len(r.e.fragments.byKey))
		}

		r = newBox(t)
		for id := range uint32(3 * maxDatagrams) {
			r.send(0, 0, piece(id, 8000, 1400, true))
		}
		if got := r.e.fragments.parked; got > maxParkedBytes {
			t.Errorf("a flood has %d bytes parked, want at most %d", got, maxParkedBytes)
		}
		if got := len(r.e.fragments.byKey); got > maxDatagrams {
			t.Errorf("a flood has %d datagrams, want at most %d", got, maxDatagrams)
		}
		if r.e.drops[packet.FragmentLimit].Load() == 0 {
			t.Error("nothing was counted as beyond the limit")
		}
	})
}

// TestFragmentShares: whoever floods with fragments gives way to himself; one who makes up his sources leaves half to those
// who send the other kind. Datagrams of others get through meanwhile, whatever order their pieces come in.
func TestFragmentShares(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		client, vip := at(f.client, 40000), at(f.vip, 53)
		honest := pt.Fragments(t, pt.UDP(t, client, vip, pt.PayloadLen(4000)), 1500, 7)
		first := func(src netip.Addr, id uint32) []byte {
			return pt.Raw(t, packet.ProtoUDP, src, f.vip, pt.Fragment(id, 0, true), pt.Payload(append([]byte{0x9c, 0x40, 0, 53, 0x0f, 0xa0, 0, 0}, make([]byte, 800)...)))
		}
		later := func(src netip.Addr, id uint32) []byte {
			return pt.Raw(t, packet.ProtoUDP, src, f.vip, pt.Fragment(id, 8000, true), pt.PayloadLen(1400))
		}
		from := func(i uint32) netip.Addr { // another network each
			if f.name == "v4" {
				return netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
			}
			a := f.outside.As16()
			a[6], a[7] = byte(i>>8), byte(i)
			return netip.AddrFrom16(a)
		}
		one := func(uint32) netip.Addr { return from(7) }
		for _, c := range []struct {
			name  string
			piece func(src netip.Addr, id uint32) []byte
			src   func(i uint32) netip.Addr
			early bool // the honest one's first piece comes early, else late
		}{
			{"later pieces of one source", later, one, false}, {"later pieces of one source", later, one, true}, {"first pieces of one source", first, one, false},
			{"later pieces of anybody", later, from, true}, {"first pieces of anybody", first, from, false},
		} {
			r := newBox(t, func(o *Options, _ *Config) { o.MaxFlows = 100_000 })
			r.watched.Close()
			order := []int{1, 0, 2}
			if c.early {
				order = []int{0, 1, 2}
			}
			left := len(r.send(0, 0, honest[order[0]]))
			for i := range uint32(3 * maxDatagrams) {
				r.send(0, 0, c.piece(c.src(i), i))
				if fs := r.e.fragments; fs.kinds[0].held+fs.kinds[1].held > maxParkedBytes {
					t.Fatalf("%s: %d bytes are held", c.name, fs.kinds[0].held+fs.kinds[1].held)
				}
			}
			for _, i := range order[1:] {
				left += len(r.send(0, 0, honest[i]))
			}
			if left != 3 {
				t.Errorf("%s: of an honest datagram %d pieces have left, want 3", c.name, left)
			}
			if r.e.drops[packet.FragmentLimit].Load() == 0 && r.e.fragments.kinds[1].held < maxParkedBytes/16-datagramBytes {
				t.Errorf("%s: the flood has met no limit", c.name)
			}
		}
	})
}
