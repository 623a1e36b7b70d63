package labnet

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Draw pictures a topology: hosts as boxes, in rows from the clients (hosts that neither forward
// nor serve) downwards, and the networks between the rows. It fits networks that are made of
// such rows, as the story's is.
func Draw(t Topology) string {
	names := levels(t)
	rows := make([]row, len(names))
	wide := 0
	for i := range names {
		rows[i] = newRow(t, names[i])
		wide = max(wide, utf8.RuneCountInString(rows[i].lines[0]))
	}
	var picture []string
	for i := range rows {
		rows[i].shift((wide - utf8.RuneCountInString(rows[i].lines[0])) / 2)
		if i > 0 {
			rows[i-1].joint(len(rows[i-1].lines)-1, '┬')
			rows[i].joint(0, '┴')
		}
	}
	for i, r := range rows {
		if i > 0 {
			picture = append(picture, wires(rows[i-1].centers, r.centers, label(t, names[i-1], names[i]))...)
		}
		picture = append(picture, r.lines...)
	}
	for i, line := range picture {
		picture[i] = strings.TrimRight(line, " ") + "\n"
	}
	return strings.Join(picture, "")
}

// row is boxes beside each other.
type row struct {
	lines   []string // of equal width
	centers []int    // columns at which wires meet the boxes
}

func newRow(t Topology, names []string) (r row) {
	var boxes [][]string
	high, column := 0, 0
	for _, name := range names {
		b := box(t, name)
		boxes = append(boxes, b)
		high = max(high, len(b))
	}
	r.lines = make([]string, high)
	for i, b := range boxes {
		wide := utf8.RuneCountInString(b[0])
		r.centers = append(r.centers, column+wide/2)
		column += wide + 1
		for k := range r.lines {
			if i > 0 {
				r.lines[k] += " "
			}
			switch {
			case k < len(b)-1:
				r.lines[k] += b[k]
			case k < high-1: // a lower box than its neighbours
				r.lines[k] += "│" + strings.Repeat(" ", wide-2) + "│"
			default:
				r.lines[k] += b[len(b)-1]
			}
		}
	}
	return r
}

func (r *row) shift(n int) {
	for i := range r.lines {
		r.lines[i] = strings.Repeat(" ", n) + r.lines[i]
	}
	for i := range r.centers {
		r.centers[i] += n
	}
}

// joint marks where wires leave the boxes.
func (r *row) joint(line int, mark rune) {
	runes := []rune(r.lines[line])
	for _, c := range r.centers {
		runes[c] = mark
	}
	r.lines[line] = string(runes)
}

// wires draws what joins two rows: one wire, or a bus that all boxes hang on.
func wires(above, below []int, label string) []string {
	drops := func(columns []int) []rune {
		line := []rune(strings.Repeat(" ", columns[len(columns)-1]+1))
		for _, c := range columns {
			line[c] = '│'
		}
		return line
	}
	top := string(drops(above)) + " " + label
	if len(above) == 1 && slices.Equal(above, below) {
		return []string{top}
	}
	left, right := min(above[0], below[0]), max(above[len(above)-1], below[len(below)-1])
	bus := []rune(strings.Repeat(" ", left) + strings.Repeat("─", right-left+1))
	for c := left; c <= right; c++ {
		up, down := slices.Contains(above, c), slices.Contains(below, c)
		if !up && !down {
			continue
		}
		// Which of the four neighbours are joined: left, right, up, down.
		bus[c] = map[[4]bool]rune{
			{true, true, true, false}: '┴', {true, true, false, true}: '┬', {true, true, true, true}: '┼',
			{false, true, true, false}: '└', {false, true, false, true}: '┌', {false, true, true, true}: '├',
			{true, false, true, false}: '┘', {true, false, false, true}: '┐', {true, false, true, true}: '┤',
		}[[4]bool{c > left, c < right, up, down}]
	}
	return []string{top, string(bus), string(drops(below))}
}

// levels sorts the hosts by their distance from the clients. A switch adds none: all that hang
// on it are one step apart.
func levels(t Topology) [][]string {
	var row []string
	seen := make(map[string]bool)
	for _, n := range t.Nodes {
		if !n.Switch && !n.Forward && len(n.Services) == 0 {
			row = append(row, n.Name)
			seen[n.Name] = true
		}
	}
	var rows [][]string
	for len(row) > 0 {
		rows = append(rows, row)
		var next []string
		for _, name := range row {
			for _, peer := range neighbours(t, name) {
				if !seen[peer] {
					next = append(next, peer)
					seen[peer] = true
				}
			}
		}
		row = next
	}
	return rows
}

// neighbours are the hosts that a host reaches directly or through one switch.
func neighbours(t Topology, name string) []string {
	var found []string
	for _, l := range t.Links {
		peer := l.A.Node
		switch name {
		case l.A.Node:
			peer = l.B.Node
		case l.B.Node:
		default:
			continue
		}
		n, _ := t.node(peer)
		if !n.Switch {
			found = append(found, peer)
			continue
		}
		for _, l := range t.Links {
			switch peer {
			case l.A.Node:
				found = append(found, l.B.Node)
			case l.B.Node:
				found = append(found, l.A.Node)
			}
		}
	}
	return slices.DeleteFunc(found, func(n string) bool { return n == name })
}

// label names what lies between two rows: the networks that both are in, the switch if there is
// one, and a narrow link's MTU.
func label(t Topology, upper, lower []string) string {
	var words []string
	add := func(w string) {
		if !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	networks := make(map[netip.Prefix]bool)
	for _, name := range lower {
		for _, end := range t.ends(name) {
			for _, p := range end.Addresses {
				networks[p.Masked()] = true
			}
		}
	}
	for _, l := range t.Links {
		for _, ends := range [...][2]End{{l.A, l.B}, {l.B, l.A}} {
			if !slices.Contains(upper, ends[0].Node) {
				continue
			}
			shared := false
			for _, p := range ends[0].Addresses {
				if networks[p.Masked()] {
					add(p.Masked().String())
					shared = true
				}
			}
			if n, _ := t.node(ends[1].Node); shared && n.Switch {
				add("switch " + n.Name)
			}
			if shared && l.MTU != 0 && l.MTU != 1500 {
				add("mtu " + strconv.Itoa(l.MTU))
			}
		}
	}
	return strings.Join(words, "  ")
}

// box draws a host: its name, its addresses, where its default route leads.
func box(t Topology, name string) []string {
	n, _ := t.node(name)
	title := n.Name
	if n.Forward {
		title += " (forwards)"
	}
	lines := []string{title}
	for _, end := range t.ends(name) {
		head := end.Interface
		for _, p := range end.Addresses {
			lines = append(lines, pad(head, 4)+" "+p.Addr().String())
			head = ""
		}
	}
	for _, r := range n.Routes {
		if r.To.Bits() == 0 && r.To.Addr().Is4() {
			lines = append(lines, "gateway "+r.Via.String())
		}
	}
	lines = append(lines, n.Note...)
	wide := 0
	for _, l := range lines {
		wide = max(wide, utf8.RuneCountInString(l))
	}
	drawn := []string{"┌" + strings.Repeat("─", wide+2) + "┐"}
	for _, l := range lines {
		drawn = append(drawn, "│ "+pad(l, wide)+" │")
	}
	return append(drawn, "└"+strings.Repeat("─", wide+2)+"┘")
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}
