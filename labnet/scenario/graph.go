package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// Formats are what Graph can make.
func Formats() []string { return []string{"ascii", "dot", "mermaid", "svg"} }

// Graph is a picture of a lab in one of Formats.
func Graph(f *File, format string) (string, error) {
	p := picture(f)
	switch format {
	case "ascii":
		return labnet.Draw(p.Topology), nil
	case "dot":
		return p.DOT(), nil
	case "mermaid":
		return p.Mermaid(), nil
	case "svg":
		return p.SVG(), nil
	}
	return "", fmt.Errorf("unknown format %s: %s", wording.Quote(format), wording.Suggest(format, Formats()))
}

// picture shows networks as switches, named by what their links do as well.
func picture(f *File) *labnet.Picture {
	p := &labnet.Picture{Title: f.Name, Director: f.Director.Name}
	names := make(map[string]string)
	for _, n := range f.Networks {
		names[n.Name] = n.Name
		if n.Link != (Impairment{}) {
			names[n.Name] += " (" + n.Link.String() + ")"
		}
		p.Nodes = append(p.Nodes, labnet.Node{Name: names[n.Name], Switch: true})
	}
	attach := func(host, prefix string, attachments []Attachment) {
		for i, a := range attachments {
			n, _ := f.Network(a.Network)
			p.Links = append(p.Links, labnet.Link{
				A:   labnet.End{Node: host, Interface: fmt.Sprintf("%s%d", prefix, i), Addresses: a.Addresses},
				B:   labnet.End{Node: names[a.Network], Interface: host},
				MTU: n.MTU,
			})
		}
	}
	d := &f.Director
	node, prefix := labnet.Node{Name: d.Name, Forward: true}, "eth"
	if d.Port == "tap" {
		node.Forward, prefix = false, "tap"
	}
	node.Note = append(linkNotes(f, d.Attachments, prefix), vipNotes(d)...)
	p.Nodes = append(p.Nodes, node)
	attach(d.Name, prefix, d.Attachments)
	for _, h := range f.Hosts {
		n := labnet.Node{Name: h.Name, Loopback: h.Loopback}
		for _, g := range h.Gateways {
			n.Routes = append(n.Routes, labnet.Route{To: netip.PrefixFrom(g, 0).Masked(), Via: g})
		}
		n.Note = linkNotes(f, h.Attachments, "eth")
		for _, s := range h.Services {
			n.Services = append(n.Services, s.Service)
			note := fmt.Sprintf("%s %d", s.Kind, s.Port)
			if s.Behaviour != (Behaviour{}) {
				note += ", " + behaviourText(s.Behaviour)
			}
			n.Note = append(n.Note, note)
		}
		p.Nodes = append(p.Nodes, n)
		attach(h.Name, "eth", h.Attachments)
	}
	return p
}

// linkNotes say what links do that is not what their whole network does.
func linkNotes(f *File, attachments []Attachment, prefix string) (notes []string) {
	for i, a := range attachments {
		if n, _ := f.Network(a.Network); a.Link != n.Link {
			notes = append(notes, fmt.Sprintf("%s%d %s", prefix, i, a.Link))
		}
	}
	return notes
}

// vipNotes list the director's VIPs. Parse has read its configuration before.
func vipNotes(d *Director) (notes []string) {
	cfg, err := config.Parse(d.Name, []byte(d.With(d.Ports(nil))))
	if err != nil {
		return nil
	}
	var vips []string
	for _, s := range cfg.Services {
		for _, l := range s.Listen {
			if vip := l.Addr.String(); !slices.Contains(vips, vip) {
				vips = append(vips, vip)
			}
		}
	}
	word := "VIP"
	for _, vip := range vips {
		notes = append(notes, strings.TrimRight(fmt.Sprintf("%-4s %s", word, vip), " "))
		word = ""
	}
	return notes
}
