package nft

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// ends collects what a carrier tells of.
func ends(t testing.TB, c *Carrier) <-chan End {
	t.Helper()
	all, done := make(chan End, 1000), make(chan error)
	go func() {
		done <- c.Ends(func(some []End) {
			for _, e := range some {
				if e.Tuple.DstPort == 80 { // not what the server thinks of it
					all <- e
				}
			}
		})
	}()
	t.Cleanup(func() {
		must(t, c.Close())
		must(t, <-done)
	})
	return all
}

// TestEnds: what ends a connection that is carried is carried as well and told of; what ends another is neither.
func TestEnds(t *testing.T) {
	l := newLab(t)
	l.pin(t)
	c, w := l.carrier(t, 100), l.witness(t)
	told := ends(t, c)
	for _, s := range sides {
		from, to := netip.AddrPortFrom(s.client, 4000), netip.AddrPortFrom(s.vip, 80)
		other := netip.AddrPortFrom(s.client, 4001)
		for _, err := range c.Add([]Conn{l.nat(6, from, to, netip.AddrPortFrom(s.back, 50000), netip.AddrPortFrom(s.server, 8080))}) {
			must(t, err)
		}
		of := func(from netip.AddrPort, flags uint8, opts ...pt.Option) []byte {
			return onCable(pt.TCP(t, from, to, append(opts, pt.Flags(flags), pt.Seq(7), pt.Ack(9))...), l.macs["clients"])
		}
		got := w.pass([][]byte{
			of(other, packet.TCPFin|packet.TCPAck), of(from, packet.TCPAck),
			of(from, packet.TCPSyn|packet.TCPFin), of(from, packet.TCPSyn|packet.TCPRst),
			of(from, packet.TCPFin|packet.TCPAck, pt.TTL(1)),
			of(from, packet.TCPFin|packet.TCPAck), of(from, packet.TCPRst),
			of(from, packet.TCPFin|packet.TCPPsh|packet.TCPAck, pt.PayloadLen(700), pt.TCPOptions(1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2)),
		})
		if want := []bool{true, false, true, true, true, false, false, false}; !slices.Equal(got, want) {
			t.Errorf("%s: not carried: %t, want %t", s.name, got, want)
		}
		for _, flags := range []uint8{packet.TCPFin | packet.TCPAck, packet.TCPRst, packet.TCPFin | packet.TCPPsh | packet.TCPAck} {
			want := packet.TupleOf(packet.ProtoTCP, from, to)
			select {
			case got := <-told:
				tcp := got.Header[len(got.Header)-20:]
				if s.client.Is4() {
					tcp = got.Header[20:]
				}
				if got.Tuple != want || got.Flags != flags || be.Uint32(tcp[4:]) != 7 || be.Uint32(tcp[8:]) != 9 {
					t.Errorf("%s: told of %+v, want %v with flags %#x", s.name, got, want, flags)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: not told of flags %#x", s.name, flags)
			}
		}
	}
	if len(told) > 0 {
		t.Errorf("told of %+v as well", <-told)
	}
}

// TestEndsGroups: carriers find a group each, and where none is left ends are not carried.
func TestEndsGroups(t *testing.T) {
	l := newLab(t)
	l.pin(t)
	w := l.witness(t)
	end := func(number uint16) []byte {
		from, to := netip.AddrPortFrom(client4, number), netip.AddrPortFrom(vip4, 80)
		return onCable(pt.TCP(t, from, to, pt.Flags(packet.TCPFin|packet.TCPAck)), l.macs["clients"])
	}
	passes := func(c *Carrier, number uint16) bool {
		for _, err := range c.Add([]Conn{l.nat(6, netip.AddrPortFrom(client4, number), netip.AddrPortFrom(vip4, 80),
			netip.AddrPortFrom(back4, number), netip.AddrPortFrom(rs4, 8080))}) {
			must(t, err)
		}
		return w.pass([][]byte{end(number)})[0]
	}
	if first := l.carrier(t, 10); passes(first, 4000) {
		t.Error("the first carrier does not carry ends")
	}
	second := l.carrier(t, 10)
	if passes(second, 4001) {
		t.Error("the second carrier does not carry ends")
	}
	if second.ends.group != firstGroup+1 {
		t.Errorf("it has group %#x, want %#x", second.ends.group, firstGroup+1)
	}
	for range groups - 2 {
		n, err := openNotices(l.box.Path())
		must(t, err)
		defer n.close()
	}
	last := l.carrier(t, 10)
	if !passes(last, 4002) {
		t.Error("a carrier without a group carries ends")
	}
	must(t, last.Ends(func([]End) { t.Error("it tells of some") }))
}
