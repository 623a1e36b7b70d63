package main

import (
	"errors"
	"net/netip"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb"
)

// demoDirect balances by direct routing, and the same servers by translation for comparison.
const demoDirect = `services:
  - name: web
    listen: 203.0.113.22:80/tcp
    mode: dr
    scheduler: rr
    servers: [203.0.113.10, 203.0.113.11, 203.0.113.12]
  - name: weighted
    listen: 203.0.113.22:8080/tcp
    mode: dr
    scheduler: wrr
    servers: [{address: 203.0.113.10, weight: 3}, {address: 203.0.113.11, weight: 2}, {address: 203.0.113.12}]
  - name: web6
    listen: "[2001:db8:113::22]:80/tcp"
    mode: dr
    scheduler: rr
    servers: ["2001:db8:113::10", "2001:db8:113::11", "2001:db8:113::12"]
  - name: translated
    listen: 203.0.113.22:8000/tcp
    mode: nat
    scheduler: rr
    servers: [203.0.113.10:80, 203.0.113.11:80, 203.0.113.12:80]
`

// demoOneArm and demoInline are the two shapes.
const (
	demoOneArm = `ports:
  - {name: tap0, type: tap, bridge: br0, addresses: [203.0.113.2/24, "2001:db8:113::2/64"]}
` + demoDirect
	demoInline = `ports:
  - {name: tap0, type: tap, bridge: clients, side: clients, addresses: [203.0.113.2/24, "2001:db8:113::2/64"]}
  - {name: tap1, type: tap, bridge: servers, side: servers}
` + demoDirect
)

// dr is the story's second network, in both of its shapes.
func (d *demo) dr() error {
	if err := d.oneArm(); err != nil {
		return err
	}
	return d.inline()
}

// oneArm has tunlb on the segment that clients and servers share, and servers that were told to be quiet.
func (d *demo) oneArm() error {
	end := d.stage(labnet.DR(labnet.DROptions{Quiet: true, NoOffload: true}),
		"One-arm. All are on one segment, and lb and the servers all have the VIP; only lb answers for it.", demoOneArm)
	if d.err != nil {
		return end(d.err)
	}
	d.say("\nRequests from the client, one connection each:\n")
	points := d.watch(func() { d.requests("round robin", "http://203.0.113.22/", 6) },
		hop{"client", "eth0"}, hop{"lb", "tap0"}, hop{"rs1", "eth0"}, hop{"rs2", "eth0"}, hop{"rs3", "eth0"})
	d.requests("weighted round robin, 3:2:1", "http://203.0.113.22:8080/", 12)
	d.requests("round robin, IPv6", "http://[2001:db8:113::22]/", 6)

	d.say("\nThe way of the first request and of its answer:\n\n")
	if journey, names := d.trace(points), d.names(); d.err == nil {
		d.err = journey.Frames(d.out, names, colours(d.out))
	}
	d.say("\nHow the client has found lb, and nobody else:\n\n")
	d.conversation(points, 2)
	d.account()
	d.say("\nWhat lb says (tunlb status):\n\n")
	d.status()
	return end(d.err)
}

// names are the stations' by MAC, with tunlb's own among them.
func (d *demo) names() map[labnet.MAC]string {
	if d.err != nil {
		return nil
	}
	names, err := d.lab.Names()
	if segment := d.segment(); d.err == nil {
		if d.err = err; err == nil {
			names[labnet.MAC(segment.MAC)] = "lb"
		}
	}
	return names
}

func (d *demo) segment() (s tunlb.SegmentStatus) {
	switch segments := d.ask().Segments; {
	case len(segments) == 1:
		s = segments[0]
	case d.err == nil:
		d.err = errors.New("tunlb is on no segment")
	}
	return s
}

// conversation prints who asked for the VIP and who claimed it, from what was captured at the client, which is
// the first point, and at the servers.
func (d *demo) conversation(points []labnet.Point, servers int) {
	names := d.names()
	if d.err == nil {
		d.err = labnet.Conversation(points[:1], points[servers:], names, netip.MustParseAddr(labnet.VIP)).Table(d.out, colours(d.out))
	}
}

// account downloads the same by translation and by direct routing, and tells what passed lb.
func (d *demo) account() {
	const files, each = 6, 4 << 20
	d.say("\nWhat passes lb when %d files of %s are downloaded:\n\n", files, size(each))
	t := newTable(d.out, "MODE", "TO LB", "FROM LB", "PER BYTE DELIVERED")
	for _, way := range []struct{ mode, url string }{
		{"nat", "http://203.0.113.22:8000/bytes/4194304"}, {"dr", "http://203.0.113.22/bytes/4194304"},
	} {
		before := d.passed()
		for range files {
			d.get(way.url)
		}
		after := d.passed()
		in, out := after.RxBytes-before.RxBytes, after.TxBytes-before.TxBytes
		t.row(way.mode, size(in), size(out), ratio(in+out, files*each))
	}
	if d.err == nil {
		d.err = t.flush()
	}
}

// passed is what has passed tunlb's port so far.
func (d *demo) passed() (p tunlb.PortStatus) {
	if ports := d.ask().Ports; d.err == nil {
		p = ports[0]
	}
	return p
}

// inline has tunlb between clients and servers, and servers as they come: nobody told them to be quiet.
func (d *demo) inline() error {
	end := d.stage(labnet.DR(labnet.DROptions{Shape: labnet.Inline, VIPOn: "eth0", NoOffload: true}),
		"\nInline. lb is the switch between clients and servers. These have the VIP on eth0, and no sysctl keeps\nthem from claiming it; lb does.", demoInline)
	if d.err != nil {
		return end(d.err)
	}
	d.say("\nRequests from the client, one connection each:\n")
	points := d.watch(func() { d.requests("round robin", "http://203.0.113.22/", 6) },
		hop{"client", "eth0"}, hop{"rs1", "eth0"}, hop{"rs2", "eth0"}, hop{"rs3", "eth0"})
	d.say("\nWho has asked for the VIP, or in its name, and who was suppressed:\n\n")
	d.conversation(points, 1)
	if n, ok, err := d.lab.NS("client").Neighbour(netip.MustParseAddr(labnet.VIP)); d.err == nil {
		d.err = err
		if ok {
			d.say("\nThe client believes %s to be at %s, which is lb (%s).\n", n.Address, n.MAC, d.segment().MAC)
		}
	}
	return end(d.err)
}
