//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// panel is a part of the chart: bars for each subject.
type panel struct {
	title string
	bars  []string // metrics, in the order of the legend
	cost  bool     // figures of their own, not ratios; less is better
}

var panels = []panel{
	{title: "Bulk, one stream", bars: []string{"up", "down"}},
	{title: "Bulk, eight streams", bars: []string{"up8", "down8"}},
	{title: "HTTP requests on kept connections", bars: []string{"kept"}},
	{title: "New connections", bars: []string{"new"}},
	{title: "CPU seconds per GiB, one stream", bars: []string{"up s/GiB", "down s/GiB"}, cost: true},
}

// Measures of the chart, in pixels.
const (
	chartWidth  = 920
	chartMargin = 20
	panelGap    = 24
	panelWidth  = (chartWidth - 2*chartMargin - panelGap) / 2
	labelWidth  = 92
	valueWidth  = 62
	barsWidth   = panelWidth - labelWidth - valueWidth
	rowHeight   = 17
	panelHead   = 40
	chartHead   = 62
)

// chart draws the figures as SVG. It has a ground of its own, so that it can be read wherever it is shown, and follows the
// reader's choice of dark or light.
func (r record) chart() string {
	var body strings.Builder
	bottoms := [2]int{chartHead, chartHead} // of the two columns
	place := func(draw func(b *strings.Builder, x, y int) (height int)) {
		column := 0
		if bottoms[1] < bottoms[0] {
			column = 1
		}
		if height := draw(&body, chartMargin+column*(panelWidth+panelGap), bottoms[column]); height > 0 {
			bottoms[column] += height + panelGap
		}
	}
	for _, p := range panels {
		place(func(b *strings.Builder, x, y int) int { return p.draw(b, r, x, y) })
	}
	place(drawLegend)

	height := max(bottoms[0], bottoms[1])
	var b strings.Builder
	fmt.Fprintf(&b, chartOpening, chartWidth, height, chartWidth, height)
	fmt.Fprintf(&b, "<rect class=\"ground\" x=\"1\" y=\"1\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n", chartWidth-2, height-2)
	writeText(&b, "title", chartMargin, 30, "Throughput as a part of the kernel's own")
	writeText(&b, "note", chartMargin, 48, r.provenance())
	b.WriteString(body.String())
	b.WriteString("</svg>\n")
	return b.String()
}

func writeText(b *strings.Builder, class string, x, y int, text string) {
	text = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	fmt.Fprintf(b, "<text class=\"%s\" x=\"%d\" y=\"%d\">%s</text>\n", class, x, y, text)
}

// The colours are light or dark as the reader has chosen; 4.5:1 for text on either ground.
const chartOpening = `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>tunlb against others: throughput as a part of the kernel's own, and CPU time</title>
<style>
text { font: 11px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 } .head { font-size: 13px; font-weight: 600 }
.note { fill: #59636e } .label { text-anchor: end } .own { font-weight: 600 } .value { fill: #59636e }
.ground { fill: #ffffff; stroke: #d1d9e0 } .axis { stroke: #818b98; stroke-dasharray: 3 3 } .range { stroke: #1f2328; stroke-width: 1.2 }
.tunlb { fill: #0969da } .kernel { fill: #1a7f37 } .bare { fill: #a0a8b1 } .other { fill: #bc4c00 } .second { opacity: .6 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .note, .value { fill: #9198a1 }
.ground { fill: #0d1117; stroke: #3d444d } .axis { stroke: #9198a1 } .range { stroke: #f0f6fc }
.tunlb { fill: #4493f8 } .kernel { fill: #3fb950 } .bare { fill: #656c76 } .other { fill: #db6d28 }
}
</style>
`

func (r record) provenance() string {
	m := r.Machine
	return fmt.Sprintf("%d cores, %s, %s, TCP %s, %s; medians and ranges of %d rounds of %.3g s", m.Cores, m.CPU, m.Kernel, m.TCP, m.Date, r.Rounds, r.Seconds)
}

