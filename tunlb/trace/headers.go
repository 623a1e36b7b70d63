package trace

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// headers are a frame's, field by field. Every byte that is kept is of a field, so that no change can hide; what a
// header of an unknown or broken kind has is opaque. packet.View is no help here: it refuses frames that are cut off.
type headers struct {
	Packet
	fields []field // in the order in which changes are told
	sums   []field // checksums, which are told behind the others
	opaque []field // and then payloads
	wrong  []string

	vnet   packet.Vnet
	arpOp  uint16
	quoted bool // what is read is what an ICMP error quotes
}

// field is a thing that a frame says, such as its source.
type field struct {
	name string
	text string
	sum  *checksum // of checksums
	raw  []byte    // of opaque bytes, whose text is made where two are compared
	size int       // of opaque bytes: how many there were before they were cut
}

// read reads a frame of a port.
func read(f *watch.Frame) *headers {
	h := &headers{}
	if len(f.Data) < packet.VnetLen {
		h.blob("frame", f.Data, f.Length)
		return h.done()
	}
	h.vnet = packet.DecodeVnet(f.Data)
	data := f.Data[packet.VnetLen:]
	l3 := 0
	if f.Ethernet {
		l3 = packet.EthernetLen
	}
	h.readVnet(l3)
	if !f.Ethernet {
		h.readIP("", data, f.Length)
		return h.done()
	}
	if len(data) < packet.EthernetLen {
		h.blob("ethernet", data, f.Length)
		return h.done()
	}
	h.DstMAC, h.SrcMAC = packet.MAC(data[0:]).String(), packet.MAC(data[6:]).String()
	h.set("src mac", h.SrcMAC)
	h.set("dst mac", h.DstMAC)
	kind := binary.BigEndian.Uint16(data[12:])
	h.set("ethertype", fmt.Sprintf("0x%04x", kind))
	data, length := data[packet.EthernetLen:], f.Length-packet.EthernetLen
	switch kind {
	case packet.EtherIPv4, packet.EtherIPv6:
		h.readIP("", data, length)
	case packet.EtherARP:
		h.readARP(data, length)
	default:
		h.Text = fmt.Sprintf("ethertype 0x%04x", kind)
		h.blob("payload", data, length)
	}
	return h.done()
}

func (h *headers) done() *headers {
	h.fields = slices.Concat(h.fields, h.sums, h.opaque)
	h.describe()
	return h
}

func (h *headers) set(name, text string) { h.fields = append(h.fields, field{name: name, text: text}) }

func (h *headers) setf(name, format string, args ...any) { h.set(name, fmt.Sprintf(format, args...)) }

// blob is bytes that nobody reads, of which there were size before the frame was cut.
func (h *headers) blob(name string, raw []byte, size int) {
	h.opaque = append(h.opaque, field{name: name, raw: raw, size: max(size, len(raw))})
}

