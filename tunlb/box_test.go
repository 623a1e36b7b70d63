package tunlb

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
)

// The box of these tests has an outer interface (7) and an inner one (8), and may have a TUN besides.
const outerLink, innerLink = 7, 8

var (
	boxMAC    = packet.MAC{2, 0xb0}
	clientMAC = packet.MAC{2, 0xc1}
	serverMAC = packet.MAC{2, 0x51}
)

// interfaces are the kernel's ways out, and what has left by them.
type interfaces struct {
	toBox
	wrote chan struct{} // of those who wait for the host's goroutines
}

func (b *interfaces) Write(frame []byte, link int) error {
	err := b.toBox.Write(frame, link)
	if b.wrote != nil {
		b.wrote <- struct{}{}
	}
	return err
}

func (b *interfaces) NewBurst() port.Burst { return port.Singly(b.Write) }

// newInterfaces has the outer interface as port 0, the inner one as port 1, and with a TUN that as port 2.
func newInterfaces(t testing.TB, tun bool, edit ...func(*Options, *Config)) (*rig, *interfaces) {
	out := &interfaces{toBox: toBox{ways: map[[16]byte]Way{}}}
	facts := Box{}
	attachments := []Attachment{{Box: true, Index: outerLink}, {Box: true, Index: innerLink}}
	kernel := Attachment{Kernel: true, Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	for _, f := range families {
		for _, a := range []netip.Addr{f.client, f.other, f.outside} {
			out.ways[a.As16()] = Way{Link: outerLink, MTU: 1500, Source: boxMAC, MAC: clientMAC}
		}
		for _, a := range []netip.Addr{f.rs1, f.rs2} {
			out.ways[a.As16()] = Way{Link: innerLink, MTU: 1500, Source: boxMAC, MAC: serverMAC}
		}
		facts.Local = append(facts.Local, f.inside.Addr().Next(), f.outer.Addr().Next())
		facts.Links = append(facts.Links, f.inside, f.outer)
		out.ways[f.inside.Addr().Next().As16()] = Way{Local: true}
		kernel.Own = append(kernel.Own, f.own)
		kernel.Subnets = append(kernel.Subnets, f.link)
		if tun {
			out.ways[f.own.As16()] = Way{Down: true}
		}
	}
	if tun {
		attachments = append(attachments, kernel)
	}
	r := newRig(t, attachments, append([]func(*Options, *Config){func(o *Options, _ *Config) { o.Direct = out }}, edit...)...)
	r.box(facts)
	return r, out
}

// ether is a packet as it comes in by an interface.
func ether(frame []byte, from packet.MAC) []byte {
	return packet.AppendEthernet(nil, frame, boxMAC, from)
}

// left takes the one frame that has left by an interface, as a packet without its Ethernet header.
func (b *interfaces) left(t *testing.T, link int, to packet.MAC) []byte {
	t.Helper()
	if len(b.frames) != 1 || b.links[0] != link {
		t.Fatalf("%d frames left by the interfaces %v, want one by %d", len(b.frames), b.links, link)
	}
	h, _ := packet.DecodeEthernet(b.frames[0])
	if h.Dst != to || h.Src != boxMAC {
		t.Fatalf("sent from %v to %v, want %v to %v", h.Src, h.Dst, boxMAC, to)
	}
	frame := packet.StripEthernet(b.frames[0])
	b.frames, b.links = nil, nil
	return frame
}

// TestBoxTranslates: a connection through the box's interfaces, there and back, with partial checksums and
// super-packets as with full ones; every hop costs a TTL.
func TestBoxTranslates(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		for name, form := range map[string][]pt.Option{
			"full": nil, "partial": {pt.PartialChecksum()}, "super": {pt.PayloadLen(5000), pt.GSO(1400), pt.PartialChecksum()},
		} {
			t.Run(name, func(t *testing.T) {
				r, out := newInterfaces(t, false)
				client, vip, server := at(f.client, 40000), at(f.vip, 80), at(f.rs1, 8080)
				check := func(in int, frame []byte, from packet.MAC, link int, to packet.MAC, src, dst netip.AddrPort) {
					t.Helper()
					before, err := pt.Decode(frame)
					if err != nil {
						t.Fatal(err)
					}
					if got := r.send(in, in, ether(frame, from)); len(got) > 0 {
						t.Fatalf("%d frames into the port; drops %v", len(got), r.e.Drops())
					}
					pt.Check(t, out.left(t, link, to), pt.SrcDst(src, dst), pt.HasTTL(before.TTL-1), pt.ValidChecksums(), pt.HasPayload(before.Payload))
				}
				check(0, pt.TCP(t, client, vip, syn), clientMAC, innerLink, serverMAC, client, server)
				check(1, pt.TCP(t, server, client, pt.Flags(packet.TCPSyn|packet.TCPAck)), serverMAC, outerLink, clientMAC, vip, client)
				check(0, pt.TCP(t, client, vip, append([]pt.Option{ack()}, form...)...), clientMAC, innerLink, serverMAC, client, server)
				check(1, pt.TCP(t, server, client, append([]pt.Option{ack()}, form...)...), serverMAC, outerLink, clientMAC, vip, client)
			})
		}
	})
}

