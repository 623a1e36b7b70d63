package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config/wording"
)

const maxGateways = 256

// gateway is a gateway with the places of what the checks compare.
type gateway struct {
	Gateway
	at, insideAt, masqueradeAt pos
}

func (d *decoder) decodeGateways(n *node) {
	if n.empty() {
		d.fail(n.at, `"gateway" has no items`, "there is nothing to masquerade", "write {inside: ..., masquerade: ...} or remove the key")
	}
	d.items(n, "gateway", maxGateways, d.decodeGateway)
}

func (d *decoder) decodeGateway(n *node) {
	g := gateway{at: n.at, insideAt: n.at, masqueradeAt: n.at}
	g.FirstPort, g.LastPort = DefaultFirstPort, DefaultLastPort
	ok := d.decode(n, "a gateway", []key{
		{name: "inside", decode: func(n *node) {
			g.insideAt = n.at
			if p, ok := d.prefix(n, "inside"); ok {
				g.Inside = p
			}
		}},
		{name: "masquerade", decode: func(n *node) { g.masqueradeAt = n.at; g.Masquerade = d.addr(n, "masquerade") }},
		{name: "ports", decode: func(n *node) { d.decodePortRange(n, &g) }},
	})
	if !ok {
		return
	}
	if n.field("inside") == nil {
		d.fail(n.at, `gateway without "inside"`, "it would translate nobody", "write inside: 192.168.0.0/24")
	}
	if n.field("masquerade") == nil {
		d.fail(n.at, `gateway without "masquerade"`, "the translated packets have no source", "write masquerade: IP")
	}
	d.gateways = append(d.gateways, g)
}

func (d *decoder) decodePortRange(n *node, g *gateway) {
	const instead = "write it like 61000-65535"
	if n.kind != text {
		d.fail(n.at, fmt.Sprintf(`"ports" is %s`, kindNames[n.kind]), "a range of ports is expected", instead)
		return
	}
	from, to, _ := strings.Cut(n.text, "-")
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	switch {
	case err1 != nil || err2 != nil:
		d.fail(n.at, fmt.Sprintf("ports %s is no range", wording.Quote(n.text)), "a range is two ports with - between them", instead)
	case first == 0:
		d.fail(n.at, fmt.Sprintf("ports %s has port 0", wording.Quote(n.text)), "no connection has it", instead)
	case last == 65535:
		d.fail(n.at, fmt.Sprintf("ports %s has port 65535", wording.Quote(n.text)), "the kernel's policy rules take none above 65534", fmt.Sprintf("write %d-65534", min(first, 65534)))
	case first > last:
		d.fail(n.at, fmt.Sprintf("ports %s runs backwards", wording.Quote(n.text)), "the lower port comes first", fmt.Sprintf("write %d-%d", last, first))
	default:
		g.FirstPort, g.LastPort = uint16(first), uint16(last)
	}
}
