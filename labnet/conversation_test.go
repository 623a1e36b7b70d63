package labnet

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	macClient = MAC{2, 0, 203, 0, 113, 7}
	macTunlb  = MAC{2, 0, 0, 0, 0, 1}
	macRS1    = MAC{2, 0, 203, 0, 113, 10}
	macRS2    = MAC{2, 0, 203, 0, 113, 11}
	everybody = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	cast      = map[MAC]string{macClient: "client", macTunlb: "tunlb", macRS1: "rs1", macRS2: "rs2"}
)

// framed puts a made-up packet's MACs in.
func framed(p Packet, src, dst MAC) Packet {
	*(*MAC)(p.Data), *(*MAC)(p.Data[6:]) = dst, src
	return p
}

// arpFrame is a message of ARP, of an IPv4 address that says so of a MAC.
func arpFrame(op uint16, src, dst MAC, sender, target string) Packet {
	b := append(append(dst[:], src[:]...), 0x08, 0x06, 0, 1, 0x08, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, src[:]...), netip.MustParseAddr(sender).AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(target).AsSlice()...)
	return Packet{Ethernet: true, Data: b}
}

// ndFrame is a solicitation (135) or advertisement (136) with those flags and an option.
func ndFrame(kind, flags byte, src, dst MAC, from, target string, option byte) Packet {
	b := append(append(dst[:], src[:]...), 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24+8, 58, 255)
	b = append(b, netip.MustParseAddr(from).AsSlice()...)
	b = append(b, netip.MustParseAddr("ff02::1").AsSlice()...) // of no interest here
	b = append(b, kind, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, netip.MustParseAddr(target).AsSlice()...)
	b = append(append(b, option, 1), src[:]...)
	return Packet{Ethernet: true, Data: b}
}

// family makes the same messages of ARP and of neighbour discovery.
type family struct {
	vip, client, rs1, rs2, none string
	group                       MAC
	ask                         func(src, dst MAC, sender, target string) Packet
	tell                        func(src, dst MAC, address string, asked bool) Packet
}

var families = []family{
	{
		VIP, "203.0.113.7", "203.0.113.10", "203.0.113.11", "0.0.0.0", everybody,
		func(src, dst MAC, sender, target string) Packet { return arpFrame(1, src, dst, sender, target) },
		func(src, dst MAC, address string, asked bool) Packet {
			if !asked {
				return arpFrame(1, src, dst, address, address)
			}
			return arpFrame(2, src, dst, address, "203.0.113.7")
		},
	},
	{
		VIP6, "2001:db8:113::7", "2001:db8:113::10", "2001:db8:113::11", "::", MAC{0x33, 0x33, 0xff, 0, 0, 0x22},
		func(src, dst MAC, sender, target string) Packet { return ndFrame(135, 0, src, dst, sender, target, 1) },
		func(src, dst MAC, address string, asked bool) Packet {
			return ndFrame(136, map[bool]byte{false: 0x20, true: 0x60}[asked], src, dst, address, address, 2)
		},
	},
}

// at is a packet's appearance: whether the point's host has sent it, and when, in microseconds.
func at(p Packet, out bool, us int64) Packet {
	p.Out, p.Time = out, time.UnixMicro(us)
	return p
}

// inlineTalk is heard at the client and at two servers, with tunlb in between. The clocks are
// a little wrong, so that only the order at each point tells who was first.
func inlineTalk(f family) (clients, servers []Point) {
	ask := f.ask(macClient, f.group, f.client, f.vip)
	answer := f.tell(macTunlb, macClient, f.vip, true)
	announce := f.tell(macRS1, f.group, f.vip, false)
	probe := f.ask(macRS2, f.group, f.none, f.vip)
	asVIP := f.ask(macRS1, f.group, f.vip, f.client)
	asSelf := f.ask(macRS1, f.group, f.rs1, f.client)
	unicast := f.tell(macRS1, macClient, f.vip, true)
	toOther := f.tell(macRS2, macRS1, f.vip, true)
	other := f.ask(macClient, f.group, f.client, f.rs2) // about no VIP
	clients = []Point{{"client eth0", []Packet{
		at(ask, true, 100), at(answer, false, 90), at(other, true, 110), at(ask, true, 120), at(asSelf, false, 180),
	}}}
	servers = []Point{
		{"rs1 eth0", []Packet{
			at(announce, true, 130), at(probe, false, 150), at(asVIP, true, 160), at(asSelf, true, 170), at(unicast, true, 190), at(toOther, false, 195),
			{Ethernet: true, Data: []byte{1, 2, 3}}, // broken
		}},
		{"rs2 eth0", []Packet{at(announce, false, 128), at(probe, true, 140), at(asVIP, false, 165), at(other, false, 111), at(toOther, true, 194)}},
	}
	return clients, servers
}

