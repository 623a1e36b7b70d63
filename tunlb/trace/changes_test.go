package trace_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/trace"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// passed is the journey of a frame that came as one and left as another.
func passed(in, out []byte, ethernet bool, snap int) *trace.Journey {
	r := &watch.Record{Exit: "port"}
	r.SetIn("in", ethernet, in, snap)
	r.AddOut("out", ethernet, out, snap)
	return trace.Of(r, 0)
}

func changes(j *trace.Journey) (list []string) {
	for _, s := range j.Steps {
		if c := s.Change; c != nil {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s: %s -> %s %s %s", c.Field, c.From, c.To, c.Delta, c.Wanted)))
		}
	}
	return list
}

// frames is one of each kind of packet.
func frames(t testing.TB) map[string][]byte {
	client, vip, client6, vip6 := at(client4, 40000), at(vip4, 80), at(client6, 40000), at(vip6, 80)
	udp := pt.UDP(t, client, vip, pt.PayloadLen(30))
	all := map[string][]byte{
		"tcp":        pt.TCP(t, client, vip, pt.PayloadLen(30), pt.TCPOptions(2, 4, 5, 180)),
		"tcp6":       pt.TCP(t, client6, vip6, pt.PayloadLen(31)),
		"udp":        udp,
		"udp6":       pt.UDP(t, client6, vip6, pt.PayloadLen(7), pt.PartialChecksum()),
		"super":      pt.TCP(t, client, vip, pt.PayloadLen(100), pt.GSO(40)),
		"none":       pt.UDP(t, client, vip, pt.NoChecksum(), pt.PayloadLen(4)),
		"echo":       pt.Echo(t, client4, vip4, 7, 1, pt.PayloadLen(8)),
		"echo6":      pt.EchoReply(t, vip6.Addr(), client6.Addr(), 7, 1),
		"error":      pt.Unreachable(t, vip4, client4, udp),
		"too big":    pt.ICMPError(t, vip6.Addr(), client6.Addr(), 2, 0, pt.TCP(t, client6, vip6, pt.PayloadLen(40)), pt.NextMTU(1400)),
		"first":      pt.UDP(t, client, vip, pt.Fragment(7, 0, true), pt.PayloadLen(16)),
		"later":      pt.UDP(t, client, vip, pt.Fragment(7, 24, false), pt.PayloadLen(16)),
		"later6":     pt.UDP(t, client6, vip6, pt.Fragment(7, 24, true), pt.PayloadLen(16)),
		"options":    pt.TCP(t, client, vip, pt.IPOptions(148, 4, 0, 0)),
		"extensions": pt.TCP(t, client6, vip6, pt.Extension(60, 1, 4, 0, 0, 0, 0)),
		"gre":        pt.Raw(t, 47, client4, vip4, pt.PayloadLen(9)),
	}
	for name, frame := range all {
		all[name+" on ethernet"] = packet.AppendEthernet(nil, frame, macOwn, macClient)
	}
	all["arp on ethernet"] = question(client4, vip4)
	return all
}

// TestNoChangeHides: whatever bit of a frame is another one, some field has changed; and if none is, none.
func TestNoChangeHides(t *testing.T) {
	all := frames(t)
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		frame, ethernet := all[name], strings.HasSuffix(name, "ethernet")
		if got := changes(passed(frame, frame, ethernet, 1<<16)); got != nil {
			t.Errorf("%s: nothing has changed: %q", name, got)
		}
		for i := range frame {
			for bit := range 8 {
				other := slices.Clone(frame)
				other[i] ^= 1 << bit
				if j := passed(frame, other, ethernet, 1<<16); len(changes(j)) == 0 && !j.Is(trace.StepSent) && !j.Is(trace.StepAnswer) {
					t.Errorf("%s: bit %d of byte %d has changed, and nobody says so", name, bit, i)
				}
			}
		}
	}
}

