package packets

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// Errors sends n ICMP errors that nobody had a reason for: with guessed sequence numbers about established connections, with an
// MTU that no path has, about connections that there are not, and about datagrams, whose errors have nothing to be told by
// but are few. None of the first three passes but for those guesses that are right, and genuine ones all do.
func Errors(ctx context.Context, n int, seed uint64) (*Result, error) {
	r := &Result{}
	for _, open := range []func(int, uint64) (*site, error){newNAT, newSegment} {
		s, err := open(1000, seed)
		if err != nil {
			return nil, err
		}
		err = s.errors(ctx, r, n/2, rand.New(rand.NewPCG(seed, 4)))
		if s.engine.Close(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (s *site) errors(ctx context.Context, r *Result, n int, random *rand.Rand) error {
	k := &casts[0]
	c := s.connect(k, 20_000, random)
	if err := c.handshake(); err != nil {
		return err
	}
	for range 200 { // fill what is in flight
		if err := c.goOn(); err != nil {
			return err
		}
	}
	if err := s.fromMAC(pt.UDP(tb, at(k.client, 9000), at(k.vip, 53), pt.PayloadLen(9)), macClient); err != nil {
		return err
	}
	left := 0
	s.see = func([]byte) { left++ }
	before := s.engine.Drops()
	tooBig := func(seq, mtu uint32) []byte {
		return pt.ICMPError(tb, k.outside, k.vip, k.bigType, k.bigCode, pt.TCP(tb, c.vip, c.client, ack, pt.Seq(seq), pt.PayloadLen(1400)), pt.NextMTU(mtu))
	}
	kinds := []struct {
		name   string
		reason packet.Reason
		make   func() []byte
		most   float64 // share that may pass
	}{
		{"guessed numbers", packet.BlindICMP, func() []byte { return tooBig(random.Uint32(), 1300) }, 2 * inFlight / float64(1<<32)},
		{"small MTU", packet.SmallMTU, func() []byte { return tooBig(c.acked[1], random.Uint32N(576)) }, 0},
		{"about nobody's", packet.ICMPUnmatched, func() []byte {
			return pt.Unreachable(tb, k.outside, k.vip, pt.TCP(tb, c.vip, at(k.other, uint16(random.Uint32())), ack))
		}, 0},
	}
	if c.direct() {
		kinds[0].most = 1 << 24 / float64(1<<32) * 1.2 // the server's numbers are not seen
	}
	each := n / 4
	for _, kind := range kinds {
		left = 0
		for i := range each {
			if i%4096 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if err := s.fromMAC(kind.make(), macClient); err != nil {
				return err
			}
			if i%1000 == 0 {
				s.now += time.Second
			}
		}
		name := s.name + ": " + kind.name
		r.atMost(name+": passed on", float64(left), float64(each)*kind.most+3*boolean(kind.most > 0), "errors")
		r.prove(name+": dropped as "+kind.reason.String(), float64(s.engine.Drops()[kind.reason.String()]-before[kind.reason.String()]), float64(each)*(1-2*kind.most)-3, "errors")
	}
	left = 0
	for range each { // of all of this in one moment
		quoted := pt.UDP(tb, at(k.vip, 53), at(k.client, 9000))
		if err := s.fromMAC(pt.Unreachable(tb, k.outside, k.vip, quoted), macClient); err != nil {
			return err
		}
	}
	r.atMost(s.name+": about a datagram, in a moment: passed on", float64(left), 2000, "errors")
	s.now += time.Second
	left = 0
	genuine := tooBig(c.acked[1], 1300)
	if err := s.fromMAC(genuine, macClient); err != nil {
		return err
	}
	r.atLeast(s.name+": genuine, passed on", float64(left), 1, "")
	return nil
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
