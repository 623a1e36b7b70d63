package tunlb

import (
	"slices"
	"testing"

	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// FuzzSwitch throws frames at both sides of the switch: nothing panics, what leaves is a frame, and nothing
// that leaves to the clients claims a VIP for another MAC than tunlb's.
func FuzzSwitch(f *testing.F) {
	for _, n := range lans {
		client, vip := at(n.client, 40000), at(n.vip, 80)
		for _, frame := range [][]byte{
			from(macClient, pt.TCP(f, client, vip, syn)),
			from(macClient, pt.TCP(f, client, vip, ack(), pt.PayloadLen(4000), pt.GSO(1400))),
			from(macClient, pt.UDP(f, client, at(n.vip, 53), pt.Fragment(7, 0, true), pt.PayloadLen(64))),
			from(macRS[0], pt.TCP(f, vip, client, ack())),
			packet.AppendEthernet(nil, pt.UDP(f, client, at(n.rs1, 1)), macRS[0], macClient),
			pt.Ask(macClient, n.client, n.vip), pt.Ask(macRS[0], n.vip, n.client), pt.Ask(macRS[1], n.rs2, n.own),
			pt.Tell(macRS[0], packet.Broadcast, n.vip, n.vip), pt.Tell(macRS[0], macOwn, n.rs1, n.own), pt.Tell(macRS[0], macClient, n.vip, n.client),
		} {
			f.Add(frame, true)
			f.Add(frame, false)
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte, server bool) {
		if len(frame) < packet.VnetLen || len(frame) > packet.VnetLen+packet.EthernetLen+packet.MaxPacket {
			return // what no port hands over
		}
		r := newSwitch(t)
		for _, n := range lans { // something to run into
			r.e.lanes[0].handle(from(macClient, pt.TCP(t, at(n.client, 40000), at(n.vip, 80), syn)))
		}
		in := 0
		if server {
			in = 1
		}
		l := r.e.lanes[in]
		l.handle(l.buf[packet.Headroom:][:copy(l.buf[packet.Headroom:], frame)])
		r.now += neigh.TickInterval
		for i, p := range r.ports {
			for _, out := range p.take() {
				if _, ok := packet.DecodeEthernet(out); !ok {
					t.Errorf("port %d: %x is no Ethernet frame", i, out)
				}
				var m neigh.Message
				if i != 0 || !neigh.Is(out) || m.Parse(out) != packet.None {
					continue
				}
				addr, mac, ok := m.Claim()
				vip := slices.ContainsFunc(lans, func(n lan) bool { return n.vip.As16() == addr })
				if ok && vip && mac != macOwn {
					t.Errorf("the clients hear that a VIP is at %v: %x", mac, out)
				}
			}
		}
	})
}
