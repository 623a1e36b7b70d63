package labnet

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

// captured describes a packet of a made-up capture.
type captured struct {
	out, ethernet, partial bool
	proto                  uint8
	src, dst               string
	ttl                    uint8
	seq, ack               uint32
	flags                  uint8
	payload                string
}

// packet encodes it with good checksums, or the pseudo-header's sum if partial.
func (c captured) packet() Packet {
	src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
	var l4 []byte
	l4 = binary.BigEndian.AppendUint16(l4, src.Port())
	l4 = binary.BigEndian.AppendUint16(l4, dst.Port())
	at := 16
	if c.proto == protoUDP {
		at = 6
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(c.payload)))
		l4 = append(l4, 0, 0)
	} else {
		l4 = binary.BigEndian.AppendUint32(l4, c.seq)
		l4 = binary.BigEndian.AppendUint32(l4, c.ack)
		l4 = append(l4, 5<<4, c.flags, 0xff, 0xff, 0, 0, 0, 0)
	}
	l4 = append(l4, c.payload...)
	summed := l4
	if c.partial {
		summed = nil
	}
	sum := uint32(c.proto) + uint32(len(l4))
	for _, b := range [][]byte{src.Addr().AsSlice(), dst.Addr().AsSlice(), append(summed, 0)} {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if !c.partial {
		sum = ^sum
	}
	binary.BigEndian.PutUint16(l4[at:], uint16(sum))

	var ip []byte
	if src.Addr().Is4() {
		ip = append(ip, 0x45, 0)
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(l4)))
		ip = append(ip, 0, 1, 0x40, 0, c.ttl, c.proto, 0, 0)
	} else {
		ip = append(ip, 0x60, 0, 0, 0)
		ip = binary.BigEndian.AppendUint16(ip, uint16(len(l4)))
		ip = append(ip, c.proto, c.ttl)
	}
	ip = append(ip, src.Addr().AsSlice()...)
	ip = append(ip, dst.Addr().AsSlice()...)
	ip = append(ip, l4...)
	if c.ethernet {
		ip = append(make([]byte, 14), ip...)
	}
	return Packet{Out: c.out, Ethernet: c.ethernet, Device: !c.ethernet, Partial: c.partial, Data: ip}
}

// natCapture is one request through tunlb by NAT. Noise that must not be taken for it:
// handshakes, another connection, a retransmission, broken packets.
func natCapture(client, vip, server, other string, partial bool) []Point {
	const psh, syn, ack = 0x18, 0x02, 0x10
	request := func(out, ethernet bool, dst string, ttl uint8) Packet {
		return captured{out, ethernet, partial, protoTCP, client, dst, ttl, 1000, 2000, psh, "GET / HTTP/1.1\r\n\r\n"}.packet()
	}
	answer := func(out, ethernet bool, src string, ttl uint8) Packet {
		return captured{out, ethernet, partial, protoTCP, src, client, ttl, 2000, 1018, psh, "HTTP/1.1 200 OK\r\n\r\nrs2"}.packet()
	}
	handshake := captured{true, true, partial, protoTCP, client, vip, 64, 999, 0, syn, ""}.packet()
	noise := captured{false, true, false, protoTCP, other, vip, 64, 1000, 2000, psh, "another"}.packet()
	broken := Packet{Ethernet: true, Data: make([]byte, 20)}
	return []Point{
		{"client eth0", []Packet{
			handshake, broken, noise, request(true, true, vip, 64), request(true, true, vip, 64), answer(false, true, vip, 61),
		}},
		{"lb eth0", []Packet{noise, request(false, true, vip, 64), answer(true, true, vip, 61)}},
		{"tunlb0", []Packet{
			request(true, false, vip, 63), request(false, false, server, 62),
			answer(true, false, server, 63), answer(false, false, vip, 62),
		}},
		{"lb eth1", []Packet{request(true, true, server, 61), answer(false, true, server, 64)}},
		{"rs2 eth0", []Packet{request(false, true, server, 61), answer(true, true, server, 64)}},
	}
}