// TestBoxRefuses: what can't go on, and who is told.
func TestBoxRefuses(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r, out := newInterfaces(t, false)
		client, vip, inner := at(f.client, 40000), at(f.vip, 80), f.rs1.As16()
		in := ether(pt.TCP(t, client, vip, syn), clientMAC)
		way := out.ways[inner]
		out.ways[inner] = Way{Down: true}
		if told := r.send(0, 0, ether(pt.TCP(t, client, vip, syn), clientMAC)); len(told) != 1 || r.e.drops[packet.Unresolved].Load() != 1 {
			t.Errorf("%d frames back to the client, drops %v: want an ICMP error", len(told), r.e.Drops())
		}
		out.ways[inner] = way
		r.send(0, 0, in)
		out.left(t, innerLink, serverMAC)

		told := r.one(0, 0, ether(pt.TCP(t, client, vip, ack(), pt.TTL(1)), clientMAC))
		if h, _ := packet.DecodeEthernet(told); h.Dst != clientMAC || h.Src != boxMAC {
			t.Errorf("the error goes from %v to %v", h.Src, h.Dst)
		}
		pt.Check(t, packet.StripEthernet(told), pt.HasICMP(f.icmpTimeExceeded, 0), pt.ValidChecksums())
		if len(out.frames) > 0 {
			t.Errorf("%d frames left all the same", len(out.frames))
		}
	})
}

// TestBoxHops: packets wait for a next hop that is being asked for, a few of them, and not for ever.
func TestBoxHops(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r, out := newInterfaces(t, false)
		inner, from := f.rs1.As16(), &sender{tx: make([]traffic, 2)}
		way := out.ways[inner]
		delete(out.ways, inner)
		send := func(seq uint32) {
			r.send(0, 0, ether(pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn, pt.Seq(seq)), clientMAC))
		}
		for seq := range uint32(maxHopPackets + 1) {
			send(seq)
		}
		if got := r.e.drops[packet.HopQueue].Load(); got != 1 || len(out.frames) > 0 {
			t.Fatalf("%d packets found no room and %d left; want one, and none", got, len(out.frames))
		}
		if !r.e.sendWaited(from) || len(out.frames) > 0 {
			t.Fatalf("%d packets left without a MAC", len(out.frames))
		}
		out.ways[inner] = way
		if r.e.sendWaited(from) || len(out.frames) != maxHopPackets {
			t.Fatalf("%d packets left, want %d", len(out.frames), maxHopPackets)
		}
		for seq := range uint32(maxHopPackets) {
			frame := packet.StripEthernet(out.frames[seq])
			pt.Check(t, frame, pt.SrcDst(at(f.client, 40000), at(f.rs1, 8080)), pt.HasSeq(seq), pt.ValidChecksums())
		}
		out.frames, out.links = nil, nil

		delete(out.ways, inner)
		send(9)
		r.now += hopPatience + 1
		if r.e.sendWaited(from) || len(out.frames) > 0 || r.e.drops[packet.Unresolved].Load() != 1 {
			t.Errorf("%d packets left after their time; drops %v", len(out.frames), r.e.Drops())
		}
	})
}

