package packets

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// Mutated sends n packets, nine of ten of them mutated, through engines of every kind: a TUN, a router with a
// masquerading gateway, a segment with direct routing, an interface of the box. Nothing malformed leaves: not by what headers and
// lengths say, nor what gVisor's stack would find malformed of what came in. A transport checksum is right behind tunlb iff it was before.
// When all has expired nothing is left.
func Mutated(ctx context.Context, n int, seed uint64) (*Result, error) {
	r := &Result{}
	o, err := newOracle()
	if err != nil {
		return nil, err
	}
	defer o.close()
	start, passed := time.Now(), 0
	injected, changed, refused, reasons := 0, 0, 0, map[string]bool{}
	for i, open := range []func(int, uint64) (*site, error){newNAT, newRouter, newSegment, newBox} {
		s, err := open(1<<14, seed+uint64(i)+1)
		if err != nil {
			return nil, fmt.Errorf("open site %d: %w", i, err)
		}
		m := &mutation{site: s, oracle: o, result: r, mutator: newMutator(seed + uint64(i)), random: rand.New(rand.NewPCG(seed, uint64(i)))}
		err = m.run(ctx, n/4)
		passed, injected, changed, refused = passed+m.left, injected+m.injected, changed+m.changed, refused+m.bad
		if err == nil {
			s.advance(20*time.Minute, time.Second)
			s.left(r)
			drops := s.engine.Drops()
			r.drops(s.name, drops)
			for reason := range drops {
				reasons[reason] = true
			}
		}
		if s.engine.Close(); err != nil {
			return nil, err
		}
	}
	r.prove("packets that reached an engine", float64(injected), float64(n)*.95, "")
	r.prove("changed packets, of these", float64(changed), float64(n)*.8, "")
	r.prove("that gVisor finds malformed", float64(refused), float64(n)/10, "")
	r.prove("reasons that tunlb has dropped some for", float64(len(reasons)), 20, "")
	r.atLeast("frames that left, of these", float64(passed), float64(n)/20, "")
	r.figure("rate", float64(n)/time.Since(start).Seconds(), "packets/s, checks included")
	r.atMost("that were malformed, or left something behind", float64(len(r.Failures)), 0, "")
	return r, nil
}

// mutation is the attack on one site.
type mutation struct {
	*site
	oracle  *oracle
	result  *Result
	mutator *mutator
	random  *rand.Rand
	left    int // frames

	injected, changed, bad int // packets: all, those that are not as they were, those that gVisor finds malformed

	in                 []byte // the packet in hand, as IP with a vnet header
	refused            bool   // by the oracle
	sumRight, sumWhole bool
	vouched            bool // the device has verified the checksum, or whoever sends the packet on has to make it
	inView             packet.View
}

func (m *mutation) run(ctx context.Context, n int) error {
	list := samples(m.name == "segment")
	m.see = m.check
	ether := make([]byte, 0, packet.BufferSize)
	for i := range n {
		if i%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			m.advance(time.Second, 100*time.Millisecond)
			m.oracle.clock.Advance(time.Second)
		}
		s := &list[m.random.IntN(len(list))]
		m.in = m.mutator.mutate(s.frame)
		port := 0
		if s.server && len(m.ether) > 1 {
			port = 1
		}
		m.look()
		if !bytes.Equal(m.in, s.frame) {
			m.changed++
		}
		if m.refused {
			m.bad++
		}
		frame := m.in
		if m.ether[port] {
			from := macClient
			if s.server {
				from = macRS[0]
			}
			ether = packet.AppendEthernet(ether[:0], frame, macOwn, from)
			frame = m.disturb(ether)
		}
		if len(frame) > packet.VnetLen+packet.EthernetLen+packet.MaxPacket {
			continue
		}
		if err := m.inject(port, frame); err != nil {
			return err
		}
		m.injected++
	}
	return nil
}

// disturb mutates an Ethernet header now and then.
func (m *mutation) disturb(frame []byte) []byte {
	if m.random.IntN(50) == 0 {
		frame[packet.VnetLen+m.random.IntN(packet.EthernetLen)] ^= 1 << m.random.IntN(8)
	}
	return frame
}

