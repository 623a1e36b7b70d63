package labnet

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Table prints the journey, request and answer, with what changed from hop to hop marked by an
// asterisk and, if color is set, in colour. Whoever calls it knows about NO_COLOR and terminals.
func (j Journey) Table(w io.Writer, color bool) error {
	p := painter(color)
	_, err := io.WriteString(w, j.table(p, []string{"SOURCE", "", "DESTINATION", "TTL", "CHECKSUM", ""}, p.row))
	return err
}

// Frames is Table with the stations that each frame went from and to, by their names (Lab.Names)
// or else their MACs, and with what the answer has bypassed: the journey of direct routing.
func (j Journey) Frames(w io.Writer, names map[MAC]string, color bool) error {
	p := painter(color)
	name := func(m MAC, changed bool) string {
		if changed {
			return p.mark(station(names, m))
		}
		return station(names, m)
	}
	heading := []string{"FROM", "", "TO", "SOURCE", "", "DESTINATION", "TTL", "CHECKSUM", ""}
	text := j.table(p, heading, func(r Row) []string {
		frame := []string{"", "", ""} // there is none on a TUN
		if r.SrcMAC != (MAC{}) {
			frame = []string{name(r.SrcMAC, r.Changed&SrcMAC != 0), "->", name(r.DstMAC, r.Changed&DstMAC != 0)}
		}
		return append(frame, p.row(r)...)
	})
	if len(j.Missed) > 0 {
		text += "The answer does not pass " + strings.Join(j.Missed, " and ") + ".\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// station is who has a MAC.
func station(names map[MAC]string, m MAC) string {
	switch name, ok := names[m]; {
	case ok:
		return name
	case m.IsGroup():
		return "everybody"
	}
	return m.String()
}

// table puts the cells of each row, and their heading, behind the hop.
func (j Journey) table(p painter, heading []string, row func(Row) []string) string {
	var lines [][]string
	for _, way := range [...]struct {
		name string
		rows []Row
	}{{"REQUEST", j.Request}, {"ANSWER", j.Answer}} {
		if len(way.rows) == 0 {
			continue
		}
		if len(lines) > 0 {
			lines = append(lines, nil)
		}
		lines = append(lines, p.heading(append([]string{way.name}, heading...)))
		for _, r := range way.rows {
			lines = append(lines, append([]string{r.Hop}, row(r)...))
		}
	}
	return align(lines) + "\n* changed on the way from the hop above\n"
}

// painter is whether to use colours.
type painter bool

func (p painter) heading(cells []string) []string {
	for i, c := range cells {
		cells[i] = p.paint(c, "1") // bold
	}
	return cells
}

// mark is for what has changed.
func (p painter) mark(text string) string { return p.paint(text+"*", "1;33") } // bold yellow

// row is the cells of a row that are about the packet.
func (p painter) row(r Row) []string {
	mark := func(text string, f Field) string {
		if r.Changed&f == 0 {
			return text
		}
		return p.mark(text)
	}
	endpoint := func(a netip.AddrPort, addr, port Field) string {
		host := a.Addr().String()
		if a.Addr().Is6() {
			host = "[" + host + "]"
		}
		return mark(host, addr) + ":" + mark(fmt.Sprint(a.Port()), port)
	}
	state := string(r.State)
	if r.State == Wrong {
		state = p.paint(state, "1;31") // bold red
	}
	return []string{
		endpoint(r.Src, SrcAddr, SrcPort), "->", endpoint(r.Dst, DstAddr, DstPort),
		mark(fmt.Sprint(r.TTL), TTL), mark(fmt.Sprintf("0x%04x", r.Checksum), Checksum), state,
	}
}

func (p painter) paint(text, style string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// align sets cells in columns, two spaces apart. Escape sequences take no room, which is why
// text/tabwriter won't do.
func align(lines [][]string) string {
	var widths []int
	for _, cells := range lines {
		for i, c := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(c))
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		var line strings.Builder
		for i, c := range cells {
			line.WriteString(c + strings.Repeat(" ", widths[i]-width(c)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// width is the number of columns that s takes on a terminal.
func width(s string) int {
	n := 0
	for s != "" {
		if strings.HasPrefix(s, "\x1b[") {
			s = s[strings.IndexByte(s, 'm')+1:]
			continue
		}
		_, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		n++
	}
	return n
}
