package packets

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb"
)

// guesses are the segments that somebody sends who knows addresses and ports of a connection, and has to guess its numbers.
var guesses = []struct {
	name  string
	flags []uint8
}{
	{"RST", []uint8{packet.TCPRst, packet.TCPRst | packet.TCPAck}},
	{"SYN", []uint8{packet.TCPSyn, packet.TCPSyn | packet.TCPAck}},
	{"SYN, then RST", []uint8{packet.TCPSyn, packet.TCPRst}},
	{"FIN", []uint8{packet.TCPFin | packet.TCPAck, packet.TCPFin}},
	{"data, then RST", []uint8{packet.TCPAck, packet.TCPAck | packet.TCPPsh, packet.TCPRst}},
	{"data, then FIN", []uint8{packet.TCPAck, packet.TCPAck | packet.TCPPsh, packet.TCPFin | packet.TCPAck}},
}

// Blind sends n guesses of each kind from both sides into established connections, translated and directly routed, while
// these go on with much in flight. None may be disturbed: it stays established and with its server, and its own RST is still believed.
func Blind(ctx context.Context, n int, seed uint64) (*Result, error) {
	r := &Result{}
	random := rand.New(rand.NewPCG(seed, 3))
	for _, open := range []func(int, uint64) (*site, error){newNAT, newSegment} {
		s, err := open(1000, seed)
		if err != nil {
			return nil, err
		}
		for i := range guesses {
			if err := s.guess(ctx, r, i, n, random); err != nil {
				s.engine.Close()
				return nil, err
			}
		}
		if err := s.engine.Close(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// guess attacks a connection of each family with one kind of guesses.
func (s *site) guess(ctx context.Context, r *Result, kind, n int, random *rand.Rand) error {
	var conns []*conn
	for i := range casts {
		c := s.connect(&casts[i], uint16(20_000+kind), random)
		if err := c.handshake(); err != nil {
			return err
		}
		conns = append(conns, c)
	}
	sent := 0
	for i := range n {
		if i%(1<<14) == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		c := conns[i%len(conns)]
		if i%64 < 2 {
			if err := c.goOn(); err != nil {
				return err
			}
		}
		forged := c.forged[random.IntN(2)]
		patch(forged, random.Uint32(), random.Uint32(), guesses[kind].flags[i%len(guesses[kind].flags)])
		if err := s.fromMAC(forged, macClient); err != nil {
			return err
		}
		sent++
	}
	disturbed, deaf := 0, 0
	for _, c := range conns {
		if c.state() != "ESTABLISHED" || c.strayed > 0 {
			disturbed++
			r.failf("%s: %s: %v is %s, and %d of its segments went elsewhere", s.name, guesses[kind].name, c.client, c.state(), c.strayed)
		}
		if err := c.reset(); err != nil {
			return err
		}
		if c.state() != "CLOSE" {
			deaf++
		}
	}
	name := s.name + ": " + guesses[kind].name
	r.prove(name+": guesses", float64(sent), float64(n), "")
	r.atMost(name+": connections disturbed", float64(disturbed), 0, "")
	r.atMost(name+": deaf to their own RST", float64(deaf), 0, "")
	return nil
}

// conn is a connection that downloads. Not safe for concurrent use.
type conn struct {
	*site
	cast        *cast
	client, vip netip.AddrPort
	server      netip.AddrPort // as its packets come
	mac         packet.MAC     // of the server
	next, acked [2]uint32      // by side: client, server
	forged      [2][]byte
	strayed     int
	last        []byte // what has become of its last segment
}

// inFlight is what the server has under way, in bytes: one number in 2^11 is in it.
const inFlight = 1 << 21

func (s *site) connect(k *cast, port uint16, random *rand.Rand) *conn {
	return &conn{site: s, cast: k, client: at(k.client, port), vip: at(k.vip, 80), mac: macRS[0], next: [2]uint32{random.Uint32(), random.Uint32()}}
}

// direct says that the server has the VIP itself, and its answers do not pass.
func (c *conn) direct() bool { return c.name == "segment" }

func (c *conn) handshake() error {
	if err := c.segment(0, packet.TCPSyn, 0, 0); err != nil {
		return err
	}
	var v packet.View
	if r := v.ParseOn(c.link(), append([]byte(nil), c.last...)); r != packet.None {
		return fmt.Errorf("%s: the SYN of %v has not left: %v; drops %v", c.name, c.client, r, c.engine.Drops())
	}
	c.server = v.Tuple.Destination()
	if c.direct() {
		h, _ := packet.DecodeEthernet(c.last)
		c.mac = h.Dst
	}
	c.forged = [2][]byte{pt.TCP(tb, c.client, c.vip, ack), pt.TCP(tb, c.server, c.client, ack)}
	if err := c.segment(1, packet.TCPSyn|packet.TCPAck, c.next[0], 0); err != nil {
		return err
	}
	c.acked = [2]uint32{c.next[0], c.next[1]}
	return c.segment(0, packet.TCPAck, c.next[1], 0)
}

func (s *site) link() packet.Link {
	if s.ether[0] {
		return packet.LinkEthernet
	}
	return packet.LinkIP
}

// goOn has the server send and the client acknowledge, so that inFlight bytes are under way.
func (c *conn) goOn() error {
	if err := c.segment(1, packet.TCPAck, c.next[0], 1400); err != nil {
		return err
	}
	if c.next[1]-c.acked[1] <= inFlight {
		c.next[1] += inFlight / 64 // by super-packets
		return nil
	}
	c.acked[1] = c.next[1] - inFlight
	return c.segment(0, packet.TCPAck, c.acked[1], 0)
}

// reset is the client's own.
func (c *conn) reset() error { return c.segment(0, packet.TCPRst, 0, 0) }

// segment sends one of a side's own segments. The server's do not pass in direct routing.
func (c *conn) segment(side int, flags uint8, ackNo uint32, n int) error {
	seq := c.next[side]
	c.next[side] += uint32(n)
	if flags&packet.TCPSyn != 0 {
		c.next[side]++
	}
	from, to, mac := c.client, c.vip, macClient
	if side == 1 {
		from, to, mac = c.server, c.client, c.mac
		if c.direct() {
			return nil
		}
	}
	c.last = c.last[:0]
	c.see = func(frame []byte) { c.last = append(c.last[:0], frame...) }
	if err := c.fromMAC(pt.TCP(tb, from, to, pt.Flags(flags), pt.Seq(seq), pt.Ack(ackNo), pt.PayloadLen(n)), mac); err != nil {
		return err
	}
	if side == 0 && c.server.IsValid() && !c.reached() {
		c.strayed++
	}
	return nil
}

// reached says whether the client's last segment has gone to the server.
func (c *conn) reached() bool {
	var v packet.View
	if v.ParseOn(c.link(), append([]byte(nil), c.last...)) != packet.None {
		return false
	}
	if c.direct() {
		h, _ := packet.DecodeEthernet(c.last)
		return h.Dst == c.mac
	}
	return v.Tuple.Destination() == c.server
}

// fromMAC hands over a packet as the first port reads it.
func (s *site) fromMAC(frame []byte, mac packet.MAC) error {
	if s.ether[0] {
		frame = packet.AppendEthernet(nil, frame, macOwn, mac)
	}
	return s.inject(0, frame)
}

// state is the connection's in the table; "" if it is gone.
func (c *conn) state() (state string) {
	c.engine.Conns(tunlb.ConnFilter{}, func(found tunlb.Conn) bool {
		if found.Client == c.client {
			state = found.State
		}
		return state == ""
	})
	return state
}

// patch gives a segment without payload other numbers and flags.
func patch(frame []byte, seq, ackNo uint32, flags uint8) {
	ip := frame[packet.VnetLen:]
	var tcp []byte
	var pseudo uint16
	if header.IPVersion(ip) == 4 {
		h := header.IPv4(ip)
		tcp = ip[h.HeaderLength():]
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(len(tcp)))
	} else {
		h := header.IPv6(ip)
		tcp = ip[header.IPv6MinimumSize:]
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(len(tcp)))
	}
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ackNo)
	tcp[13] = flags
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], ^checksum.Checksum(tcp, pseudo))
}
