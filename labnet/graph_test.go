package labnet

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// evil has in its names what means something in each of the languages.
func evil() *Picture {
	return &Picture{
		Title:    `a "lab" & <more> \ end`,
		Director: "lb",
		Topology: Topology{
			Nodes: []Node{
				{Name: `net "1" <x>`, Switch: true},
				{Name: `c"l\ient`, Note: []string{"a & b", "c --> d; %% e"}},
				{Name: "lb", Forward: true},
				{Name: "<rs1>", Services: DefaultServices()},
				{Name: "alone"},
			},
			Links: []Link{
				{A: End{`c"l\ient`, "eth0", nil}, B: End{`net "1" <x>`, "p0", nil}, MTU: 1280},
				{A: End{"lb", "eth0", nil}, B: End{`net "1" <x>`, "p1", nil}},
				{A: End{"lb", "eth1", nil}, B: End{"<rs1>", "eth0", nil}, MTU: 9000},
			},
		},
	}
}

func TestPictureEscapes(t *testing.T) {
	p := evil()
	svg := p.SVG()
	d := xml.NewDecoder(strings.NewReader(svg))
	var texts []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v\n%s", err, svg)
		}
		if s, ok := token.(xml.CharData); ok {
			texts = append(texts, string(s))
		}
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{p.Title, `c"l\ient`, "<rs1>", "alone", "a & b", `net "1" <x>`} {
		if !strings.Contains(all, want) {
			t.Errorf("SVG does not show %q", want)
		}
	}
	for _, want := range []string{`graph "a \"lab\" & <more> \\ end" {`, `label="c\"l\\ient\l`, `n3 [label="<rs1>`, `n2 -- n3 [label="eth1 mtu 9000"]`, `n1 -- n0 [label=""]`, `net \"1\" <x>\nmtu 1280`} {
		if got := p.DOT(); !strings.Contains(got, want) {
			t.Errorf("DOT has no %s:\n%s", want, got)
		}
	}
	for _, want := range []string{`n1["c#quot;l\ient<br/>`, `n3["#lt;rs1#gt;`, "a #amp; b", `n2 ---|"eth1 mtu 9000"| n3`, "<br/>mtu 1280"} {
		if got := p.Mermaid(); !strings.Contains(got, want) {
			t.Errorf("Mermaid has no %s:\n%s", want, got)
		}
	}
}

// TestPictureBraces: every statement of DOT has as many quotes as it opens.
func TestPictureBraces(t *testing.T) {
	for line := range strings.Lines(evil().DOT()) {
		quotes := strings.Count(strings.NewReplacer(`\\`, "", `\"`, "").Replace(line), `"`)
		if quotes%2 != 0 {
			t.Errorf("odd quotes: %s", line)
		}
	}
}

// TestPictureRows: clients above their network, that above the director, servers at the bottom, strangers below.
func TestPictureRows(t *testing.T) {
	ranks := evil().ranks()
	order := []string{`c"l\ient`, `net "1" <x>`, "lb", "<rs1>", "alone"}
	for i, name := range order[1:] {
		if ranks[order[i]] >= ranks[name] {
			t.Errorf("%q at %d is not above %q at %d", order[i], ranks[order[i]], name, ranks[name])
		}
	}
}

// TestPictureWires: each leads from inside a box to a network's bar, or to another box.
func TestPictureWires(t *testing.T) {
	type line struct {
		X1    float64 `xml:"x1,attr"`
		Y1    float64 `xml:"y1,attr"`
		X2    float64 `xml:"x2,attr"`
		Y2    float64 `xml:"y2,attr"`
		Class string  `xml:"class,attr"`
	}
	var picture struct {
		Lines []line `xml:"line"`
		Boxes []struct {
			X float64 `xml:"x,attr"`
			Y float64 `xml:"y,attr"`
			W string  `xml:"width,attr"`
			H string  `xml:"height,attr"`
		} `xml:"rect"`
	}
	p := evil()
	if err := xml.Unmarshal([]byte(p.SVG()), &picture); err != nil {
		t.Fatal(err)
	}
	inBox := func(x, y float64) bool {
		for _, b := range picture.Boxes[1:] { // behind all is the paper
			w, errW := strconv.ParseFloat(b.W, 64)
			h, errH := strconv.ParseFloat(b.H, 64)
			if errW == nil && errH == nil && b.X <= x && x <= b.X+w && b.Y <= y && y <= b.Y+h {
				return true
			}
		}
		return false
	}
	onBar := func(x, y float64) bool {
		return slices.ContainsFunc(picture.Lines, func(l line) bool { return l.Class == "bar" && l.Y1 == y && l.Y2 == y && l.X1 <= x && x <= l.X2 })
	}
	wires := 0
	for _, l := range picture.Lines {
		if l.Class == "bar" {
			continue
		}
		if wires++; !inBox(l.X1, l.Y1) || !onBar(l.X2, l.Y2) && !inBox(l.X2, l.Y2) || l.Y1 == l.Y2 {
			t.Errorf("wire %+v leads nowhere", l)
		}
	}
	if len(picture.Boxes) != 1+4 || wires != len(p.Links) {
		t.Errorf("%d boxes, %d wires for %d links", len(picture.Boxes)-1, wires, len(p.Links))
	}
}