// look asks the others about the packet in hand.
func (m *mutation) look() {
	fresh := append([]byte(nil), m.in...)
	if m.sumWhole = m.inView.Parse(fresh) == packet.None; m.sumWhole {
		m.sumRight, m.sumWhole = sums(m.inView.Frame)
	}
	flags := packet.DecodeVnet(fresh).Flags
	partial := flags&packet.FlagNeedsCsum != 0
	m.vouched = flags&(packet.FlagNeedsCsum|packet.FlagDataValid) != 0
	m.refused = m.oracle.refuses(trimmed(fresh[packet.VnetLen:]), m.sumWhole && m.sumRight && !partial)
}

// trimmed cuts off what is behind the packet, as a link's padding is.
func trimmed(ip []byte) []byte {
	n := 0
	switch {
	case len(ip) >= header.IPv4MinimumSize && ip[0]>>4 == 4:
		n = int(header.IPv4(ip).TotalLength())
	case len(ip) >= header.IPv6MinimumSize && ip[0]>>4 == 6:
		n = int(header.IPv6(ip).PayloadLength()) + header.IPv6MinimumSize
	}
	if n >= header.IPv4MinimumSize && n < len(ip) {
		return ip[:n]
	}
	return ip
}

// ownReport says that the packet is tunlb's report of its multicast groups, which goes to the link.
func ownReport(frame []byte) bool {
	const allMLDv2 = 0x16
	ip := header.IPv6(frame[packet.VnetLen:])
	return len(ip) > header.IPv6MinimumSize && header.IPVersion(ip) == 6 && ip[24] == 0xff && ip[25] == 2 && ip[39] == allMLDv2 && ip.NextHeader() == 0
}

// receivers tells of what gVisor refuses and tunlb leaves to its receiver: a datagram of IPv6 without a checksum, which
// tunnels send (RFC 6935), a router alert of a reserved value, which is to be ignored (RFC 2113), a record route without room, ICMP of the other family.
func receivers(v *packet.View) bool {
	const recordRoute, routerAlert = 7, 0x94
	switch {
	case v.Is6:
		return v.Tuple.Proto == packet.ProtoICMP || v.Tuple.Proto == packet.ProtoUDP && v.Frame[v.L4+6] == 0 && v.Frame[v.L4+7] == 0
	case v.Tuple.Proto == packet.ProtoICMPv6:
		return true
	}
	options := v.Frame[v.L3+header.IPv4MinimumSize : v.L4]
	return bytes.IndexByte(options, routerAlert) >= 0 || bytes.Contains(options, []byte{recordRoute, 3})
}

// written says that the checksum of a packet that has left is tunlb's own, since the device had left it to be made (and the packet
// was cut), or had vouched for an error whose quote is changed.
func (m *mutation) written(v *packet.View) bool {
	return m.vouched && (v.ICMPError || m.inView.Vnet.Flags&packet.FlagNeedsCsum != 0 && v.Vnet.Flags&packet.FlagNeedsCsum == 0)
}

// check judges a frame that has left.
func (m *mutation) check(frame []byte) {
	m.left++
	if m.site.ether[0] {
		if _, ok := packet.DecodeEthernet(frame); !ok {
			m.result.failf("%s: %x is no Ethernet frame", m.name, frame)
			return
		}
		if isND(frame) {
			return
		}
		frame = packet.StripEthernet(append([]byte(nil), frame...))
		if ownReport(frame) {
			return
		}
	}
	if what := verdict(frame); what != "" {
		m.result.failf("%s: %s\n in %x\nout %x", m.name, what, m.in, frame)
		return
	}
	var v packet.View
	if v.Parse(append([]byte(nil), frame...)) != packet.None || v.Tuple.Proto != m.inView.Tuple.Proto || v.ICMPError != m.inView.ICMPError {
		return // tunlb's own: an error about the packet
	}
	if v.Tuple.Src == m.inView.Tuple.Dst && v.Tuple.Dst == m.inView.Tuple.Src {
		return // its host's answer
	}
	if m.refused && !v.Fragment && !receivers(&v) {
		m.result.failf("%s: gVisor would refuse it as malformed, and it has left\n in %x\nout %x", m.name, m.in, frame)
	}
	if right, whole := sums(frame); whole && m.sumWhole && right != m.sumRight && !m.written(&v) {
		m.result.failf("%s: its transport checksum was right: %v, and is now: %v\n in %x\nout %x", m.name, m.sumRight, right, m.in, frame)
	}
}