// TestBoxClaims: what the socket's filter lets through beyond the claim is left to the kernel, which has it as well.
func TestBoxClaims(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r, out := newInterfaces(t, false)
		r.e.SetClaim(packet.Claim{
			VIPs:    []packet.Endpoints{{Addr: f.vip, Proto: packet.ProtoTCP, First: 80, Last: 80}},
			Servers: []packet.Endpoints{{Addr: f.rs1, Proto: packet.ProtoTCP, First: 8080, Last: 8080}},
			Own:     []netip.Addr{f.inside.Addr().Next()},
		})
		r.dropped(0, ether(pt.TCP(t, at(f.client, 40000), at(f.vip, 22), syn), clientMAC), packet.OtherHost)
		r.dropped(1, ether(pt.TCP(t, at(f.rs1, 8080), at(f.inside.Addr().Next(), 50000), ack()), serverMAC), packet.OtherHost)
		r.send(0, 0, ether(pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn), clientMAC))
		out.left(t, innerLink, serverMAC)

		// A server that somebody speaks to past the service: its answers are routed on as they are.
		r.send(1, 1, ether(pt.TCP(t, at(f.rs1, 8080), at(f.outside, 50000), ack()), serverMAC))
		pt.Check(t, out.left(t, outerLink, clientMAC), pt.SrcDst(at(f.rs1, 8080), at(f.outside, 50000)))
	})
}

// TestBoxPing: of a claimed VIP it is answered by the host, in pieces as well; of one that the box has, by its kernel alone.
func TestBoxPing(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r, out := newInterfaces(t, false)
		out.wrote = make(chan struct{}, 8)
		claim := packet.Claim{VIPs: []packet.Endpoints{{Addr: f.vip, Proto: packet.ProtoTCP}, {Addr: f.vip, Proto: packet.ProtoICMP}, {Addr: f.vip, Proto: packet.ProtoICMPv6}}}
		r.e.SetClaim(claim)
		owner := func() string {
			services := r.e.Status().Services
			return services[slices.IndexFunc(services, func(s ServiceStatus) bool { return s.Listen[0].Addr == f.vip })].Owner
		}
		if got := owner(); got != "tunlb" {
			t.Errorf("the VIP is of %s", got)
		}
		ping := pt.Echo(t, f.client, f.vip, 7, 1, pt.PayloadLen(2000))
		for _, p := range pt.Fragments(t, ping, 1500, 77) {
			r.send(0, 0, ether(p, clientMAC))
		}
		<-out.wrote // the answer's two pieces
		<-out.wrote
		for i := range out.frames {
			if h, _ := packet.DecodeEthernet(out.frames[i]); h.Dst != clientMAC || out.links[i] != outerLink {
				t.Errorf("the answer went to %v by %d", h.Dst, out.links[i])
			}
		}

		r.box(Box{Local: []netip.Addr{f.vip}})
		r.e.SetClaim(packet.Claim{VIPs: claim.VIPs[:1], Own: []netip.Addr{f.vip}})
		if got := owner(); got != "box" {
			t.Errorf("the VIP is of %s, and the box has it", got)
		}
		r.dropped(0, ether(pt.Echo(t, f.client, f.vip, 7, 1), clientMAC), packet.OtherHost)
	})
}

// TestBoxStrays: a segment that belongs to no connection is reset, by the host, or by the kernel where that
// is reached and has the VIP.
func TestBoxStrays(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		stray := ether(pt.TCP(t, at(f.client, 40000), at(f.vip, 80), ack()), clientMAC)
		vip := Box{Local: []netip.Addr{f.vip}}

		r, out := newInterfaces(t, false)
		out.wrote = make(chan struct{}, 8)
		r.box(vip)
		r.send(0, 0, slices.Clone(stray))
		<-out.wrote
		pt.Check(t, out.left(t, outerLink, clientMAC), pt.SrcDst(at(f.vip, 80), at(f.client, 40000)), pt.ValidChecksums())

		r, _ = newInterfaces(t, true)
		r.box(vip)
		back := r.one(0, 2, slices.Clone(stray))
		pt.Check(t, back, pt.SrcDst(at(f.client, 40000), at(f.vip, 80)), pt.HasTTL(64), pt.ValidChecksums())
	})
}

