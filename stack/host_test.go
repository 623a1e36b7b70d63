package stack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// family is one address family's cast.
type family struct {
	name                string
	client, vip, other  netip.Addr // other is not owned
	icmp                uint8
	reply               [2]uint8 // ICMP type and code
	portUnreachable     [2]uint8
	protocolUnreachable [2]uint8
}

var families = []family{
	{
		name: "v4", client: ip("198.51.100.7"), vip: ip("203.0.113.22"), other: ip("203.0.113.23"), icmp: 1,
		reply: [2]uint8{0, 0}, portUnreachable: [2]uint8{3, 3}, protocolUnreachable: [2]uint8{3, 2},
	},
	{
		name: "v6", client: ip("2001:db8::7"), vip: ip("2001:db8:1::22"), other: ip("2001:db8:1::23"), icmp: 58,
		reply: [2]uint8{129, 0}, portUnreachable: [2]uint8{1, 4}, protocolUnreachable: [2]uint8{4, 1},
	},
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// eachFamily runs f for IPv4 and IPv6 with a host that owns both VIPs.
func eachFamily(t *testing.T, f func(t *testing.T, fam family, r *rig)) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) { f(t, fam, newRig(t, families[0].vip, families[1].vip)) })
	}
}

// rig is a host whose frames end up in out.
type rig struct {
	*Host
	out chan []byte
}

func newRig(t testing.TB, addrs ...netip.Addr) *rig {
	r := &rig{out: make(chan []byte, 4096)}
	r.Host = newTestHost(t, HostConfig{
		Addresses: addrs,
		Output: func(frame []byte) error {
			r.out <- slices.Clone(frame)
			return nil
		},
	})
	return r
}

// newTestHost starts a host that must end with the test and leave nothing behind.
func newTestHost(t testing.TB, cfg HostConfig) *Host {
	t.Helper()
	others := goleak.IgnoreCurrent()
	cfg.Name = t.Name()
	cfg.Log = zerolog.Nop()
	h, err := NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, others)
	})
	return h
}

func (r *rig) deliver(t testing.TB, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if !r.Deliver(f) {
			t.Fatal("Deliver: queue full")
		}
	}
}

func (r *rig) receive(t testing.TB) []byte {
	t.Helper()
	select {
	case frame := <-r.out:
		return frame
	case <-time.After(5 * time.Second):
		t.Fatal("the host sent nothing")
		return nil
	}
}

// silent checks that nothing has been sent in answer to what was delivered:
// the answer to a ping that is delivered now comes first.
func (r *rig) silent(t testing.TB) {
	t.Helper()
	const id, seq = 0x5117, 1
	fam := families[0]
	r.deliver(t, pt.Echo(t, fam.client, fam.vip, id, seq))
	pt.Check(t, r.receive(t), pt.HasICMP(0, 0), pt.SrcDst(at(fam.vip, 0), at(fam.client, id)))
}

func TestPing(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		payload := bytes.Repeat([]byte("ping"), 14)
		r.deliver(t, pt.Echo(t, fam.client, fam.vip, 77, 3, pt.Payload(payload)))
		frame := r.receive(t)
		pt.Check(t, frame, pt.HasICMP(fam.reply[0], fam.reply[1]), pt.SrcDst(at(fam.vip, 0), at(fam.client, 77)),
			pt.ValidChecksums(), pt.HasVnet(packet.Vnet{}), pt.HasTTL(64))
		if !bytes.HasSuffix(frame, payload) {
			t.Errorf("the reply lacks the payload: %x", frame)
		}
	})
}

func TestSilence(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		client := at(fam.client, 40000)
		allNodes := ip("224.0.0.1")
		if fam.vip.Is6() {
			allNodes = ip("ff02::1")
		}
		for _, tt := range []struct {
			name  string
			frame []byte
		}{
			{"ping to an address not owned", pt.Echo(t, fam.client, fam.other, 1, 1)},
			{"SYN to an address not owned", pt.TCP(t, client, at(fam.other, 80), pt.Flags(packet.TCPSyn))},
			{"UDP to an address not owned", pt.UDP(t, client, at(fam.other, 80))},
			{"ping to all nodes", pt.Echo(t, fam.client, allNodes, 1, 1)},
			{"bad ICMP checksum", pt.Echo(t, fam.client, fam.vip, 1, 1, pt.BadChecksum())},
			{"bad TCP checksum", pt.TCP(t, client, at(fam.vip, 80), pt.Flags(packet.TCPSyn), pt.BadChecksum())},
			{"bad UDP checksum", pt.UDP(t, client, at(fam.vip, 80), pt.BadChecksum())},
			{"RST to a closed port", pt.TCP(t, client, at(fam.vip, 80), pt.Flags(packet.TCPRst))},
			{"echo reply", pt.EchoReply(t, fam.client, fam.vip, 1, 1)},
			{"no packet", make([]byte, packet.VnetLen)},
			{"nothing", nil},
		} {
			r.deliver(t, tt.frame)
			t.Run(tt.name, func(t *testing.T) { r.silent(t) })
		}
	})
}

func TestReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		client, closed := at(fam.client, 40000), at(fam.vip, 81)
		for _, tt := range []struct {
			name string
			opts []pt.Option
			want []pt.Checker
		}{ // RFC 9293, section 3.5.2
			{
				"SYN", []pt.Option{pt.Flags(packet.TCPSyn), pt.Seq(1000)},
				[]pt.Checker{pt.HasFlags(packet.TCPRst | packet.TCPAck), pt.HasSeq(0), pt.HasAck(1001)},
			},
			{
				"SYN with partial checksum", []pt.Option{pt.Flags(packet.TCPSyn), pt.Seq(0xffffffff), pt.PartialChecksum()},
				[]pt.Checker{pt.HasFlags(packet.TCPRst | packet.TCPAck), pt.HasSeq(0), pt.HasAck(0)},
			},
			{
				"stray ACK", []pt.Option{pt.Flags(packet.TCPAck), pt.Seq(5), pt.Ack(777)},
				[]pt.Checker{pt.HasFlags(packet.TCPRst), pt.HasSeq(777)},
			},
			{
				"stray super-packet", []pt.Option{pt.Flags(packet.TCPAck | packet.TCPPsh), pt.Seq(5), pt.Ack(778), pt.PayloadLen(9000), pt.GSO(1400)},
				[]pt.Checker{pt.HasFlags(packet.TCPRst), pt.HasSeq(778)},
			},
			{
				"data without ACK", []pt.Option{pt.Flags(packet.TCPPsh), pt.Seq(2000), pt.PayloadLen(10)},
				[]pt.Checker{pt.HasFlags(packet.TCPRst | packet.TCPAck), pt.HasSeq(0), pt.HasAck(2010)},
			},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r.deliver(t, pt.TCP(t, client, closed, tt.opts...))
				pt.Check(t, r.receive(t), append(tt.want, pt.SrcDst(closed, client), pt.ValidChecksums(), pt.HasVnet(packet.Vnet{}))...)
			})
		}
	})
}

func TestUnreachable(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		client, closed := at(fam.client, 40000), at(fam.vip, 81)
		fromVIP := pt.SrcDst(at(fam.vip, 0), at(fam.client, 0))
		quoted := pt.Quoted(pt.SrcDst(client, closed), pt.ValidChecksums())

		r.deliver(t, pt.UDP(t, client, closed, pt.PayloadLen(100)))
		pt.Check(t, r.receive(t), pt.HasICMP(fam.portUnreachable[0], fam.portUnreachable[1]), fromVIP, quoted, pt.ValidChecksums())

		// The quote must not carry a bare pseudo-header sum out.
		r.deliver(t, pt.UDP(t, client, closed, pt.PayloadLen(100), pt.PartialChecksum()))
		pt.Check(t, r.receive(t), pt.HasICMP(fam.portUnreachable[0], fam.portUnreachable[1]), fromVIP, quoted, pt.ValidChecksums())

		const unassigned = 200 // 253 and 254 are extension headers to gVisor
		r.deliver(t, pt.Raw(t, unassigned, fam.client, fam.vip, pt.PayloadLen(64)))
		pt.Check(t, r.receive(t), pt.HasICMP(fam.protocolUnreachable[0], fam.protocolUnreachable[1]), fromVIP, pt.ValidChecksums())
	})
}

// A UDP super-packet is as many datagrams.
func TestUnreachableUSO(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		client, closed := at(fam.client, 40000), at(fam.vip, 81)
		r.deliver(t, pt.UDP(t, client, closed, pt.PayloadLen(2500), pt.GSO(1000)))
		for range 3 {
			pt.Check(t, r.receive(t), pt.HasICMP(fam.portUnreachable[0], fam.portUnreachable[1]), pt.ValidChecksums(),
				pt.Quoted(pt.SrcDst(client, closed)))
		}
		r.silent(t)
	})
}

func TestPingInFragments(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		echo := pt.Echo(t, fam.client, fam.vip, 9, 9, pt.PayloadLen(4000))
		whole, err := pt.Decode(echo)
		if err != nil {
			t.Fatal(err)
		}
		fragments := pt.Fragments(t, echo, 1500, 4711)
		slices.Reverse(fragments)
		r.deliver(t, fragments...)

		reply := make([]byte, len(whole.L4))
		for got := 0; got < len(reply); {
			frame := r.receive(t)
			pt.Check(t, frame, pt.ValidChecksums())
			p, err := pt.Decode(frame)
			if err != nil || !p.Fragment || len(p.IP) > 1500 {
				t.Fatalf("not a fragment of at most 1500 bytes: %+v, %v", p, err)
			}
			got += copy(reply[p.Offset:], p.L4)
		}
		if reply[0] != fam.reply[0] || !bytes.Equal(reply[4:], whole.L4[4:]) {
			t.Errorf("got reply of type %d, want type %d and the request's data", reply[0], fam.reply[0])
		}
	})
}