// readVnet reads what is left to the device. Offsets are told from the IP header on, as they stay so when an Ethernet header
// comes or goes.
func (h *headers) readVnet(l3 int) {
	v := h.vnet
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	partial := v.Flags&packet.FlagNeedsCsum != 0
	switch kind := v.GSOType &^ packet.GSOECN; {
	case kind == packet.GSOTCPv4 || kind == packet.GSOTCPv6:
		add("super-packet of segments with %d B", v.GSOSize)
	case kind == packet.GSOUDPL4:
		add("super-packet of datagrams with %d B", v.GSOSize)
	case kind != packet.GSONone:
		add("gso type %d, size %d", kind, v.GSOSize)
	case v.GSOSize != 0:
		add("gso size %d", v.GSOSize)
	}
	if partial {
		add("checksum left to the device")
	}
	h.Offload = strings.Join(words, ", ")
	if partial {
		add("from byte %d at %d", int(v.CsumStart)-l3, v.CsumOffset)
	} else if v.CsumStart|v.CsumOffset != 0 {
		add("checksum place %d at %d", v.CsumStart, v.CsumOffset)
	}
	if v.HdrLen != 0 {
		add("headers %d B", int(v.HdrLen)-l3)
	}
	if v.Flags&packet.FlagDataValid != 0 {
		add("verified by the device")
	}
	if others := v.Flags &^ (packet.FlagNeedsCsum | packet.FlagDataValid); others != 0 {
		add("flags 0x%02x", others)
	}
	if v.GSOType&packet.GSOECN != 0 {
		add("ecn")
	}
	if kind := v.GSOType &^ packet.GSOECN; kind == packet.GSOTCPv4 || kind == packet.GSOTCPv6 {
		add("tso%d", map[uint8]int{packet.GSOTCPv4: 4, packet.GSOTCPv6: 6}[kind])
	}
	h.set("offload", orNone(strings.Join(words, ", ")))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// readIP reads a packet, or with a prefix one that is quoted. length is the bytes that there were.
func (h *headers) readIP(prefix string, b []byte, length int) {
	switch {
	case len(b) >= ip4Len && b[0]>>4 == 4:
		h.read4(prefix, b, length)
	case len(b) >= ip6Len && b[0]>>4 == 6:
		h.read6(prefix, b, length)
	default:
		if prefix == "" {
			h.Text = "no IP header"
		}
		h.blob(prefix+"packet", b, length)
	}
}

// Header lengths without options.
const (
	ip4Len  = 20
	ip6Len  = 40
	tcpLen  = 20
	udpLen  = 8
	icmpLen = 8
)

func (h *headers) read4(prefix string, b []byte, length int) {
	total, header := int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4
	frag := binary.BigEndian.Uint16(b[6:])
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	offset, more := int(frag&0x1fff)*8, frag&0x2000 != 0
	p := ipPacket{prefix: prefix, src: src, dst: dst, proto: b[9], length: total, later: offset > 0}
	h.Length, h.TTL = total, int(b[8])
	h.fragment(offset, more)
	if header < ip4Len || header > len(b) || total < header {
		h.addresses(p, nil)
		h.blob(prefix+"packet", b, length)
		return
	}
	end := h.trailer(prefix, b, total, length)
	p.body, p.size, p.pseudo = b[header:end], total-header, slices.Clone(b[12:20])
	h.addresses(p, p.body)
	h.setf(prefix+"ttl", "%d", b[8])
	h.setf(prefix+"tos", "0x%02x", b[1])
	h.setf(prefix+"length", "%d", total)
	h.setf(prefix+"ip id", "%d", binary.BigEndian.Uint16(b[4:]))
	h.set(prefix+"fragment", fragmentText(offset, more, frag&0x4000 != 0, frag&0x8000 != 0))
	h.setf(prefix+"protocol", "%d", b[9])
	h.setf(prefix+"header length", "%d", header)
	h.set(prefix+"ip options", orNone(hex.EncodeToString(b[ip4Len:header])))
	h.addSum(prefix+"ip checksum", checksum{
		value: binary.BigEndian.Uint16(b[10:]), body: without(b[:header], 10), size: header,
	}, prefix == "")
	h.readTransport(p)
}

func (h *headers) read6(prefix string, b []byte, length int) {
	payload := int(binary.BigEndian.Uint16(b[4:]))
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	p := ipPacket{prefix: prefix, src: src, dst: dst, proto: b[6], length: ip6Len + payload, is6: true}
	h.Length, h.TTL = p.length, int(b[7])
	end := h.trailer(prefix, b, p.length, length)
	p.body, p.size, p.pseudo = b[ip6Len:end], payload, slices.Clone(b[8:40])
	before := len(h.fields)
	h.setf(prefix+"hop limit", "%d", b[7])
	h.setf(prefix+"traffic class", "0x%02x", uint8(binary.BigEndian.Uint16(b)>>4))
	h.setf(prefix+"flow label", "0x%05x", binary.BigEndian.Uint32(b)&0xfffff)
	h.setf(prefix+"length", "%d", p.length)
	h.setf(prefix+"next header", "%d", b[6])
	h.extensions(&p)
	rest := slices.Clone(h.fields[before:])
	h.fields = h.fields[:before]
	h.addresses(p, p.body)
	h.fields = append(h.fields, rest...)
	h.readTransport(p)
}

// extensions walks IPv6's extension headers (RFC 8200, 4).
func (h *headers) extensions(p *ipPacket) {
	for n := 0; (p.proto == 0 || p.proto == 43 || p.proto == 44 || p.proto == 60) && len(p.body) >= 8; n++ {
		size := 8
		if p.proto != 44 {
			size += int(p.body[1]) * 8
		} else {
			frag := binary.BigEndian.Uint16(p.body[2:])
			offset, more := int(frag&^7), frag&1 != 0
			p.later = offset > 0
			h.fragment(offset, more)
		}
		if size > len(p.body) {
			return
		}
		h.setf(fmt.Sprintf("%sextension %d", p.prefix, n), "%d %x", p.proto, p.body[:size])
		p.proto = p.body[0]
		p.body, p.size = p.body[size:], p.size-size
	}
}

// fragment notes that the packet is one; what is quoted has notes of its own.
func (h *headers) fragment(offset int, more bool) {
	if offset > 0 || more {
		h.Fragment = fragmentText(offset, more, false, false)
	}
}

func fragmentText(offset int, more, dont, reserved bool) string {
	text := ""
	if offset > 0 || more {
		text = fmt.Sprintf("offset %d", offset)
	}
	for _, flag := range []struct {
		on   bool
		name string
	}{{more, "more"}, {dont, "DF"}, {reserved, "reserved bit"}} {
		if !flag.on {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += flag.name
	}
	return orNone(text)
}

// trailer notes bytes behind the packet, such as Ethernet's padding, and returns where it ends among the bytes kept.
func (h *headers) trailer(prefix string, b []byte, total, length int) (end int) {
	if prefix == "" && length > total {
		h.blob("padding", b[min(total, len(b)):], length-total)
	}
	return min(total, len(b))
}

// without is bytes with zeros where their checksum is.
func without(b []byte, at int) []byte {
	b = slices.Clone(b)
	for i := at; i < min(at+2, len(b)); i++ {
		b[i] = 0
	}
	return b
}