// class is the colour of a subject's bars.
func class(subject string) string {
	switch {
	case strings.HasPrefix(subject, "bare") || subject == "wireguard":
		return "bare"
	case strings.HasPrefix(subject, "tunlb") || strings.HasPrefix(subject, "dr"):
		return "tunlb"
	case subject == "direct" || subject == "nft" || subject == "bridge":
		return "kernel"
	}
	return "other"
}

// row is a subject's bars in a panel; nil where there is no figure.
type row struct {
	subject string
	bars    []*extent
}

func (p panel) rows(r record) []row {
	var rows []row
	for _, s := range allSubjects {
		line := row{subject: s.name}
		for _, key := range p.bars {
			f, ok := r.find(s.name, key)
			switch {
			case p.cost && ok:
				line.bars = append(line.bars, &f.extent)
			default:
				line.bars = append(line.bars, f.Ratio)
			}
		}
		if slices.ContainsFunc(line.bars, func(e *extent) bool { return e != nil }) {
			rows = append(rows, line)
		}
	}
	return rows
}

// scale is the value that fills a panel's width. A stray round of one subject does not make all bars short.
func scale(rows []row) float64 {
	most := 0.0
	for _, line := range rows {
		for _, e := range line.bars {
			if e != nil {
				most = max(most, 1.2*e.Median)
			}
		}
	}
	return most
}

// draw draws a panel whose left upper corner is at x, y. Without figures there is none.
func (p panel) draw(b *strings.Builder, r record, x, y int) (height int) {
	rows := p.rows(r)
	if len(rows) == 0 {
		return 0
	}
	full := scale(rows)
	if !p.cost {
		full = max(full, 1.1)
	}
	left := x + labelWidth
	at := func(v float64) float64 { return float64(left) + min(v/full, 1)*barsWidth }
	note := "1 is nft; on a segment (dr), the bridge"
	if p.cost {
		note = "of the subject's own processes; less is better"
	}
	if len(p.bars) == 2 {
		note += ". Up, and paler: down"
	}
	writeText(b, "head", x, y+12, p.title)
	writeText(b, "note", x, y+28, note)
	for i, line := range rows {
		line.draw(b, left, y+panelHead+i*rowHeight, at)
	}
	height = panelHead + len(rows)*rowHeight
	if !p.cost {
		fmt.Fprintf(b, "<path class=\"axis\" d=\"M%.1f %dV%d\"/>\n", at(1), y+panelHead-2, y+height)
	}
	return height
}

// draw draws a row's label, bars, ranges and medians. At is where a value ends.
func (line row) draw(b *strings.Builder, left, top int, at func(float64) float64) {
	colour, weight := class(line.subject), "label"
	if colour == "tunlb" {
		weight = "label own"
	}
	writeText(b, weight, left-6, top+12, line.subject)
	thick := (rowHeight - 4) / len(line.bars)
	var medians []string
	for n, e := range line.bars {
		if e == nil {
			continue
		}
		shade := colour
		if n > 0 {
			shade += " second"
		}
		y := top + 2 + n*thick
		middle := float64(y) + float64(thick)/2
		fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", shade, left, y, at(e.Median)-float64(left), thick)
		fmt.Fprintf(b, "<path class=\"range\" d=\"M%.1f %.1fH%.1f\"/>\n", at(e.Least), middle, at(e.Most))
		medians = append(medians, fmt.Sprintf("%.2f", e.Median))
	}
	writeText(b, "value", left+barsWidth+6, top+12, strings.Join(medians, " "))
}

func drawLegend(b *strings.Builder, x, y int) (height int) {
	legend := [...]struct{ class, text string }{
		{"tunlb", "tunlb"},
		{"bare", "loops without tables: what the way alone costs"},
		{"kernel", "the kernel alone"},
		{"other", "proxies"},
	}
	for i, l := range legend {
		top := y + i*rowHeight
		fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"12\" height=\"11\"/>\n", l.class, x, top+2)
		writeText(b, "note", x+20, top+12, l.text)
	}
	top := y + len(legend)*rowHeight
	fmt.Fprintf(b, "<path class=\"range\" d=\"M%d %dH%d\"/>\n", x, top+8, x+12)
	writeText(b, "note", x+20, top+12, "least to most of the rounds")
	return (len(legend) + 1) * rowHeight
}
