package labnet

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Draw pictures a topology: hosts as boxes, in rows from the servers (at the bottom) to what is
// farthest from them, and the networks between the rows. It fits networks that are made of such
// rows, as the story's are. A host alone in its row that holds bridges is drawn as wide as the
// picture, with a wire for each port.
func Draw(t Topology) string {
	names := levels(t)
	rows := make([]row, len(names))
	wide := 0
	for i := range names {
		rows[i] = newRow(t, names[i], 0)
		wide = max(wide, utf8.RuneCountInString(rows[i].lines[0]))
	}
	for i := range names {
		if chassis(t, names[i]) {
			rows[i] = newRow(t, names[i], wide)
		}
		rows[i].shift((wide - utf8.RuneCountInString(rows[i].lines[0])) / 2)
	}
	var picture []string
	for i, r := range rows {
		if i > 0 {
			ties := tiesOf(t, names[i-1], names[i])
			above, below := rows[i-1].columns(names[i-1], ties), r.columns(names[i], ties)
			straight := true
			switch {
			case chassis(t, names[i]):
				below = above
			case chassis(t, names[i-1]):
				above = below
			default:
				straight = len(above) == 1 && slices.Equal(above, below)
			}
			joint(picture, len(picture)-1, above, '┬')
			joint(r.lines, 0, below, '┴')
			picture = append(picture, wires(above, below, straight, label(ties))...)
		}
		picture = append(picture, r.lines...)
	}
	for i, line := range picture {
		picture[i] = strings.TrimRight(line, " ") + "\n"
	}
	return strings.Join(picture, "")
}

// chassis tells whether a row is one host that holds bridges.
func chassis(t Topology, names []string) bool {
	n, _ := t.node(names[0])
	return len(names) == 1 && len(n.Bridges) > 0
}

// row is boxes beside each other.
type row struct {
	lines   []string // of equal width
	centers []int    // of the boxes: columns at which wires meet them
}

// newRow makes boxes of at least that width.
func newRow(t Topology, names []string, wide int) (r row) {
	var boxes [][]string
	high, column := 0, 0
	for _, name := range names {
		b := box(t, name, wide)
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

// columns are those of the boxes that a tie leads to.
func (r *row) columns(names []string, ties []tie) []int {
	var columns []int
	for i, name := range names {
		if slices.ContainsFunc(ties, func(t tie) bool { return t.upper.Node == name || t.lower.Node == name }) {
			columns = append(columns, r.centers[i])
		}
	}
	return columns
}

// joint marks where wires leave the boxes.
func joint(lines []string, line int, columns []int, mark rune) {
	runes := []rune(lines[line])
	for _, c := range columns {
		runes[c] = mark
	}
	lines[line] = string(runes)
}

// wires draws what joins two rows: straight wires, or a bus that all boxes hang on.
func wires(above, below []int, straight bool, label string) []string {
	drops := func(columns []int) []rune {
		line := []rune(strings.Repeat(" ", columns[len(columns)-1]+1))
		for _, c := range columns {
			line[c] = '│'
		}
		return line
	}
	top := string(drops(above)) + " " + label
	if straight {
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

// levels sorts the hosts by their distance from those that serve, the farthest first. A switch
// adds none: all that hang on it are one step apart.
func levels(t Topology) [][]string {
	var row []string
	seen := make(map[string]bool)
	for _, n := range t.Nodes {
		if len(n.Services) > 0 {
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
	slices.Reverse(rows)
	return rows
}

// tie is a way between two hosts, directly or through one switch.
type tie struct {
	upper, lower End
	via          string // the switch, if there is one
	mtu          int    // of the upper host's link
}

// tiesFrom are the ties that a host has.
func tiesFrom(t Topology, name string) []tie {
	type hop struct {
		near, far End
		mtu       int
	}
	hops := func(node string) (found []hop) {
		for _, l := range t.Links {
			switch node {
			case l.A.Node:
				found = append(found, hop{l.A, l.B, l.MTU})
			case l.B.Node:
				found = append(found, hop{l.B, l.A, l.MTU})
			}
		}
		return found
	}
	var ties []tie
	for _, h := range hops(name) {
		if n, _ := t.node(h.far.Node); !n.Switch {
			ties = append(ties, tie{h.near, h.far, "", h.mtu})
			continue
		}
		for _, onward := range hops(h.far.Node) {
			if onward.far.Node != name {
				ties = append(ties, tie{h.near, onward.far, h.far.Node, h.mtu})
			}
		}
	}
	return ties
}

// neighbours are the hosts that a host is tied to.
func neighbours(t Topology, name string) []string {
	var found []string
	for _, tie := range tiesFrom(t, name) {
		found = append(found, tie.lower.Node)
	}
	return found
}

// tiesOf are those between two rows.
func tiesOf(t Topology, upper, lower []string) []tie {
	var ties []tie
	for _, name := range upper {
		for _, tie := range tiesFrom(t, name) {
			if slices.Contains(lower, tie.lower.Node) {
				ties = append(ties, tie)
			}
		}
	}
	return ties
}

// label names what lies between two rows: the networks that both are in, the switch if there is
// one, and a narrow link's MTU.
func label(ties []tie) string {
	var words []string
	add := func(w string) {
		if w != "" && !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	for _, tie := range ties {
		upper, lower := networks(tie.upper), networks(tie.lower)
		for _, p := range append(slices.Clone(upper), lower...) {
			// What has no address passes on what the other end is in.
			if (len(upper) == 0 || slices.Contains(upper, p)) && (len(lower) == 0 || slices.Contains(lower, p)) {
				add(p.String())
			}
		}
		if tie.via != "" {
			add("switch " + tie.via)
		}
		if tie.mtu != 0 && tie.mtu != 1500 {
			add("mtu " + strconv.Itoa(tie.mtu))
		}
	}
	return strings.Join(words, "  ")
}

func networks(e End) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range e.Addresses {
		if !p.IsSingleIP() {
			all = append(all, p.Masked())
		}
	}
	return all
}

// describe says what a host has, in lines: its name, its addresses, its bridges, where its default route leads.
func describe(t Topology, n Node) []string {
	title := n.Name
	if n.Forward {
		title += " (forwards)"
	}
	lines := []string{title}
	address := func(iface string, addresses []netip.Prefix) {
		for _, p := range addresses {
			lines = append(lines, pad(iface, 4)+" "+p.Addr().String())
			iface = ""
		}
	}
	for _, end := range t.ends(n.Name) {
		address(end.Interface, end.Addresses)
	}
	address("lo", n.Loopback)
	for _, b := range n.Bridges {
		lines = append(lines, "bridge "+b.Name+": "+strings.Join(b.Interfaces, " "))
	}
	for _, r := range n.Routes {
		if r.To.Bits() == 0 && r.To.Addr().Is4() {
			lines = append(lines, "gateway "+r.Via.String())
		}
	}
	return append(lines, n.Note...)
}

// box draws a host, at least that wide.
func box(t Topology, name string, wide int) []string {
	n, _ := t.node(name)
	lines := describe(t, n)
	wide -= 4 // the frame
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
