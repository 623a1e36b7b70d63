package nft

import (
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

// TestSplit: what is taken apart is the same as before, and in a form that the kernel takes.
func TestSplit(t *testing.T) {
	addrs := []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("192.0.2.2"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1%eth0"), {},
	}
	rapid.Check(t, func(t *rapid.T) {
		claimed := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) packet.Endpoints {
			return packet.Endpoints{
				Addr: rapid.SampledFrom(addrs).Draw(t, "address"), Proto: rapid.SampledFrom([]uint8{6, 17, 132}).Draw(t, "protocol"),
				First: rapid.Uint16Max(12).Draw(t, "first"), Last: rapid.Uint16Max(12).Draw(t, "last"),
			}
		}), 0, 10).Draw(t, "claimed")
		for _, six := range []bool{false, true} {
			single, ranges := split(claimed, six)
			for i, e := range single {
				if e.First != e.Last || i > 0 && e == single[i-1] {
					t.Fatalf("single ports %v", single)
				}
			}
			for i, e := range ranges {
				if e.First >= e.Last || i > 0 && e.Addr == ranges[i-1].Addr && e.Proto == ranges[i-1].Proto && e.First <= ranges[i-1].Last {
					t.Fatalf("ranges %v", ranges)
				}
			}
			for _, addr := range addrs {
				if addr = plain(addr); !addr.IsValid() || addr.Is6() != six {
					continue
				}
				for _, proto := range []uint8{6, 17} {
					for port := range uint16(14) {
						want := has(claimed, addr, proto, port)
						if got := has(single, addr, proto, port) || has(ranges, addr, proto, port); got != want {
							t.Fatalf("%s %d %d: %t, want %t: %v became %v and %v", addr, proto, port, got, want, claimed, single, ranges)
						}
					}
				}
			}
		}
	})
}

// has is the meaning of endpoints. Those of split have their bounds even if they are 0.
func has(list []packet.Endpoints, addr netip.Addr, proto uint8, port uint16) bool {
	for _, e := range list {
		first, last := e.Ports()
		if plain(e.Addr) == addr && e.Proto == proto && first <= port && port <= last {
			return true
		}
	}
	return false
}
