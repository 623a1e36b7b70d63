package packets

import (
	"net/netip"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

var (
	syn    = pt.Flags(packet.TCPSyn)
	synAck = pt.Flags(packet.TCPSyn | packet.TCPAck)
	ack    = pt.Flags(packet.TCPAck)
	finAck = pt.Flags(packet.TCPFin | packet.TCPAck)
	rst    = pt.Flags(packet.TCPRst)
)

// sample is a valid frame and the side that it comes from.
type sample struct {
	server bool
	frame  []byte
}

// samples are valid frames of all kinds, between a client and the services, the servers and the outside. dr: the servers have
// the VIP themselves.
func samples(dr bool) (list []sample) {
	for i := range casts {
		c := &casts[i]
		add := func(server bool, frames ...[]byte) {
			for _, f := range frames {
				list = append(list, sample{server, f})
			}
		}
		client, web, dns := at(c.client, 40000), at(c.vip, 80), at(c.vip, 53)
		rs := at(c.rs[0], 8080)
		reply, datagram := rs, at(c.rs[0], 5353)
		if dr {
			reply, datagram = web, dns
		}
		add(false,
			pt.TCP(tb, client, web, syn, pt.Seq(1000), pt.TCPOptions(2, 4, 5, 180, 4, 2, 1, 3, 3, 7)),
			pt.TCP(tb, client, web, ack, pt.Seq(1001), pt.Ack(5001)),
			pt.TCP(tb, client, web, ack, pt.Seq(1001), pt.Ack(5001), pt.PayloadLen(300), pt.PartialChecksum()),
			pt.TCP(tb, client, web, ack, pt.Seq(1301), pt.Ack(5001), pt.PayloadLen(40_000), pt.GSO(1400)),
			pt.TCP(tb, client, web, ack, pt.Seq(1301), pt.Ack(5001), pt.PayloadLen(900), pt.DataValid()),
			pt.TCP(tb, client, web, finAck, pt.Seq(1301), pt.Ack(5001)),
			pt.TCP(tb, client, web, rst, pt.Seq(1302)),
			pt.TCP(tb, at(c.other, 1), at(c.vip, 81), syn), pt.TCP(tb, at(c.other, 2), at(c.vip, 443), syn), pt.TCP(tb, at(c.other, 3), at(c.vip, 22), syn),
			pt.UDP(tb, client, dns, pt.PayloadLen(64)), pt.UDP(tb, client, dns, pt.PayloadLen(64), pt.NoChecksum()), pt.UDP(tb, client, at(c.vip, 54), pt.PayloadLen(9)),
			pt.UDP(tb, client, at(c.vip, 9), pt.PayloadLen(9)), pt.UDP(tb, client, at(c.outside, 33434), pt.TTL(1)),
			pt.Echo(tb, c.client, c.vip, 7, 1, pt.PayloadLen(56)), pt.Echo(tb, c.client, c.rs[0], 7, 1),
			pt.Raw(tb, 47, c.client, c.vip, pt.PayloadLen(40)),
		)
		add(true,
			pt.TCP(tb, reply, client, synAck, pt.Seq(5000), pt.Ack(1001)),
			pt.TCP(tb, reply, client, ack, pt.Seq(5001), pt.Ack(1001), pt.PayloadLen(1400)),
			pt.TCP(tb, reply, client, ack, pt.Seq(5001), pt.Ack(1001), pt.PayloadLen(30_000), pt.GSO(1300)),
			pt.UDP(tb, datagram, client, pt.PayloadLen(64)), pt.UDP(tb, datagram, client, pt.PayloadLen(9000), pt.GSO(1200)),
			pt.TCP(tb, at(c.rs[1], 50_000), at(c.outside, 443), syn), pt.UDP(tb, at(c.rs[1], 50_000), at(c.outside, 53), pt.PayloadLen(30)), pt.Echo(tb, c.rs[1], c.outside, 9, 1),
		)
		request, response := pt.TCP(tb, client, rs, ack, pt.Seq(1001)), pt.TCP(tb, web, client, ack, pt.Seq(5001), pt.PayloadLen(1400))
		add(true, pt.Unreachable(tb, c.rs[0], c.client, request), pt.Unreachable(tb, c.rs[0], c.client, pt.UDP(tb, client, at(c.rs[0], 5353))))
		add(false, pt.ICMPError(tb, c.outside, c.vip, c.bigType, c.bigCode, response, pt.NextMTU(1300)),
			pt.Unreachable(tb, c.outside, c.vip, pt.UDP(tb, dns, client)), pt.Unreachable(tb, c.outside, c.masq, pt.UDP(tb, at(c.masq, 2000), at(c.outside, 53))))
		add(false, pt.Fragments(tb, pt.UDP(tb, client, dns, pt.PayloadLen(4000)), 1500, 77)...)
		add(true, pt.Fragments(tb, pt.UDP(tb, datagram, client, pt.PayloadLen(3000)), 1280, 78)...)
		list = append(list, extended(c, client, web, dns)...)
	}
	return list
}

// extended have options and extension headers.
func extended(c *cast, client, web, dns netip.AddrPort) []sample {
	if !c.is6 {
		return []sample{
			{false, pt.TCP(tb, client, web, ack, pt.IPOptions(0x94, 4, 0, 0))},                          // router alert
			{false, pt.UDP(tb, client, dns, pt.IPOptions(7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0))},            // record route
			{false, pt.UDP(tb, client, dns, pt.IPOptions(131, 7, 4, 10, 0, 0, 1), pt.PayloadLen(2000))}, // source route, and too big
		}
	}
	return []sample{
		{false, pt.TCP(tb, client, web, ack, pt.Extension(0, 1, 4, 0, 0, 0, 0))},
		{false, pt.TCP(tb, client, web, ack, pt.Extension(0, 5, 2, 0, 0, 1, 0), pt.Extension(60, 1, 4, 0, 0, 0, 0), pt.PayloadLen(100))},
		{false, pt.UDP(tb, client, dns, pt.Extension(43, 4, 0, 0, 0, 0, 0), pt.PayloadLen(30))},
		{false, pt.UDP(tb, client, dns, pt.Fragment(5, 0, false), pt.PayloadLen(30))}, // atomic
	}
}