// TestBoxHairpin: where the source has to be translated, it becomes an address that the box's kernel does not take.
func TestBoxHairpin(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		neighbour := f.rs2 // a client on the servers' own link
		syn := ether(pt.TCP(t, at(neighbour, 40000), at(f.vip, 80), syn), serverMAC)
		for _, test := range []struct {
			name string
			tun  bool
			own  bool // the box has the VIP
			want netip.Addr
		}{{"VIP", false, false, f.vip}, {"TUN", true, false, f.own}, {"TUN, own VIP", true, true, f.own}, {"none", false, true, netip.Addr{}}} {
			t.Run(test.name, func(t *testing.T) {
				r, out := newInterfaces(t, test.tun)
				facts := Box{Local: []netip.Addr{f.inside.Addr().Next()}, Links: []netip.Prefix{f.inside, f.outer}}
				if test.own {
					facts.Local = append(facts.Local, f.vip)
				}
				r.box(facts)
				if !test.want.IsValid() {
					r.dropped(1, slices.Clone(syn), packet.NoSource)
					return
				}
				r.send(1, 1, slices.Clone(syn))
				there, err := pt.Decode(out.left(t, innerLink, serverMAC))
				if err != nil {
					t.Fatal(err)
				}
				if there.Src.Addr() != test.want {
					t.Fatalf("the source is %v, want %v", there.Src, test.want)
				}
				r.send(1, 1, ether(pt.TCP(t, at(f.rs1, 8080), there.Src, pt.Flags(packet.TCPSyn|packet.TCPAck)), serverMAC))
				pt.Check(t, out.left(t, innerLink, serverMAC), pt.SrcDst(at(f.vip, 80), at(neighbour, 40000)), pt.ValidChecksums())
			})
		}
	})
}

// TestBoxFromTUN: what the box itself sends comes by the TUN, and so go its answers.
func TestBoxFromTUN(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r, out := newInterfaces(t, true)
		local := f.inside.Addr().Next()
		there := r.one(2, 2, pt.TCP(t, at(local, 40000), at(f.vip, 80), syn))
		p, err := pt.Decode(there)
		if err != nil || p.Src.Addr() != f.own {
			t.Fatalf("%v, %v: want the TUN's own address for a source", p, err)
		}
		back := r.one(1, 2, ether(pt.TCP(t, at(f.rs1, 8080), p.Src, pt.Flags(packet.TCPSyn|packet.TCPAck)), serverMAC))
		pt.Check(t, back, pt.SrcDst(at(f.vip, 80), at(local, 40000)), pt.ValidChecksums())
		if len(out.frames) > 0 {
			t.Errorf("%d frames left by the interfaces", len(out.frames))
		}
	})
}

// TestBoxFragments: later fragments follow the first by the same way, those that came before it as well.
func TestBoxFragments(t *testing.T) {
	each(t, func(t *testing.T, f family) {
		r, out := newInterfaces(t, false)
		pieces := pt.Fragments(t, pt.UDP(t, at(f.client, 40000), at(f.vip, 53), pt.PayloadLen(4000)), 1500, 77)
		slices.Reverse(pieces)
		for _, p := range pieces {
			r.send(0, 0, ether(p, clientMAC))
		}
		if len(out.frames) != len(pieces) {
			t.Fatalf("%d of %d fragments left; drops %v", len(out.frames), len(pieces), r.e.Drops())
		}
		for i, frame := range out.frames {
			if h, _ := packet.DecodeEthernet(frame); h.Dst != serverMAC || out.links[i] != innerLink {
				t.Errorf("fragment %d went to %v by %d", i, h.Dst, out.links[i])
			}
		}
	})
}