func TestConversation(t *testing.T) {
	for i, want := range []string{`
WHO     SAYS                                           TO
client  who has 203.0.113.22, tell 203.0.113.7         everybody  not passed on
tunlb   203.0.113.22 is at 02:00:00:00:00:01           client
client  who has 203.0.113.22, tell 203.0.113.7         everybody  not passed on
rs1     203.0.113.22 is at 02:00:cb:00:71:0a, unasked  everybody  suppressed
rs2     is 203.0.113.22 free?                          everybody  suppressed
rs1     who has 203.0.113.7, tell 203.0.113.22         everybody  suppressed
rs1     203.0.113.22 is at 02:00:cb:00:71:0a           client     suppressed
rs2     203.0.113.22 is at 02:00:cb:00:71:0b           rs1
`, `
WHO     SAYS                                               TO
client  who has 2001:db8:113::22, tell 2001:db8:113::7     everybody  not passed on
tunlb   2001:db8:113::22 is at 02:00:00:00:00:01           client
client  who has 2001:db8:113::22, tell 2001:db8:113::7     everybody  not passed on
rs1     2001:db8:113::22 is at 02:00:cb:00:71:0a, unasked  everybody  suppressed
rs2     is 2001:db8:113::22 free?                          everybody  suppressed
rs1     who has 2001:db8:113::7, tell 2001:db8:113::22     everybody  suppressed
rs1     2001:db8:113::22 is at 02:00:cb:00:71:0a           client     suppressed
rs2     2001:db8:113::22 is at 02:00:cb:00:71:0b           rs1
`} {
		f := families[i]
		clients, servers := inlineTalk(f)
		all := Conversation(clients, servers, cast, netip.MustParseAddr(f.vip))
		var b strings.Builder
		if err := all.Table(&b, false); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + b.String(); got != want {
			t.Errorf("got%s\nwant%s", got, want)
		}
		if at := strings.Join(all[3].At, ", "); at != "rs1 eth0, rs2 eth0" {
			t.Errorf("%+v, want it at both servers", all[3])
		}
	}
}

// TestConversationOfAll: without an address that it is about, what passes is there as well.
func TestConversationOfAll(t *testing.T) {
	for _, f := range families {
		clients, servers := inlineTalk(f)
		fates := map[string]Fate{}
		for _, e := range Conversation(clients, servers, cast) {
			fates[e.From+" "+e.sentence()] = e.Fate
		}
		for sentence, want := range map[string]Fate{
			"client who has " + f.rs2 + ", tell " + f.client: "",
			"rs1 who has " + f.client + ", tell " + f.rs1:    "",
			"rs1 who has " + f.client + ", tell " + f.vip:    Suppressed,
		} {
			if got, ok := fates[sentence]; !ok || got != want {
				t.Errorf("%s: %q, %v, want %q in %v", sentence, got, ok, want, fates)
			}
		}
		// Nobody knows what the clients have not seen if nobody looked there.
		for _, e := range Conversation(nil, servers, cast) {
			if e.Fate != "" {
				t.Errorf("without a client: %+v", e)
			}
		}
	}
}

// TestConversationInOrder: the points' orders weigh more than the clock; where they contradict
// each other the clock decides, and all is told nevertheless.
func TestConversationInOrder(t *testing.T) {
	f := families[0]
	a := f.ask(macClient, f.group, f.client, f.vip)
	b := f.tell(macRS1, macClient, f.vip, true)
	c := f.tell(macRS2, macClient, f.vip, true)
	order := func(points ...Point) (who string) {
		for _, e := range Conversation(points[:1], points[1:], cast) {
			who += e.From + " "
		}
		return who
	}
	for _, test := range []struct {
		first, second []Packet
		want          string
	}{
		{[]Packet{at(a, true, 5), at(b, false, 4)}, []Packet{at(c, true, 1), at(b, false, 3)}, "rs2 client rs1 "},
		{[]Packet{at(b, false, 9), at(c, false, 1)}, []Packet{at(b, true, 8)}, "rs1 rs2 "},
		{[]Packet{at(b, false, 3), at(c, false, 1)}, []Packet{at(c, true, 2), at(b, false, 4)}, "rs2 rs1 "},
		{[]Packet{at(c, false, 3), at(b, false, 1)}, []Packet{at(b, true, 2), at(c, false, 4)}, "rs1 rs2 "},
	} {
		if got := order(Point{"client", test.first}, Point{"rs", test.second}); got != test.want {
			t.Errorf("order %q, want %q", got, test.want)
		}
	}
}

func FuzzConversation(f *testing.F) {
	for _, family := range families {
		f.Add(family.ask(macClient, family.group, family.client, family.vip).Data)
		f.Add(family.tell(macRS1, macClient, family.vip, true).Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := []Point{{"x", []Packet{{Ethernet: true, Data: data}, {Ethernet: true, Out: true, Data: data}}}}
		_ = Conversation(p, p, nil).Table(t.Output(), false)
	})
}