// TestDeltas: an edit by the engine's own hand has the differences that its bytes ask for, whole, cut off and partial; one that is
// off by anything is told of.
func TestDeltas(t *testing.T) {
	all := frames(t)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"tcp", "tcp6", "udp", "udp6", "super", "none", "echo", "echo6", "first", "later", "later6", "options", "extensions"}).Draw(t, "frame")
		in := all[name]
		out := slices.Clone(in)
		var v packet.View
		if r := v.Parse(out); r != packet.None {
			t.Fatal(r)
		}
		to := v.Tuple
		to.Dst[15] = rapid.Byte().Draw(t, "address")
		if to.DstPort = rapid.Uint16().Draw(t, "port"); name == "echo" { // a request's identifier is its source
			to.SrcPort, to.DstPort = to.DstPort, 0
		}
		edit := packet.NewEdit(v.Tuple, to)
		edit.Apply(&v)
		v.DecrementTTL()
		snap := rapid.SampledFrom([]int{1 << 16, 64, 70}).Draw(t, "snap")
		for _, c := range passedSteps(passed(in, out, false, snap)) {
			if c.Wanted != "" {
				t.Fatalf("%s, %d bytes kept: %s %s -> %s, delta %s, but wanted is %s", name, snap, c.Field, c.From, c.To, c.Delta, c.Wanted)
			}
		}
		if snap < 1<<16 || name == "none" || strings.HasPrefix(name, "later") {
			return
		}
		// A checksum that was not carried along.
		sum := v.L4 + map[uint8]int{packet.ProtoTCP: 16, packet.ProtoUDP: 6, packet.ProtoICMP: 2, packet.ProtoICMPv6: 2}[v.Tuple.Proto]
		out[sum] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		wrong := slices.ContainsFunc(passedSteps(passed(in, out, false, snap)), func(c trace.Change) bool { return c.Wanted != "" })
		same := out[sum] == in[sum] && out[sum+1] == in[sum+1]
		if !wrong && !same {
			t.Fatalf("%s: a wrong delta goes for right: %q", name, changes(passed(in, out, false, snap)))
		}
	})
}

func passedSteps(j *trace.Journey) (list []trace.Change) {
	for _, s := range j.Steps {
		if s.Change != nil {
			list = append(list, *s.Change)
		}
	}
	return list
}

// TestCut: whatever is left of a frame, something is told of it, and nothing is taken for changed.
func TestCut(t *testing.T) {
	for name, frame := range frames(t) {
		for n := range len(frame) - packet.VnetLen {
			j := passed(frame, frame, strings.HasSuffix(name, "ethernet"), n)
			if got := changes(j); got != nil {
				t.Errorf("%s, %d bytes kept: %q", name, n, got)
			}
		}
	}
	if j := trace.Of(&watch.Record{In: &watch.Frame{Port: "p"}, Drop: "truncated"}, 0); !j.Is(trace.StepDrop) {
		t.Errorf("%+v", j)
	}
}