// ringOf is a ring that brings what it is given, some frames at a time.
type ringOf struct {
	*recorder
	rounds [][][]byte
	before func() // each Receive: what has been put must have been sent
}

func (p *ringOf) TryReceive(frames [][]byte) (int, error) { return p.Receive(frames) }

func (p *ringOf) Receive(frames [][]byte) (int, error) {
	p.before()
	if len(p.rounds) == 0 {
		return 0, os.ErrClosed
	}
	n := copy(frames, p.rounds[0])
	p.rounds = p.rounds[1:]
	return n, nil
}

func (p *ringOf) NewBurst() port.Burst {
	return port.Singly(func(frame []byte, _ int) error { return p.Write(frame) })
}

// later is a burst that sends when it is told to, and not before.
type later struct {
	frames [][]byte
	links  []int
	write  func([]byte, int) error
}

func (b *later) Put(frame []byte, link int) {
	b.frames, b.links = append(b.frames, frame), append(b.links, link)
}

func (b *later) Flush() (failed int, err error) {
	for i, f := range b.frames {
		if e := b.write(f, b.links[i]); e != nil {
			failed, err = failed+1, e
		}
	}
	b.frames, b.links = nil, nil
	return failed, err
}

type burstInterfaces struct {
	*interfaces
	b *later
}

func (i *burstInterfaces) NewBurst() port.Burst { return i.b }

// TestBatch: a ring's frames are handled in order, and sent before their places go back; watched or not the same
// leaves.
func TestBatch(t *testing.T) {
	for _, watched := range []bool{false, true} {
		f := families[0]
		out := &burstInterfaces{interfaces: &interfaces{toBox: toBox{ways: map[[16]byte]Way{}}}}
		out.b = &later{write: out.Write}
		r, _ := newInterfaces(t, false, func(o *Options, _ *Config) {
			out.ways = o.Direct.(*interfaces).ways
			o.Direct = out
		})
		if !watched {
			r.watched.Close()
		}
		const n = 100
		ring := &ringOf{recorder: r.ports[0], before: func() {
			if len(out.b.frames) > 0 {
				t.Errorf("%d frames wait while the ring is given back", len(out.b.frames))
			}
		}}
		var round [][]byte
		for i := range n {
			round = append(round, ether(pt.TCP(t, at(f.client, uint16(40000+i)), at(f.vip, 80), syn), clientMAC))
			if i%7 == 0 {
				round = append(round, []byte("no frame at all, but long enough for its headers"))
			}
			if len(round) > 20 {
				ring.rounds, round = append(ring.rounds, round), nil
			}
		}
		ring.rounds = append(ring.rounds, round)
		l := r.e.lanes[0]
		l.Port = ring
		if err := newCrews(r.e.lanes[:1], 0, false)[0].run(); err != nil {
			t.Fatal(err)
		}
		if len(out.frames) != n {
			t.Fatalf("watched %v: %d of %d frames left; drops %v", watched, len(out.frames), n, r.e.Drops())
		}
		for i, frame := range out.frames {
			if p, err := pt.Decode(packet.StripEthernet(frame)); err != nil || p.Src.Port() != uint16(40000+i) {
				t.Fatalf("watched %v: frame %d is from %v (%v)", watched, i, p.Src, err)
			}
		}
		if got := r.e.lanes[0].tx[1]; got.Packets != n {
			t.Errorf("watched %v: %d packets are counted for the inner interface, want %d", watched, got.Packets, n)
		}
	}
}

// TestBoxStatus: health checks are the kernel's, and interfaces without a way out are refused.
func TestBoxStatus(t *testing.T) {
	r, _ := newInterfaces(t, false)
	if f := families[0]; r.e.Reaches(f.rs1) {
		t.Error("tunlb would check the servers by itself, which the kernel does")
	}
	_, err := New(Options{Attachments: []Attachment{{Port: newRecorder("eth0", 1500), Box: true}}}, Config{})
	if err == nil {
		t.Error("an engine without a way out of the box's interfaces has been made")
	}
}