func TestICMPErrorLimit(t *testing.T) {
	r := newRig(t, families[0].vip)
	syn := pt.UDP(t, at(families[0].client, 40000), at(families[0].vip, 81))
	for range 300 {
		r.deliver(t, syn)
	}
	errs := 0
	r.deliver(t, pt.Echo(t, families[0].client, families[0].vip, 1, 1))
	for {
		p, err := pt.Decode(r.receive(t))
		if err != nil {
			t.Fatal(err)
		}
		if p.L4[0] == families[0].reply[0] {
			break
		}
		errs++
	}
	// 1000 per second with a burst of 50.
	if errs < 50 || errs > 250 {
		t.Errorf("got %d port unreachables for 300 datagrams in a moment", errs)
	}
}

// The stack says nothing unless it is asked, not even in an hour.
func TestNothingSpontaneous(t *testing.T) {
	clock := faketime.NewManualClock()
	n, err := newNetstack(1500, func(frame []byte) error {
		t.Errorf("sent %x", frame)
		return nil
	}, clock, nil)
	if err != nil {
		t.Fatal(err)
	}
	both := []netip.Addr{families[0].vip, families[1].vip}
	for _, addrs := range [][]netip.Addr{both, both[:1], nil, both} {
		if err := n.setAddresses(addrs); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Hour)
	}
	n.destroy()
}

func TestSetAddresses(t *testing.T) {
	eachFamily(t, func(t *testing.T, fam family, r *rig) {
		owns := func(a netip.Addr) bool {
			t.Helper()
			r.deliver(t, pt.Echo(t, fam.client, a, 2, 2), pt.Echo(t, families[0].client, families[0].vip, 3, 3))
			p, err := pt.Decode(r.receive(t))
			if err != nil {
				t.Fatal(err)
			}
			if p.Dst.Port() == 3 {
				return false
			}
			r.receive(t)
			return true
		}
		keep := families[0].vip
		for _, step := range []struct {
			addrs              []netip.Addr
			ownsVIP, ownsOther bool
		}{
			{[]netip.Addr{keep, fam.vip, fam.other}, true, true},
			{[]netip.Addr{keep, fam.other, keep, fam.other}, fam.vip == keep, true},
			{[]netip.Addr{keep, fam.vip}, true, false},
		} {
			if err := r.SetAddresses(step.addrs); err != nil {
				t.Fatal(err)
			}
			if vip, other := owns(fam.vip), owns(fam.other); vip != step.ownsVIP || other != step.ownsOther {
				t.Errorf("SetAddresses(%v): owns VIP %v, other %v; want %v, %v", step.addrs, vip, other, step.ownsVIP, step.ownsOther)
			}
		}
	})
}

func TestSetAddressesRefuses(t *testing.T) {
	r := newRig(t, families[0].vip)
	for _, a := range []netip.Addr{{}, ip("0.0.0.0"), ip("::"), ip("127.0.0.1"), ip("224.0.0.9"), ip("ff02::1"), ip("fe80::1%eth0"), ip("255.255.255.255")} {
		if err := r.SetAddresses([]netip.Addr{families[0].other, a}); err == nil {
			t.Errorf("SetAddresses took %v", a)
		}
	}
	r.silent(t) // and the old one is still there
}

func TestNewHostRefuses(t *testing.T) {
	others := goleak.IgnoreCurrent()
	output := func([]byte) error { return nil }
	for _, cfg := range []HostConfig{
		{},
		{Output: output, MTU: 100},
		{Output: output, MTU: 70000},
		{Output: output, MTU: 1000, Addresses: []netip.Addr{families[1].vip}},
		{Output: output, Addresses: []netip.Addr{ip("127.0.0.1")}},
	} {
		if h, err := NewHost(cfg); err == nil {
			h.Close()
			t.Errorf("NewHost took MTU %d, addresses %v", cfg.MTU, cfg.Addresses)
		}
	}
	goleak.VerifyNone(t, others)
}

func TestClose(t *testing.T) {
	r := newRig(t, families[0].vip)
	l, err := r.ListenTCP(at(families[0].vip, 80))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	dialed := make(chan error)
	go func() { // nobody answers
		_, err := r.Dial(t.Context(), "tcp", at(families[0].client, 80), netip.AddrPort{})
		dialed <- err
	}()
	r.receive(t) // the SYN
	datagrams, err := r.Dial(t.Context(), "udp", at(families[0].client, 80), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := datagrams.Read(make([]byte, 1))
		read <- err
	}()
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{"Accept": <-accepted, "pending Dial": <-dialed, "SetAddresses": r.SetAddresses(nil)} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v, want net.ErrClosed", what, err)
		}
	}
	if _, err := r.Dial(t.Context(), "tcp", at(families[0].client, 80), netip.AddrPort{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial: got %v, want net.ErrClosed", err)
	}
	if _, err := r.ListenTCP(at(families[0].vip, 80)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ListenTCP: got %v, want net.ErrClosed", err)
	}
	if err := <-read; err == nil {
		t.Error("a UDP Read succeeded")
	}
	if r.Deliver(make([]byte, 100)) {
		t.Error("Deliver took a frame")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
