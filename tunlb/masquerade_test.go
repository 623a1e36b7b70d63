package tunlb

import (
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// newGateway is a box that masquerades what the servers send of their own.
func newGateway(t testing.TB) *rig {
	return newBox(t, func(_ *Options, c *Config) {
		for _, f := range families {
			c.Gateways = append(c.Gateways, Gateway{Inside: f.inside, Masquerade: f.masq, FirstPort: 61000, LastPort: 61999})
		}
	})
}

// source reads a frame's source.
func source(t testing.TB, frame []byte) packet.Tuple {
	t.Helper()
	var v packet.View
	if r := v.Parse(frame); r != packet.None {
		t.Fatalf("bad frame: %v", r)
	}
	return v.Tuple
}

// TestMasquerade: endpoint-independent mapping and filtering, hairpin (RFC 4787 REQ-1, 8, 9).
func TestMasquerade(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newGateway(t)
		inside, out1, out2 := at(f.rs1, 5000), at(f.outside, 53), at(f.outside.Next(), 53)
		sent := r.one(0, 0, pt.UDP(t, inside, out1))
		ext := source(t, sent).Source()
		if ext.Addr() != f.masq || ext.Port() < 61000 || ext.Port() > 61999 {
			t.Fatalf("left from %v, want %v:61000-61999", ext, f.masq)
		}
		pt.Check(t, sent, pt.SrcDst(ext, out1), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, inside, out2)), pt.SrcDst(ext, out2), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, out1, ext)), pt.SrcDst(out1, inside), pt.ValidChecksums())
		// From a stranger.
		stranger := at(f.other, 9)
		pt.Check(t, r.one(0, 0, pt.UDP(t, stranger, ext)), pt.SrcDst(stranger, inside), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, inside, stranger)), pt.SrcDst(ext, stranger), pt.ValidChecksums())
		// Hairpin: another inside host, by the outside address, is seen with its own outside address.
		neighbour := at(f.rs2, 6000)
		hairpin := r.one(0, 0, pt.UDP(t, neighbour, ext))
		ext2 := source(t, hairpin).Source()
		if ext2.Addr() != f.masq || ext2 == ext {
			t.Fatalf("hairpin from %v, want another port of %v", ext2, f.masq)
		}
		pt.Check(t, hairpin, pt.SrcDst(ext2, inside), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.UDP(t, inside, ext2)), pt.SrcDst(ext, neighbour), pt.ValidChecksums())

		if got := r.e.Status().Gateways; got[0].Mappings+got[1].Mappings != 2 {
			t.Errorf("mappings: %+v, want 2 in all", got)
		}
		r.now = 6 * time.Minute
		r.e.expire()
		if got := r.e.Status().Gateways; got[0].Mappings+got[1].Mappings != 0 {
			t.Errorf("mappings once the flows are gone: %+v, want none", got)
		}
	})
}

func TestMasqueradeTCPAndPing(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r := newGateway(t)
		inside, out := at(f.rs1, 5000), at(f.outside, 443)
		ext := source(t, r.one(0, 0, pt.TCP(t, inside, out, syn))).Source()
		pt.Check(t, r.one(0, 0, pt.TCP(t, out, ext, pt.Flags(packet.TCPSyn|packet.TCPAck))), pt.SrcDst(out, inside), pt.ValidChecksums())
		// An error about it, from a router outside, quotes what the server sent.
		sent := r.one(0, 0, pt.TCP(t, inside, out, ack(), pt.PayloadLen(50)))
		pt.Check(t, r.one(0, 0, pt.ICMPError(t, f.other, f.masq, f.icmpTimeExceeded, 0, sent)),
			pt.SrcDst(at(f.other, 0), at(f.rs1, 0)), pt.Quoted(pt.SrcDst(inside, out)), pt.ValidChecksums())

		ping := r.one(0, 0, pt.Echo(t, f.rs1, f.outside, 99, 1))
		id := source(t, ping).SrcPort
		pt.Check(t, ping, pt.SrcDst(at(f.masq, id), at(f.outside, 0)), pt.ValidChecksums())
		pt.Check(t, r.one(0, 0, pt.EchoReply(t, f.outside, f.masq, id, 1)), pt.SrcDst(at(f.outside, 0), at(f.rs1, 99)), pt.ValidChecksums())

		// The answer to a connection that somebody outside opened straight to the server is the kernel's.
		direct := pt.TCP(t, at(f.rs1, 22), out, pt.Flags(packet.TCPSyn|packet.TCPAck))
		if got := r.one(0, 0, direct); string(got) != string(direct) {
			t.Error("changed the answer of a connection that is none of the gateway's")
		}
		// What has no ports must not leave with an inside address.
		r.dropped(0, pt.Raw(t, 47, f.rs1, f.outside, pt.PayloadLen(20)), packet.UnknownProtocol)
		// Inside to inside, and to the box, is none of the gateway's business.
		for _, frame := range [][]byte{pt.UDP(t, inside, at(f.inside.Addr().Next(), 53)), pt.UDP(t, inside, at(f.rs2, 53))} {
			if got := r.one(0, 0, frame); string(got) != string(frame) {
				t.Error("changed what stays inside")
			}
		}
		// The servers' answers to balanced connections are not masqueraded.
		r.one(0, 0, pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn))
		pt.Check(t, r.one(0, 0, pt.TCP(t, at(f.rs1, 8080), at(f.client, 40000), ack())), pt.SrcDst(at(f.vip, 80), at(f.client, 40000)))
	})
}

// TestGatewayReload: flows of before go on, and what they give back is not another's.
func TestGatewayReload(t *testing.T) {
	f := families[0]
	r := newGateway(t)
	inside, out := at(f.rs1, 5000), at(f.outside, 53)
	ext := source(t, r.one(0, 0, pt.UDP(t, inside, out))).Source()
	cfg := r.e.config
	gateways := append([]Gateway(nil), cfg.Gateways...)
	gateways[0].FirstPort, gateways[0].LastPort = ext.Port(), ext.Port()
	if err := r.e.Apply(Config{Services: cfg.Services, Gateways: gateways}); err != nil {
		t.Fatal(err)
	}
	pt.Check(t, r.one(0, 0, pt.UDP(t, out, ext)), pt.SrcDst(out, inside))
	other := at(f.rs2, 6000)
	r.now = 4 * time.Minute
	pt.Check(t, r.one(0, 0, pt.UDP(t, other, at(f.other, 53))), pt.SrcDst(ext, at(f.other, 53)))
	r.now = 6 * time.Minute // the first flow is over, the second is not
	r.e.expire()
	if got := r.e.Status().Gateways[0].Mappings; got != 1 {
		t.Errorf("%d mappings, want the second flow's", got)
	}
}
