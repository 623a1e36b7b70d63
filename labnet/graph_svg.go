package labnet

import (
	"fmt"
	"html"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Sizes in pixels.
const (
	svgChar   = 7.3 // of a monospaced letter of 12 pixels
	svgLine   = 16
	svgPad    = 12
	svgGap    = 24 // between boxes
	svgLane   = 30 // of one network between two rows
	svgMargin = 24
	svgTitle  = 34
)

// SVG is the picture as a file of its own: rows of hosts from the clients to the servers, and the networks as bars
// between them.
func (p *Picture) SVG() string {
	s := svg{Picture: p}
	s.arrange()
	return s.render()
}

// svg is a picture being laid out.
type svg struct {
	*Picture
	boxes []svgBox
	bars  []svgBar
	wide  float64
	high  float64
}

type svgBox struct {
	node       Node
	lines      []string
	row        int
	x, y, w, h float64
}

func (b *svgBox) center() float64 { return b.x + b.w/2 }

// svgBar is a network.
type svgBar struct {
	node Node
	row  int // that it lies below
	y    float64
}

// arrange puts hosts and networks where their ranks say.
func (s *svg) arrange() {
	ranks := s.ranks()
	rows := 1 + slices.Max(append(slices.Collect(maps.Values(ranks)), 0))/2
	for i := range rows {
		x := 0.0
		for _, n := range s.Nodes {
			if n.Switch || ranks[n.Name] != 2*i {
				continue
			}
			b := svgBox{node: n, lines: describe(s.Topology, n), row: i, x: x}
			for _, line := range b.lines {
				b.w = max(b.w, float64(utf8.RuneCountInString(line))*svgChar+2*svgPad)
			}
			b.h = float64(len(b.lines)*svgLine + 2*svgPad - 4)
			s.boxes = append(s.boxes, b)
			x += b.w + svgGap
		}
		s.wide = max(s.wide, x-svgGap)
	}
	for _, n := range s.Nodes {
		if n.Switch {
			s.bars = append(s.bars, svgBar{node: n, row: ranks[n.Name] / 2})
		}
	}
	s.place(rows)
}

// place gives rows and bars their heights, and centers the rows.
func (s *svg) place(rows int) {
	for i := range s.bars { // room for the networks' names
		s.wide = max(s.wide, float64(utf8.RuneCountInString(s.title(s.bars[i].node)))*svgChar)
	}
	y := float64(svgMargin + svgTitle)
	for row := range rows {
		high, width := 0.0, -float64(svgGap)
		for _, b := range s.boxes {
			if b.row == row {
				high, width = max(high, b.h), width+b.w+svgGap
			}
		}
		for i := range s.boxes {
			if b := &s.boxes[i]; b.row == row {
				b.x, b.y, b.h = b.x+svgMargin+(s.wide-width)/2, y, high
			}
		}
		y += high + svgGap
		for i := range s.bars {
			if s.bars[i].row == row {
				s.bars[i].y = y + svgLane/2
				y += svgLane
			}
		}
		y += svgGap
	}
	s.high = y
}

func (s *svg) title(n Node) string { return strings.Join(s.lines(n), "   ") }

func (s *svg) render() string {
	var b strings.Builder
	w, h := s.wide+2*svgMargin, s.high
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0[1]f" height="%.0[2]f" viewBox="0 0 %.0[1]f %.0[2]f" role="img" xml:space="preserve">`+"\n", w, h)
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(s.Title))
	b.WriteString(`<style>text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#111;white-space:pre}.t{font:bold 15px sans-serif}.n{font-weight:bold}` +
		`.l{fill:#444;stroke:#fff;stroke-width:4;paint-order:stroke}line{stroke:#888;stroke-width:1.5}.bar{stroke:#555;stroke-width:4;stroke-linecap:round}rect{stroke:#555}</style>` + "\n")
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff" style="stroke:none"/>`+"\n")
	fmt.Fprintf(&b, `<text class="t" x="%d" y="%d">%s</text>`+"\n", svgMargin, svgMargin+8, html.EscapeString(s.Title))
	s.renderWires(&b)
	for _, bar := range s.bars {
		fmt.Fprintf(&b, `<line class="bar" x1="%d" y1="%.1[2]f" x2="%.1[3]f" y2="%.1[2]f"/>`+"\n", svgMargin, bar.y, svgMargin+s.wide)
		fmt.Fprintf(&b, `<text class="l" x="%d" y="%.1f">%s</text>`+"\n", svgMargin, bar.y-7, html.EscapeString(s.title(bar.node)))
	}
	for i := range s.boxes {
		s.renderBox(&b, &s.boxes[i])
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (s *svg) renderBox(b *strings.Builder, box *svgBox) {
	fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="6" fill="%s"/>`+"\n", box.x, box.y, box.w, box.h, fills[s.role(box.node)])
	for i, line := range box.lines {
		class := ""
		if i == 0 {
			class = ` class="n"`
		}
		fmt.Fprintf(b, `<text%s x="%.1f" y="%.1f">%s</text>`+"\n", class, box.x+svgPad, box.y+svgPad+10+float64(i*svgLine), html.EscapeString(line))
	}
}

// renderWires draws links, behind everything else: straight down from a box to its network, up from it, or between two boxes.
func (s *svg) renderWires(b *strings.Builder) {
	taken := make(map[string]int) // wires of each box so far, which are drawn side by side
	for _, l := range s.Links {
		a, z := s.box(l.A.Node), s.box(l.B.Node)
		if a != nil && z != nil {
			fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", a.center(), a.y+a.h/2, z.center(), z.y+z.h/2)
			continue
		}
		if a == nil {
			a = z
		}
		for _, bar := range s.bars {
			if a != nil && (bar.node.Name == l.A.Node || bar.node.Name == l.B.Node) {
				x := a.center() + float64(taken[a.node.Name]*10)
				taken[a.node.Name]++
				fmt.Fprintf(b, `<line x1="%.1[1]f" y1="%.1[2]f" x2="%.1[1]f" y2="%.1[3]f"/>`+"\n", x, a.y+a.h/2, bar.y)
			}
		}
	}
}

func (s *svg) box(name string) *svgBox {
	if i := slices.IndexFunc(s.boxes, func(b svgBox) bool { return b.node.Name == name }); i >= 0 {
		return &s.boxes[i]
	}
	return nil
}
