package tunlb

import (
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// FuzzHandle throws bytes at an engine with flows, mappings and fragments in flight: nothing panics,
// and nothing leaves that would not have been let in.
func FuzzHandle(f *testing.F) {
	for _, fam := range families {
		client, vip := at(fam.client, 40000), at(fam.vip, 80)
		f.Add(pt.TCP(f, client, vip, syn))
		f.Add(pt.TCP(f, client, vip, ack(), pt.PayloadLen(4000), pt.GSO(1000)))
		f.Add(pt.UDP(f, client, at(fam.vip, 53), pt.PayloadLen(64)))
		f.Add(pt.UDP(f, at(fam.rs1, 5000), at(fam.outside, 53)))
		f.Add(pt.Echo(f, fam.rs1, fam.outside, 1, 1))
		f.Add(pt.Unreachable(f, fam.rs1, fam.client, pt.TCP(f, client, at(fam.rs1, 8080), syn)))
		for _, piece := range pt.Fragments(f, pt.UDP(f, client, at(fam.vip, 53), pt.PayloadLen(3000)), 1500, 9) {
			f.Add(piece)
		}
	}
	box, router := newGateway(f), newRouter(f)
	for _, fam := range families {
		box.one(0, 0, pt.TCP(f, at(fam.client, 40000), at(fam.vip, 80), syn))
		router.one(0, 1, pt.TCP(f, at(fam.client, 40000), at(fam.vip, 80), syn))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > packet.MaxPacket {
			return
		}
		for _, r := range []*rig{box, router} {
			for _, l := range r.e.lanes {
				l.handle(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
			}
			for _, p := range r.ports {
				for _, out := range p.take() {
					var v packet.View
					reason := v.Parse(out)
					if reason == packet.BadICMP {
						// An error of ours that quotes a chain of extension headers longer than a quote may
						// be is right, if nobody can use it.
						pt.Check(t, out, pt.ValidChecksums())
						continue
					}
					if reason != packet.None {
						t.Fatalf("what left does not parse: %v\n in %x\nout %x", reason, frame, out)
					}
				}
			}
		}
	})
}
