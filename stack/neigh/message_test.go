package neigh

import (
	"bytes"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// kernelFrames are what Linux 6.18 sends: a station 02:00:00:00:00:02 with 192.0.2.10 and 2001:db8:2::10.
var kernelFrames = []struct {
	name, frame, sender, target, mac string
	form                             Form
}{
	{"answer", "02000000000102000000000208060001080006040002020000000002c000020a020000000001c0000201", "192.0.2.10", "192.0.2.1", "02", Reply},
	{"answer to a probe", "02000000000102000000000208060001080006040002020000000002c000020a02000000000100000000", "192.0.2.10", "0.0.0.0", "02", Reply},
	{"question from another address", "ffffffffffff02000000000208060001080006040001020000000002cb007116000000000000c000024d", "203.0.113.22", "192.0.2.77", "02", Request},
	{"arp_notify", "ffffffffffff02000000000208060001080006040001020000000002c000020a000000000000c000020a", "192.0.2.10", "192.0.2.10", "02", Announcement},
	{"duplicate address detection with a nonce", "3333ff00001002000000000286dd6000000000203aff00000000000000000000000000000000ff0200000000000000000001ff00001087006a3e0000000020010db80002000000000000000000100e01a077fadc3931", "::", "2001:db8:2::10", "", Probe},
	{"answer", "02000000000102000000000286dd6000000000203aff20010db800020000000000000000001020010db800020000000000000000000188008a4f6000000020010db80002000000000000000000100201020000000002", "2001:db8:2::10", "2001:db8:2::10", "02", Reply},
	{"answer to a unicast question", "02000000000102000000000286dd6000000000183aff20010db800020000000000000000001020010db80002000000000000000000018800ae5a4000000020010db8000200000000000000000010", "2001:db8:2::10", "2001:db8:2::10", "", Reply},
	{"answer to a probe", "33330000000102000000000286dd6000000000203aff20010db8000200000000000000000010ff0200000000000000000000000000018800f9072000000020010db80002000000000000000000100201020000000002", "2001:db8:2::10", "2001:db8:2::10", "02", Announcement},
	{"question, link-local", "3333ff00007702000000000286dd6000000000203afffe80000000000000000000fffe000002ff0200000000000000000001ff00007787004b710000000020010db80002000000000000000000770101020000000002", "fe80::ff:fe00:2", "2001:db8:2::77", "02", Request},
	{"unicast question", "02000000000102000000000286dd6000000000203afffe80000000000000000000fffe00000220010db800020000000000000000000187001ca70000000020010db80002000000000000000000010101020000000002", "fe80::ff:fe00:2", "2001:db8:2::1", "02", Request},
	{"ndisc_notify", "33330000000102000000000286dd6000000000203afffe80000000000000000000fffe000002ff0200000000000000000000000000018800599820000000fe80000000000000000000fffe0000020201020000000002", "fe80::ff:fe00:2", "fe80::ff:fe00:2", "02", Announcement},
}

func TestParseKernelFrames(t *testing.T) {
	for _, tt := range kernelFrames {
		for _, padding := range []int{0, 18} {
			m := parse(t, append(unhex(t, tt.frame), make([]byte, padding)...))
			var mac packet.MAC
			if tt.mac != "" {
				mac = macOf(2)
			}
			if m.Form != tt.form || m.Sender != ip(tt.sender).As16() || m.Target != ip(tt.target).As16() || m.MAC != mac || m.EtherSrc != macOf(2) {
				t.Errorf("%s: %+v", tt.name, m)
			}
			addr, by, ok := m.Claim()
			if ok != (tt.form != Probe) || ok && (addr != ip(tt.sender).As16() || by != macOf(2)) {
				t.Errorf("%s: claims %v at %v, %v", tt.name, packet.Addr(addr), by, ok)
			}
		}
	}
}

// frame4 and frame6 are questions that parse: the cases below spoil one thing each.
func frame4() []byte { return asks(client, families[0].client, families[0].rs1) }
func frame6() []byte { return asks(client, families[1].client, families[1].rs1) }

// edit changes bytes from at on, and makes the checksum right again if the frame is IPv6.
func edit(frame []byte, at int, b ...byte) []byte {
	frame = bytes.Clone(frame)
	copy(frame[at:], b)
	return resum(frame)
}

func resum(frame []byte) []byte {
	if len(frame) >= ndOptions && be.Uint16(frame[l3-2:]) == packet.EtherIPv6 {
		if end := ndType + int(be.Uint16(frame[ip6Length:])); end >= ndOptions && end <= len(frame) {
			be.PutUint16(frame[ndSum:], 0)
			be.PutUint16(frame[ndSum:], ^sumND(frame[:end]))
		}
	}
	return frame
}

// behind puts extension headers between IPv6 and what follows.
func behind(frame []byte, next byte, ext ...byte) []byte {
	out := append(bytes.Clone(frame[:ndType]), ext...)
	out = append(out, frame[ndType:]...)
	out[ip6Next] = next
	be.PutUint16(out[ip6Length:], uint16(len(out)-ndType))
	return out
}

// tag puts a VLAN tag in.
func tag(frame []byte, tpid, tci uint16) []byte {
	out := append(bytes.Clone(frame[:l3-2]), byte(tpid>>8), byte(tpid), byte(tci>>8), byte(tci))
	return append(out, frame[l3-2:]...)
}

func TestParseRefuses(t *testing.T) {
	reply4, reply6 := replies(rs1MAC, families[0].rs1, client, families[0].client), replies(rs1MAC, families[1].rs1, client, families[1].client)
	announce6 := announces(rs1MAC, families[1].rs1)
	probe6 := asks(client, ip("::"), families[1].rs1)
	loop := ip("::1").As16()
	mapped := ip("192.0.2.10").As16()
	for _, tt := range []struct {
		name  string
		frame []byte
		want  packet.Reason
	}{
		{"hardware type", edit(frame4(), l3, 0, 6), packet.BadARP},
		{"protocol type", edit(frame4(), l3+2, 0x86, 0xdd), packet.BadARP},
		{"hardware length", edit(frame4(), l3+4, 8), packet.BadARP},
		{"protocol length", edit(frame4(), l3+5, 16), packet.BadARP},
		{"operation 0", edit(frame4(), arpOp, 0, 0), packet.BadARP},
		{"operation 3, reverse", edit(frame4(), arpOp, 0, 3), packet.BadARP},
		{"sender MAC is a group", edit(frame4(), arpSenderMAC, 1), packet.BadARP},
		{"sender MAC is all", edit(frame4(), arpSenderMAC, packet.Broadcast[:]...), packet.BadARP},
		{"sender MAC is none", edit(frame4(), arpSenderMAC, make([]byte, 6)...), packet.BadARP},
		{"sender is multicast", edit(frame4(), arpSender, 224, 0, 0, 1), packet.BadARP},
		{"sender is all", edit(frame4(), arpSender, 255, 255, 255, 255), packet.BadARP},
		{"sender is loopback", edit(frame4(), arpSender, 127, 0, 0, 1), packet.BadARP},
		{"sender of a reply is none", edit(reply4, arpSender, 0, 0, 0, 0), packet.BadARP},
		{"target is none", edit(frame4(), arpTarget, 0, 0, 0, 0), packet.BadARP},
		{"target is multicast", edit(frame4(), arpTarget, 224, 0, 0, 1), packet.BadARP},
		{"Ethernet source is a group", edit(frame4(), packet.VnetLen+6, 1), packet.BadARP},
		{"Ethernet source is none", edit(frame4(), packet.VnetLen+6, make([]byte, 6)...), packet.BadARP},
		{"a checksum would be put in", edit(frame4(), 0, packet.FlagNeedsCsum), packet.BadARP},
		{"it would be cut", edit(frame4(), 1, packet.GSOTCPv4), packet.BadARP},
		{"priority tag", tag(frame4(), 0x8100, 5<<13), packet.BadARP},
		{"two priority tags", tag(tag(frame4(), 0x8100, 0), 0x88a8, 0), packet.BadARP},

		{"hop limit", edit(frame6(), ip6Hop, 254), packet.BadND},
		{"code", edit(frame6(), ndCode, 1), packet.BadND},
		{"checksum", func() []byte { f := frame6(); f[ndSum]++; return f }(), packet.BadND},
		{"partial checksum elsewhere", edit(frame6(), 0, packet.FlagNeedsCsum, 0, 0, 0, 0, 0, 40, 0, 2, 0), packet.BadND},
		{"super-packet", edit(frame6(), 1, packet.GSOTCPv6), packet.BadND},
		{"length beyond the frame", edit(frame6(), ip6Length, 0, 33), packet.BadND},
		{"length cuts the target", edit(frame6(), ip6Length, 0, 23), packet.BadND},
		{"no length", edit(frame6(), ip6Length, 0, 0), packet.BadND},
		{"option without length", edit(frame6(), ndOptions+1, 0), packet.BadND},
		{"option beyond the end", edit(frame6(), ndOptions+1, 2), packet.BadND},
		{"option cut", edit(append(frame6(), 5), ip6Length, 0, 33), packet.BadND},
		{"long link-layer address", edit(append(frame6(), make([]byte, 8)...), ip6Length, 0, 40, packet.ProtoICMPv6), packet.BadND},
		{"two link-layer addresses", func() []byte {
			f := append(frame6(), frame6()[ndOptions:]...)
			return edit(f, ip6Length, 0, 40)
		}(), packet.BadND},
		{"group's link-layer address", edit(frame6(), ndOptions+2, 0x33), packet.BadND},
		{"no link-layer address", edit(frame6(), ndOptions+2, make([]byte, 6)...), packet.BadND},
		{"target is multicast", edit(frame6(), ndTarget, 0xff), packet.BadND},
		{"target is none", edit(frame6(), ndTarget, make([]byte, 16)...), packet.BadND},
		{"target is loopback", edit(frame6(), ndTarget, loop[:]...), packet.BadND},
		{"target is IPv4", edit(frame6(), ndTarget, mapped[:]...), packet.BadND},
		{"sender is multicast", edit(frame6(), ip6Src, 0xff), packet.BadND},
		{"sender is IPv4", edit(frame6(), ip6Src, mapped[:]...), packet.BadND},
		{"probe with a link-layer address", edit(frame6(), ip6Src, make([]byte, 16)...), packet.BadND},
		{"probe to one host", edit(probe6, ip6Dst, 0xfe, 0x80), packet.BadND},
		{"solicited, to all", edit(announce6, ndFlags, 0x60), packet.BadND},
		{"answer from nobody", edit(reply6, ip6Src, make([]byte, 16)...), packet.BadND},
		{"Ethernet source is a group", edit(frame6(), packet.VnetLen+6, 1), packet.BadND},
		{"behind destination options", behind(frame6(), 60, 58, 0, 1, 4, 0, 0, 0, 0), packet.BadND},
		{"answer behind hop-by-hop options", behind(reply6, 0, 58, 0, 1, 4, 0, 0, 0, 0), packet.BadND},
		{"in an atomic fragment", behind(frame6(), 44, 58, 0, 0, 0, 0, 0, 0, 1), packet.BadND},
		{"in a first fragment", behind(frame6(), 44, 58, 0, 0, 1, 0, 0, 0, 1), packet.BadND},
		{"behind authentication", behind(frame6(), 51, append([]byte{58, 4}, make([]byte, 22)...)...), packet.BadND},
		{"behind options and a fragment", behind(behind(frame6(), 44, 58, 0, 0, 1, 0, 0, 0, 1), 60, 44, 0, 1, 4, 0, 0, 0, 0), packet.BadND},
		{"fragment whose headers don't end", behind(frame6(), 44, 60, 0, 0, 1, 0, 0, 0, 1)[:ndType+8+4], packet.BadND},
		{"fragment whose options don't end", behind(frame6(), 44, 60, 0, 0, 1, 0, 0, 0, 1, 58, 200, 1, 4, 0, 0, 0, 0), packet.BadND},
		{"nine headers", func() []byte {
			f := frame6()
			for range 9 {
				f = behind(f, 60, 60, 0, 1, 4, 0, 0, 0, 0)
			}
			return f
		}(), packet.BadND},
		{"priority tag", tag(frame6(), 0x8100, 0), packet.BadND},
		{"priority tag, hidden", tag(behind(frame6(), 60, 58, 0, 1, 4, 0, 0, 0, 0), 0x88a8, 0), packet.BadND},
	} {
		var m Message
		if !Is(tt.frame) {
			t.Errorf("%s: passes as an ordinary frame", tt.name)
		}
		if got := m.Parse(tt.frame); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	var m Message
	for _, f := range [][]byte{frame4(), frame6(), reply4, reply6, announce6, probe6} {
		for n := range len(f) {
			if Is(f[:n]) && m.Parse(f[:n:n]) == packet.None {
				t.Errorf("%d of %d bytes parse", n, len(f))
			}
		}
		if m.Parse(f) != packet.None {
			t.Errorf("%x doesn't parse", f)
		}
	}
}

func TestIsNot(t *testing.T) {
	f4, f6 := frame4(), frame6()
	icmp := func(kind byte) []byte { return edit(f6, ndType, kind) }
	for name, frame := range map[string][]byte{
		"nothing":                    nil,
		"short":                      f4[:l3-1],
		"IPv4":                       edit(f4, l3-2, 8, 0),
		"another type":               edit(f4, l3-2, 8, 7),
		"router solicitation":        icmp(133),
		"router advertisement":       icmp(134),
		"redirect":                   icmp(137),
		"echo":                       icmp(128),
		"TCP":                        edit(f6, ip6Next, 6),
		"TCP behind options":         behind(f6, 60, 6, 0, 1, 4, 0, 0, 0, 0),
		"echo behind options":        behind(icmp(128), 60, 58, 0, 1, 4, 0, 0, 0, 0),
		"later fragment":             behind(f6, 44, 58, 0, 0, 8, 0, 0, 0, 1),
		"version":                    edit(f6, l3, 0x40),
		"on a VLAN":                  tag(f4, 0x8100, 7),
		"on a VLAN, priority inside": tag(tag(f4, 0x8100, 0), 0x8100, 7),
		"priority tag on TCP":        tag(edit(f6, ip6Next, 6), 0x8100, 0),
		"cut":                        f6[:ndType],
	} {
		if Is(frame) {
			t.Errorf("%s: taken for ours", name)
		}
	}
}

// A checksum that is left to the device is taken, and completed where the frame is rewritten.
func TestPartialChecksum(t *testing.T) {
	f := families[1]
	frame := asks(rs1MAC, f.vip, f.client)
	partial := bytes.Clone(frame)
	packet.Vnet{Flags: packet.FlagNeedsCsum, CsumStart: ndType - packet.VnetLen, CsumOffset: 2}.Encode(partial)
	be.PutUint16(partial[ndSum:], 0x1234)
	table, now := quiet(t, config(true))
	if v := handle(t, table, partial, Servers, now); !v.Rewritten {
		t.Fatal(v)
	}
	if want := asks(rs1MAC, f.rs1, f.client); !bytes.Equal(partial, want) {
		t.Errorf("%x, want\n%x", partial, want)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		Request.String(): "request", Announcement.String(): "announcement", forms.String(): "unknown",
		Static.String(): "static", State(99).String(): "unknown",
		Shared.String(): "shared", Clients.String(): "clients", Servers.String(): "servers", Side(99).String(): "unknown",
		ServerUp.String(): "server-up", ServerDown.String(): "server-down", ServerMoved.String(): "server-moved",
		PinnedClaim.String(): "pinned-claim", AddressConflict.String(): "address-conflict", EventKind(99).String(): "unknown",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
