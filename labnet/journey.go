package labnet

import (
	"errors"
	"net/netip"
	"slices"
)

// Point is a place on the way at which packets were captured.
type Point struct {
	Hop     string // "client eth0"
	Packets []Packet
}

// Journey is the way of one packet of a connection, and of the first one in answer to it.
type Journey struct {
	Proto   string   // "tcp" or "udp"
	Request []Row    // from the client on
	Answer  []Row    // from the server on
	Missed  []string // hops that the request passed and the answer, if there was one, did not
}

// Row is what a packet looked like at one hop.
type Row struct {
	Hop            string
	SrcMAC, DstMAC MAC // zero where there is no Ethernet header
	Src, Dst       netip.AddrPort
	TTL            uint8
	Checksum       uint16 // the transport's, as it was there
	State          ChecksumState
	Changed        Field // against the row before
}

// ChecksumState says what a transport checksum is worth.
type ChecksumState string

// The states of a checksum.
const (
	Valid   ChecksumState = "valid"
	Partial ChecksumState = "partial" // left to the hardware, which never gets to it on a virtual link
	Wrong   ChecksumState = "wrong"
	None    ChecksumState = "none" // UDP over IPv4 may go without
)

// Field is a set of a row's fields.
type Field uint8

// The fields of a row.
const (
	SrcAddr Field = 1 << iota
	SrcPort
	DstAddr
	DstPort
	TTL
	Checksum
	SrcMAC // against the last row that had any
	DstMAC
)

// Trace finds the journey of the first request in what was captured. The points are in the order
// of the client's packets, and the first one is at the client. A packet is recognised by what
// no balancer changes: sequence numbers and payload; its addresses are what is to be found out.
// A device that a packet passes both ways, such as a TUN or TAP, is one point and gives two rows.
func Trace(points []Point) (Journey, error) {
	if len(points) == 0 {
		return Journey{}, errors.New("trace: nothing was captured")
	}
	parsed := make([][]segment, len(points))
	for i, p := range points {
		for _, packet := range p.Packets {
			if s, ok := parse(packet); ok {
				parsed[i] = append(parsed[i], s)
			}
		}
	}
	request, ok := first(parsed[0], func(s segment) bool { return s.out })
	if !ok {
		return Journey{}, errors.New("trace: no request of TCP or UDP at " + points[0].Hop)
	}
	j := Journey{Proto: "tcp", Request: rows(points, parsed, request)}
	if request.proto == protoUDP {
		j.Proto = "udp"
	}
	answer, ok := first(parsed[0], func(s segment) bool {
		return !s.out && s.proto == request.proto && s.src == request.dst && s.dst == request.src
	})
	if !ok {
		return j, nil
	}
	reversed := slices.Clone(points) // the caller's stay as they are
	slices.Reverse(reversed)
	slices.Reverse(parsed)
	j.Answer = rows(reversed, parsed, answer)
	for _, p := range points {
		if passed(j.Request, p) && !passed(j.Answer, p) {
			j.Missed = append(j.Missed, p.Hop)
		}
	}
	return j, nil
}

// first is the first segment with data that match accepts, else the first one without.
func first(segments []segment, match func(segment) bool) (segment, bool) {
	i := slices.IndexFunc(segments, func(s segment) bool { return len(s.payload) > 0 && match(s) })
	if i < 0 {
		i = slices.IndexFunc(segments, match)
	}
	if i < 0 {
		return segment{}, false
	}
	return segments[i], true
}

// passed tells whether one of the rows is of that point.
func passed(rows []Row, p Point) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return r.Hop == p.Hop || r.Hop == p.Hop+hopIn || r.Hop == p.Hop+hopOut })
}

// What follows the point's name in the rows of a packet that passes both ways.
const (
	hopIn  = " in"
	hopOut = " out"
)

// rows follows one packet from point to point.
func rows(points []Point, parsed [][]segment, packet segment) []Row {
	var rows []Row
	for i, point := range points {
		var seen [2]*segment // one for each direction
		for k := range parsed[i] {
			s := &parsed[i][k]
			// A TUN's or TAP's packets leave the kernel first and come back from the program;
			// elsewhere they arrive first.
			way := 0
			if s.out != s.device {
				way = 1
			}
			if seen[way] == nil && s.same(packet) {
				seen[way] = s
			}
		}
		for way, s := range seen {
			if s == nil {
				continue
			}
			hop := point.Hop
			if seen[0] != nil && seen[1] != nil {
				hop += [...]string{hopIn, hopOut}[way]
			}
			rows = append(rows, Row{
				Hop: hop, SrcMAC: s.srcMAC, DstMAC: s.dstMAC,
				Src: s.src, Dst: s.dst, TTL: s.ttl, Checksum: s.checksum, State: s.state,
			})
		}
	}
	framed := 0 // the last row with an Ethernet header, if it has one
	for i := 1; i < len(rows); i++ {
		rows[i].Changed = changed(rows[i-1], rows[i])
		if rows[framed].SrcMAC != (MAC{}) && rows[i].SrcMAC != (MAC{}) {
			rows[i].Changed |= changedMACs(rows[framed], rows[i])
		}
		if rows[i].SrcMAC != (MAC{}) {
			framed = i
		}
	}
	return rows
}

func changed(a, b Row) (f Field) {
	for _, c := range [...]struct {
		differs bool
		field   Field
	}{
		{a.Src.Addr() != b.Src.Addr(), SrcAddr},
		{a.Src.Port() != b.Src.Port(), SrcPort},
		{a.Dst.Addr() != b.Dst.Addr(), DstAddr},
		{a.Dst.Port() != b.Dst.Port(), DstPort},
		{a.TTL != b.TTL, TTL},
		{a.Checksum != b.Checksum, Checksum},
	} {
		if c.differs {
			f |= c.field
		}
	}
	return f
}

func changedMACs(a, b Row) (f Field) {
	if a.SrcMAC != b.SrcMAC {
		f |= SrcMAC
	}
	if a.DstMAC != b.DstMAC {
		f |= DstMAC
	}
	return f
}
