package trace

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Change is a field that left otherwise than it came. A plain value.
type Change struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`

	// Of checksums only.
	Delta   string `json:"delta,omitempty"`   // one's complement difference of what is summed up (RFC 1624), like 0x1a2b
	Partial bool   `json:"partial,omitempty"` // the device is to complete it: it is the pseudo-header's sum
	// Wanted is the difference of the bytes that are summed up; "" iff it is Delta, or cannot be told as frames were cut.
	Wanted string `json:"wanted,omitempty"`
}

// checksum is the Internet's (RFC 1071), and what of the bytes that it covers is kept.
type checksum struct {
	value   uint16
	none    bool // UDP goes without
	partial bool
	pseudo  []byte // pseudo-header
	body    []byte // with zeros where the checksum is
	size    int    // of the body before it was cut
}

func (c *checksum) text() string {
	if c.none {
		return "none"
	}
	return fmt.Sprintf("0x%04x", c.value)
}

// addSum notes a checksum, and if it may be judged and all that it covers is there, whether it is wrong.
func (h *headers) addSum(name string, c checksum, judge bool) {
	h.sums = append(h.sums, field{name: name, text: c.text(), sum: &c})
	if !judge || c.none || c.partial || len(c.body) < c.size {
		return
	}
	if right := ^sumOf(sumOf(0, c.pseudo), c.body); oneZero(right) != oneZero(c.value) {
		h.wrong = append(h.wrong, fmt.Sprintf("%s is wrong: 0x%04x, and its bytes give 0x%04x", name, c.value, right))
	}
}

// changes are the fields that differ between what came and what left.
func (h *headers) changes(out *headers) (list []Change) {
	for i := range out.fields {
		to := &out.fields[i]
		from := h.field(to.name)
		switch {
		case from == nil && ethernetOnly(to.name):
		case from == nil && to.raw != nil:
			list = append(list, Change{Field: to.name, From: "none", To: fmt.Sprintf("%d B", to.size)})
		case from == nil:
			list = append(list, Change{Field: to.name, From: "none", To: to.text})
		case to.sum != nil:
			if c, changed := from.sum.change(to.sum); changed {
				c.Field = to.name
				list = append(list, c)
			}
		case to.raw != nil || from.raw != nil:
			if c, changed := changeOfBytes(from, to); changed {
				list = append(list, c)
			}
		case from.text != to.text:
			list = append(list, Change{Field: to.name, From: from.text, To: to.text})
		}
	}
	for i := range h.fields {
		from := &h.fields[i]
		switch {
		case out.field(from.name) != nil, ethernetOnly(from.name), from.raw != nil && from.size == 0:
		case from.raw != nil:
			list = append(list, Change{Field: from.name, From: fmt.Sprintf("%d B", from.size), To: "none"})
		default:
			list = append(list, Change{Field: from.name, From: from.text, To: "none"})
		}
	}
	return list
}

func (h *headers) field(name string) *field {
	for i := range h.fields {
		if h.fields[i].name == name {
			return &h.fields[i]
		}
	}
	return nil
}

// ethernetOnly says whether frames of IP ports have no such field, so that its coming or going is no change of the packet.
func ethernetOnly(name string) bool {
	return name == "src mac" || name == "dst mac" || name == "ethertype"
}

// change compares two checksums.
func (c *checksum) change(to *checksum) (Change, bool) {
	if to == nil || c == nil {
		return Change{}, false
	}
	if c.value == to.value && c.partial == to.partial {
		return Change{}, false
	}
	change := Change{From: c.text(), To: to.text(), Partial: to.partial}
	switch {
	case c.none || to.none:
		return change, true
	case c.partial != to.partial:
		change.From, change.To = c.kindText(), to.kindText()
		return change, true
	}
	delta := add(c.value, ^to.value) // ~to - ~from
	if to.partial {
		delta = add(to.value, ^c.value) // a bare sum, no complement
	}
	change.Delta = hexOf(delta)
	if wanted, known := c.under(to); known && hexOf(wanted) != change.Delta {
		change.Wanted = hexOf(wanted)
	}
	return change, true
}

func (c *checksum) kindText() string {
	if c.partial {
		return c.text() + " (left to the device)"
	}
	return c.text() + " (whole)"
}

// under is how the sum of the covered bytes has changed. Where as many are cut off both times they are the same: the engine
// has no hand in payloads.
func (c *checksum) under(to *checksum) (delta uint16, known bool) {
	from, into := c.body, to.body
	if c.partial {
		from, into = nil, nil
	} else if n := min(len(from), len(into)); c.size == to.size {
		from, into = from[:n], into[:n]
	} else if len(from) < c.size || len(into) < to.size {
		return 0, false
	}
	return add(sumOf(sumOf(0, to.pseudo), into), ^sumOf(sumOf(0, c.pseudo), from)), true
}

// changeOfBytes tells from where on opaque bytes differ. Those that were cut off are taken for the same.
func changeOfBytes(from, to *field) (Change, bool) {
	n := min(len(from.raw), len(to.raw))
	at := 0
	for at < n && from.raw[at] == to.raw[at] {
		at++
	}
	if at == n && from.size == to.size {
		return Change{}, false
	}
	text := func(f *field) string {
		s := fmt.Sprintf("%d B", f.size)
		if at < n {
			s += fmt.Sprintf(" with %x at byte %d", f.raw[at:min(len(f.raw), at+8)], at)
		}
		return s
	}
	return Change{Field: to.name, From: text(from), To: text(to)}, true
}

// kindOf says what a frame that left is to the one that came.
func (h *headers) kindOf(out *headers) string {
	isErr := func(p *headers) bool { return p.ICMP != nil && p.Quote != nil }
	isReset := func(p *headers) bool { return p.TCP != nil && strings.HasPrefix(p.TCP.Flags, "RST") }
	switch {
	case isErr(out) && !isErr(h):
		return StepAnswer
	case isReset(out) && out.Src == h.Dst && out.Dst == h.Src:
		return StepAnswer
	case out.arpOp == 2 && h.arpOp == 1 && out.Dst == h.Src:
		return StepAnswer
	case isNeighbour(out, 136) && isNeighbour(h, 135):
		return StepAnswer
	case out.arpOp == 1 && h.arpOp == 0, isNeighbour(out, 135) && !isNeighbour(h, 135):
		return StepSent
	case out.Protocol != h.Protocol:
		return StepSent
	}
	return StepOut
}

func isNeighbour(h *headers, typ uint8) bool {
	return h.Protocol == "icmpv6" && h.ICMP != nil && h.ICMP.Type == typ
}

// sumOf is the one's complement sum of bytes on top of another; an odd last byte is padded with zero.
func sumOf(initial uint16, b []byte) uint16 {
	s := uint32(initial)
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
		s = s>>16 + s&0xffff
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return uint16(s>>16 + s&0xffff)
}

// add is one's complement addition.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s)
}

// oneZero is a number of one's complement arithmetic, which has two zeros, with only one of them.
func oneZero(n uint16) uint16 {
	if n == 0xffff {
		return 0
	}
	return n
}

// hexOf writes a difference.
func hexOf(d uint16) string { return fmt.Sprintf("0x%04x", oneZero(d)) }