// TestEthernetComes: an Ethernet header that comes or goes is no change of the packet.
func TestEthernetComes(t *testing.T) {
	for name, frame := range frames(t) {
		if strings.HasSuffix(name, "ethernet") {
			continue
		}
		r := &watch.Record{Exit: "port"}
		r.SetIn("in", false, frame, 192)
		r.AddOut("out", true, packet.AppendEthernet(nil, frame, macServer, macOwn), 192)
		j := trace.Of(r, 0)
		if got := changes(j); got != nil || !j.Is(trace.StepOut) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestWrongChecksum: one that came wrong is told of, unless nobody can know.
func TestWrongChecksum(t *testing.T) {
	for name, test := range map[string]struct {
		opts []pt.Option
		want bool
	}{
		"wrong":    {[]pt.Option{pt.BadChecksum()}, true},
		"right":    {nil, false},
		"partial":  {[]pt.Option{pt.PartialChecksum()}, false},
		"verified": {[]pt.Option{pt.BadChecksum(), pt.DataValid()}, false},
		"cut off":  {[]pt.Option{pt.BadChecksum(), pt.PayloadLen(1000)}, false},
	} {
		frame := pt.TCP(t, at(client4, 40000), at(vip4, 80), test.opts...)
		if j := passed(frame, frame, false, 192); j.Is(trace.StepNote) != test.want {
			t.Errorf("%s: %+v", name, j.Steps)
		}
	}
}

// TestWrongHeaderChecksum: an IPv4 header's is judged, and neither its complement nor another number goes for right.
// Of one's complement's two zeros either does.
func TestWrongHeaderChecksum(t *testing.T) {
	frame := pt.UDP(t, at(client4, 40000), at(vip4, 80))
	sum := frame[packet.VnetLen+10 : packet.VnetLen+12]
	noted := func() bool { return passed(frame, frame, false, 192).Is(trace.StepNote) }
	if noted() {
		t.Error("a right one goes for wrong")
	}
	sum[0], sum[1] = ^sum[0], ^sum[1]
	if !noted() {
		t.Error("one that nobody has complemented goes for right")
	}
	sum[0], sum[1] = ^sum[0], ^sum[1]+1
	if !noted() {
		t.Error("a wrong one goes for right")
	}
	// With its own checksum as identification the rest sums up to all ones, and the checksum to zero.
	id := frame[packet.VnetLen+4 : packet.VnetLen+6]
	right := []byte{sum[0], sum[1] - 1}
	if id[0] != 0 || id[1] != 0 {
		t.Fatalf("identification %x, want 0", id)
	}
	copy(id, right)
	for _, zero := range []byte{0, 0xff} {
		if sum[0], sum[1] = zero, zero; noted() {
			t.Errorf("%x%x goes for wrong", zero, zero)
		}
	}
}

// TestWaited: the second half of a journey says so, and that it goes on is no answer of tunlb's.
func TestWaited(t *testing.T) {
	r := &watch.Record{Waited: true, Exit: "port", Flow: 7, Protocol: "tcp", Client: at(client4, 40000), VIP: at(vip4, 80), Server: at(rs4, 80), Service: "web", ServerName: "rs1", Mode: "nat", State: "SYN_RECV"}
	r.AddOut("inner", true, packet.AppendEthernet(nil, pt.TCP(t, at(client4, 40000), at(rs4, 80)), macServer, macOwn), 192)
	kinds := func(r *watch.Record) (list []string) {
		for _, s := range trace.Of(r, 0).Steps {
			list = append(list, s.Kind)
		}
		return list
	}
	if got := kinds(r); !slices.Equal(got, []string{trace.StepWaited, trace.StepFlow, trace.StepOut}) {
		t.Errorf("sent on: %q", got)
	}
	text := printed(t, trace.Printer{}, trace.Row{Request: trace.Of(r, 0)})
	if !strings.Contains(text, "waited sent on: it had waited for its next hop's MAC, or for its first fragment") {
		t.Errorf("sent on:\n%s", text)
	}
	// Given up: what was sent is the error, whatever it looks like. Where it would have gone is of no interest.
	r.Drop, r.Exit = "unresolved", "host"
	if got := kinds(r); !slices.Equal(got, []string{trace.StepWaited, trace.StepFlow, trace.StepDrop, trace.StepAnswer}) {
		t.Errorf("given up: %q", got)
	}
	if text := printed(t, trace.Printer{}, trace.Row{Request: trace.Of(r, 0)}); strings.Contains(text, "sent on") || !strings.Contains(text, "it had waited") {
		t.Errorf("given up:\n%s", text)
	}
	r.Drop, r.Exit, r.Flow, r.Service, r.ServerName, r.Server, r.State, r.Mode = "", "port", 0, "", "", netip.AddrPort{}, "", ""
	if got := kinds(r); !slices.Equal(got, []string{trace.StepWaited, trace.StepOut}) {
		t.Errorf("of no connection: %q", got)
	}
	in := func(exit string) string {
		return printed(t, trace.Printer{}, trace.Row{Request: trace.Of(&watch.Record{Exit: exit}, 0)})
	}
	if held, parked := in("held"), in("parked"); !strings.Contains(held, "MAC") || strings.Contains(held, "fragment") || !strings.Contains(parked, "first fragment") {
		t.Errorf("%s%s", held, parked)
	}
}

// TestReasons: every reason for drops has its words.
func TestReasons(t *testing.T) {
	seen := map[string]packet.Reason{}
	for _, r := range packet.Reasons() {
		meaning, next := trace.Reason(r.String())
		if meaning == "" || next == "" {
			t.Errorf("%s: %q, %q", r, meaning, next)
		}
		if other, twice := seen[meaning]; twice {
			t.Errorf("%s means the same as %s", r, other)
		}
		seen[meaning] = r
	}
	if meaning, _ := trace.Reason("of tomorrow"); !strings.Contains(meaning, "does not know") {
		t.Error(meaning)
	}
}