func TestJourney(t *testing.T) {
	for _, c := range []struct {
		name   string
		points []Point
		want   string
	}{
		{"IPv4 NAT", natCapture("198.51.100.7:40000", "203.0.113.22:80", "192.168.0.11:8080", "198.51.100.8:40000", false), `
REQUEST      SOURCE                  DESTINATION          TTL  CHECKSUM
client eth0  198.51.100.7:40000  ->  203.0.113.22:80      64   0xc27f    valid
lb eth0      198.51.100.7:40000  ->  203.0.113.22:80      64   0xc27f    valid
tunlb0 in    198.51.100.7:40000  ->  203.0.113.22:80      63*  0xc27f    valid
tunlb0 out   198.51.100.7:40000  ->  192.168.0.11*:8080*  62*  0x1ea3*   valid
lb eth1      198.51.100.7:40000  ->  192.168.0.11:8080    61*  0x1ea3    valid
rs2 eth0     198.51.100.7:40000  ->  192.168.0.11:8080    61   0x1ea3    valid

ANSWER       SOURCE                  DESTINATION          TTL  CHECKSUM
rs2 eth0     192.168.0.11:8080   ->  198.51.100.7:40000   64   0xbfb6    valid
lb eth1      192.168.0.11:8080   ->  198.51.100.7:40000   64   0xbfb6    valid
tunlb0 in    192.168.0.11:8080   ->  198.51.100.7:40000   63*  0xbfb6    valid
tunlb0 out   203.0.113.22*:80*   ->  198.51.100.7:40000   62*  0x6393*   valid
lb eth0      203.0.113.22:80     ->  198.51.100.7:40000   61*  0x6393    valid
client eth0  203.0.113.22:80     ->  198.51.100.7:40000   61   0x6393    valid

* changed on the way from the hop above
`},
		{"IPv6 NAT, offloaded", natCapture("[2001:db8:1::7]:40000", "[2001:db8:113::22]:80", "[2001:db8:c0::11]:80", "[2001:db8:1::8]:1", true), `
REQUEST      SOURCE                      DESTINATION            TTL  CHECKSUM
client eth0  [2001:db8:1::7]:40000   ->  [2001:db8:113::22]:80  64   0x5cdb    partial
lb eth0      [2001:db8:1::7]:40000   ->  [2001:db8:113::22]:80  64   0x5cdb    partial
tunlb0 in    [2001:db8:1::7]:40000   ->  [2001:db8:113::22]:80  63*  0x5cdb    partial
tunlb0 out   [2001:db8:1::7]:40000   ->  [2001:db8:c0::11]*:80  62*  0x5c77*   partial
lb eth1      [2001:db8:1::7]:40000   ->  [2001:db8:c0::11]:80   61*  0x5c77    partial
rs2 eth0     [2001:db8:1::7]:40000   ->  [2001:db8:c0::11]:80   61   0x5c77    partial

ANSWER       SOURCE                      DESTINATION            TTL  CHECKSUM
rs2 eth0     [2001:db8:c0::11]:80    ->  [2001:db8:1::7]:40000  64   0x5c7b    partial
lb eth1      [2001:db8:c0::11]:80    ->  [2001:db8:1::7]:40000  64   0x5c7b    partial
tunlb0 in    [2001:db8:c0::11]:80    ->  [2001:db8:1::7]:40000  63*  0x5c7b    partial
tunlb0 out   [2001:db8:113::22]*:80  ->  [2001:db8:1::7]:40000  62*  0x5cdf*   partial
lb eth0      [2001:db8:113::22]:80   ->  [2001:db8:1::7]:40000  61*  0x5cdf    partial
client eth0  [2001:db8:113::22]:80   ->  [2001:db8:1::7]:40000  61   0x5cdf    partial

* changed on the way from the hop above
`},
		{"an answer that never came, and a wrong checksum", []Point{
			{"client eth0", []Packet{captured{true, true, false, protoTCP, "192.0.2.1:1", "192.0.2.2:2", 64, 7, 0, 2, ""}.packet()}},
			{"rs1 eth0", []Packet{spoil(captured{false, true, false, protoTCP, "192.0.2.1:1", "192.0.2.2:2", 64, 7, 0, 2, ""}.packet())}},
		}, `
REQUEST      SOURCE           DESTINATION  TTL  CHECKSUM
client eth0  192.0.2.1:1  ->  192.0.2.2:2  64   0x2bd5    valid
rs1 eth0     192.0.2.1:1  ->  192.0.2.2:2  64   0x2b2a*   wrong

* changed on the way from the hop above
`},
		{"UDP", []Point{
			{"client eth0", []Packet{
				captured{true, true, false, protoUDP, "192.0.2.1:1", "192.0.2.2:7", 64, 0, 0, 0, "ping"}.packet(),
				captured{false, true, false, protoUDP, "192.0.2.2:7", "192.0.2.1:1", 64, 0, 0, 0, "rs1 ping"}.packet(),
			}},
		}, `
REQUEST      SOURCE           DESTINATION  TTL  CHECKSUM
client eth0  192.0.2.1:1  ->  192.0.2.2:7  64   0x9cf9    valid

ANSWER       SOURCE           DESTINATION  TTL  CHECKSUM
client eth0  192.0.2.2:7  ->  192.0.2.1:1  64   0xf95d    valid

* changed on the way from the hop above
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := c.points[0].Hop
			j, err := Trace(c.points)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := j.Table(&b, false); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + b.String(); got != c.want {
				t.Errorf("got%s\nwant%s", got, c.want)
			}
			if c.points[0].Hop != first {
				t.Error("the caller's points were reordered")
			}
		})
	}
}

// spoil flips the bits of a TCP checksum's low byte.
func spoil(p Packet) Packet {
	p.Data[14+20+17] ^= 0xff
	return p
}

func TestJourneyInColour(t *testing.T) {
	j, err := Trace(natCapture("198.51.100.7:40000", "203.0.113.22:80", "192.168.0.11:8080", "198.51.100.8:40000", false))
	if err != nil {
		t.Fatal(err)
	}
	var plain, colour strings.Builder
	if err := j.Table(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := j.Table(&colour, true); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[1;33m192.168.0.11*\x1b[0m:\x1b[1;33m8080*\x1b[0m  \x1b[1;33m62*\x1b[0m"; !strings.Contains(colour.String(), want) {
		t.Errorf("no %q in\n%s", want, colour.String())
	}
	// The columns are the same ones.
	stripped := strings.NewReplacer("\x1b[1m", "", "\x1b[1;33m", "", "\x1b[0m", "").Replace(colour.String())
	if stripped != plain.String() {
		t.Errorf("without escapes\n%s\nwant\n%s", stripped, plain.String())
	}
}

func TestTraceOfNothing(t *testing.T) {
	for _, points := range [][]Point{nil, {{Hop: "client eth0"}}, {{"client eth0", []Packet{{Data: []byte{0x45}}, {Out: true}}}}} {
		if j, err := Trace(points); err == nil {
			t.Errorf("Trace(%v) = %+v, want an error", points, j)
		}
	}
}

func FuzzTrace(f *testing.F) {
	f.Add(natCapture("198.51.100.7:4", "203.0.113.22:80", "192.168.0.11:80", "198.51.100.8:4", false)[0].Packets[3].Data, true)
	f.Fuzz(func(t *testing.T, data []byte, ethernet bool) {
		_, _ = Trace([]Point{{"x", []Packet{{Out: true, Ethernet: ethernet, Data: data}}}})
	})
}
