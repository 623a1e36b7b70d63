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
	lines := [][]string{p.heading("REQUEST")}
	for _, r := range j.Request {
		lines = append(lines, p.row(r))
	}
	if len(j.Answer) > 0 {
		lines = append(lines, nil, p.heading("ANSWER"))
	}
	for _, r := range j.Answer {
		lines = append(lines, p.row(r))
	}
	_, err := io.WriteString(w, align(lines)+"\n* changed on the way from the hop above\n")
	return err
}

// painter is whether to use colours.
type painter bool

func (p painter) heading(way string) []string {
	cells := []string{way, "SOURCE", "", "DESTINATION", "TTL", "CHECKSUM", ""}
	for i, c := range cells {
		cells[i] = p.paint(c, "1") // bold
	}
	return cells
}

func (p painter) row(r Row) []string {
	mark := func(text string, f Field) string {
		if r.Changed&f == 0 {
			return text
		}
		return p.paint(text+"*", "1;33") // bold yellow
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
		r.Hop, endpoint(r.Src, SrcAddr, SrcPort), "->", endpoint(r.Dst, DstAddr, DstPort),
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
