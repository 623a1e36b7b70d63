package packets

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// The attacks' own controls: what each of them looks for is found where it is.

// TestVerdicts: a frame that should not leave is found out, by one of the three who judge.
func TestVerdicts(t *testing.T) {
	o, err := newOracle()
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	k := &casts[0]
	good := func() []byte { return pt.TCP(t, at(k.client, 1), at(k.vip, 80), ack, pt.PayloadLen(100)) }
	super := func() []byte {
		return pt.TCP(t, at(k.client, 1), at(k.vip, 80), ack, pt.PayloadLen(9000), pt.GSO(1400))
	}
	flip := func(frame []byte, offset int, b byte) []byte { frame[packet.VnetLen+offset] ^= b; return frame }
	vnet := func(offset int, b byte) []byte { f := super(); f[offset] = b; return f }
	for name, frame := range map[string][]byte{
		"header checksum": flip(good(), 10, 1), "total length": good()[:len(good())-1], "version": flip(good(), 0, 0x10), "data offset": flip(good(), 20+12, 0x40),
		"checksum start": vnet(6, 200), "no size": vnetSize(super()), "no partial checksum": vnet(0, 0),
	} {
		if what := verdict(frame); what == "" {
			t.Errorf("%s: nothing is found wrong with %x", name, frame)
		}
	}
	for _, frame := range [][]byte{good(), super()} {
		if what := verdict(frame); what != "" {
			t.Errorf("of a valid frame is said: %s", what)
		}
	}
	if right, whole := sums(flip(good(), 30+20, 1)); right || !whole {
		t.Error("a wrong TCP checksum passes")
	}
	if o.refuses(good()[packet.VnetLen:], true) || !o.refuses(flip(good(), 3, 0x40)[packet.VnetLen:], true) {
		t.Error("the oracle does not tell a cut packet from a whole one")
	}
}

// vnetSize takes away a super-packet's segment size.
func vnetSize(frame []byte) []byte {
	frame[4], frame[5] = 0, 0
	return frame
}

// TestLeftovers: flows, fragments and waiting packets that are left are told.
func TestLeftovers(t *testing.T) {
	s, err := newBox(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.engine.Close()
	k := &casts[0]
	for _, frame := range [][]byte{
		pt.TCP(t, at(k.client, 1), at(k.vip, 80), syn),
		pt.Raw(t, packet.ProtoUDP, k.client, k.vip, pt.Fragment(1, 800, true), pt.PayloadLen(80)),
		pt.UDP(t, at(k.client, 1), at(addr("198.51.100.15"), 9)), // never answers, see ways
	} {
		if err := s.fromMAC(frame, macClient); err != nil {
			t.Fatal(err)
		}
	}
	r := &Result{}
	s.left(r)
	all := strings.Join(r.Failures, "\n")
	for _, what := range []string{"flows are left", "bytes of fragments are left", "active", "wait for their next hop"} {
		if !strings.Contains(all, what) {
			t.Errorf("nothing is said of %q:\n%s", what, all)
		}
	}
}

// TestDisturbed: a RST that has the right number does disturb, and that is seen.
func TestDisturbed(t *testing.T) {
	for _, open := range []func(int, uint64) (*site, error){newNAT, newSegment} {
		s, err := open(1000, 1)
		if err != nil {
			t.Fatal(err)
		}
		c := s.connect(&casts[0], 20_000, rand.New(rand.NewPCG(1, 1)))
		if err := c.handshake(); err != nil {
			t.Fatal(err)
		}
		if got := c.state(); got != "ESTABLISHED" {
			t.Errorf("%s: %s after the handshake", s.name, got)
		}
		patch(c.forged[0], c.next[0], 0, packet.TCPRst)
		if err := s.fromMAC(c.forged[0], macClient); err != nil {
			t.Fatal(err)
		}
		if got := c.state(); got != "CLOSE" {
			t.Errorf("%s: %s after a RST with the right number", s.name, got)
		}
		s.engine.Close()
	}
}
