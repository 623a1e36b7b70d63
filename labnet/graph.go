package labnet

import (
	"fmt"
	"slices"
	"strings"
)

// Picture is a topology to be shown: by Draw in characters, or in the languages of programs that draw. A plain value.
type Picture struct {
	Topology
	Title    string
	Director string // the node that balances; "" if none does
}

// role is what a node is in a picture.
type role int

const (
	client role = iota
	director
	real
	segmentNode
)

func (p *Picture) role(n Node) role {
	switch {
	case n.Switch:
		return segmentNode
	case n.Name == p.Director:
		return director
	case len(n.Services) > 0:
		return real
	}
	return client
}

// DOT is the picture in the language of Graphviz.
func (p *Picture) DOT() string {
	var b strings.Builder
	fmt.Fprintf(&b, "graph %s {\n\tlabel=%[1]s; labelloc=t; fontname=\"sans-serif\"\n", dotQuote(p.Title))
	b.WriteString("\tnode [fontname=\"monospace\", fontsize=10, style=filled]\n\tedge [fontname=\"monospace\", fontsize=9, color=\"#888888\"]\n")
	for i, n := range p.Nodes {
		look := "shape=box, fillcolor=" + dotQuote(fills[p.role(n)])
		if n.Switch {
			look = "shape=ellipse, fillcolor=" + dotQuote(fills[segmentNode])
		}
		// \l ends a line and puts it to the left.
		var label strings.Builder
		for _, line := range p.lines(n) {
			label.WriteString(dotEscape(line) + `\l`)
		}
		text := label.String()
		if n.Switch {
			text = strings.ReplaceAll(strings.TrimSuffix(text, `\l`), `\l`, `\n`)
		}
		fmt.Fprintf(&b, "\tn%d [label=\"%s\", %s]\n", i, text, look)
	}
	for _, l := range p.ordered() {
		fmt.Fprintf(&b, "\tn%d -- n%d [label=%s]\n", p.index(l.A.Node), p.index(l.B.Node), dotQuote(p.wire(l)))
	}
	b.WriteString("}\n")
	return b.String()
}

// Mermaid is the picture in the language that forges show in Markdown.
func (p *Picture) Mermaid() string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\ntitle: %q\n---\nflowchart TB\n", p.Title)
	for i, n := range p.Nodes {
		lines := p.lines(n)
		for k := range lines {
			lines[k] = mermaidEscape(strings.Join(strings.Fields(lines[k]), " "))
		}
		open, end := "[", "]"
		if n.Switch {
			open, end = "([", "])"
		}
		fmt.Fprintf(&b, "    n%d%s\"%s\"%s:::%s\n", i, open, strings.Join(lines, "<br/>"), end, classes[p.role(n)])
	}
	for _, l := range p.ordered() {
		wire := "---"
		if text := p.wire(l); text != "" {
			wire = `---|"` + mermaidEscape(text) + `"|`
		}
		fmt.Fprintf(&b, "    n%d %s n%d\n", p.index(l.A.Node), wire, p.index(l.B.Node))
	}
	for r, class := range classes {
		fmt.Fprintf(&b, "    classDef %s fill:%s,stroke:#555555,color:#111111\n", class, fills[r])
	}
	return b.String()
}

// What the roles look like.
var (
	fills   = [...]string{client: "#dbeafe", director: "#fde68a", real: "#d1fae5", segmentNode: "#eeeeee"}
	classes = [...]string{client: "client", director: "director", real: "server", segmentNode: "network"}
)

// lines are a node's: a switch is the network that it makes, with the MTU of its links if that is not the usual one.
func (p *Picture) lines(n Node) []string {
	if !n.Switch {
		return describe(p.Topology, n)
	}
	lines := []string{n.Name}
	add := func(line string) {
		if line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, l := range p.Links {
		if l.A.Node != n.Name && l.B.Node != n.Name {
			continue
		}
		for _, prefix := range append(networks(l.A), networks(l.B)...) {
			add(prefix.String())
		}
		add(odd(l.MTU))
	}
	return append(lines, n.Note...)
}

// odd is an MTU that is worth saying.
func odd(mtu int) string {
	if mtu == 0 || mtu == 1500 {
		return ""
	}
	return fmt.Sprintf("mtu %d", mtu)
}

// wire says what is to be said of a link: the interfaces of hosts that have several, and its MTU if no network says it.
func (p *Picture) wire(l Link) string {
	var words []string
	direct := true
	for _, end := range [...]End{l.A, l.B} {
		n, _ := p.node(end.Node)
		if direct = direct && !n.Switch; !n.Switch && len(p.ends(end.Node)) > 1 {
			words = append(words, end.Interface)
		}
	}
	if mtu := odd(l.MTU); mtu != "" && direct {
		words = append(words, mtu)
	}
	return strings.Join(words, " ")
}

// ordered gives links with the end first that is to be above the other: who draws goes by it.
func (p *Picture) ordered() []Link {
	ranks := p.ranks()
	links := slices.Clone(p.Links)
	for i, l := range links {
		if ranks[l.A.Node] > ranks[l.B.Node] {
			links[i].A, links[i].B = l.B, l.A
		}
	}
	return links
}

// ranks count from above: two for each row of levels, with what no server is reached from below them, and a network right
// below its uppermost host.
func (p *Picture) ranks() map[string]int {
	ranks := make(map[string]int)
	rows := levels(p.Topology)
	for _, n := range p.Nodes {
		if !n.Switch {
			ranks[n.Name] = 2 * len(rows)
		}
	}
	for i, row := range rows {
		for _, name := range row {
			ranks[name] = 2 * i
		}
	}
	for _, n := range p.Nodes {
		if !n.Switch {
			continue
		}
		ranks[n.Name] = 2*len(rows) + 1
		for _, host := range p.members(n.Name) {
			ranks[n.Name] = min(ranks[n.Name], ranks[host]+1)
		}
	}
	return ranks
}

// members are the hosts on a network.
func (p *Picture) members(network string) (names []string) {
	for _, l := range p.Links {
		switch network {
		case l.A.Node:
			names = append(names, l.B.Node)
		case l.B.Node:
			names = append(names, l.A.Node)
		}
	}
	return names
}

func (p *Picture) index(name string) int {
	return slices.IndexFunc(p.Nodes, func(n Node) bool { return n.Name == name })
}

func dotEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s)
}

func dotQuote(s string) string { return `"` + dotEscape(s) + `"` }

// mermaidEscape writes what has a meaning there as entities, which begin with # instead of &.
func mermaidEscape(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "\n", " ").Replace(s)
}
