package config

import (
	"fmt"
	"slices"
)

// boxPort is the first port that is an interface of the box's own; nil if there is none.
func (d *decoder) boxPort() *port {
	i := slices.IndexFunc(d.ports, func(p port) bool { return p.Box() })
	if i < 0 {
		return nil
	}
	return &d.ports[i]
}

// boxTUN says whether the box's own kernel leads packets to tunlb.
func (d *decoder) boxTUN() bool {
	return slices.ContainsFunc(d.ports, func(p port) bool { return p.Type == TUN && p.NetNS == "" })
}

// checkBoxPorts keeps the interfaces of the box's own apart from ports on which tunlb is another host than the box, or a
// router with routes of its own: what is for a service comes, and goes, by the box alone. A TUN on the box is no other host.
func (d *decoder) checkBoxPorts() {
	box := d.boxPort()
	if box == nil {
		return
	}
	for i := range d.ports {
		p := &d.ports[i]
		beside := fmt.Sprintf("beside port %q in line %d, an interface of the box's own", box.Name, box.at.line)
		switch {
		case p.Type == TUN && p.NetNS != "":
			d.fail(p.at, fmt.Sprintf("port %q with netns %s", p.Name, beside), "packets go by the routes of the box's kernel there, and by tunlb's own here", "remove netns, or write two files for two daemons")
		case p.Ethernet():
			d.fail(p.at, fmt.Sprintf("port %q of a segment %s", p.Name, beside), "tunlb is the box itself there, and a host of its own here",
				fmt.Sprintf("write addresses for port %q, too, or remove it", box.Name))
		}
	}
	if len(d.gateways) > 0 && !d.boxTUN() && !d.badPorts {
		d.fail(d.gateways[0].at, "gateway without a TUN", fmt.Sprintf("port %q takes what is for services, and nothing of what the servers send on their own account", box.Name),
			"write {name: tunlb0, type: tun, addresses: [10.255.0.1/30]} as a further port, or remove the key")
	}
}
