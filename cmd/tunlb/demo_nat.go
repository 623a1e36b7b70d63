package main

import "github.com/tunlb/tunlb/labnet"

// demoConfig is what the demo's tunlb runs with. Each scheduler has a service of its own.
const demoConfig = `services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: rr
    servers:
      - {name: rs1, address: 192.168.0.10:8080}
      - {name: rs2, address: 192.168.0.11:8080}
      - {name: rs3, address: 192.168.0.12:8080}
  - name: weighted
    listen: 203.0.113.22:8080/tcp
    scheduler: wrr
    servers:
      - {name: rs1, address: 192.168.0.10:8080, weight: 3}
      - {name: rs2, address: 192.168.0.11:8080, weight: 2}
      - {name: rs3, address: 192.168.0.12:8080, weight: 1}
  - name: web6
    listen: "[2001:db8:113::22]:80/tcp"
    scheduler: rr
    servers:
      - {name: rs1, address: "[2001:db8:c0::10]:8080"}
      - {name: rs2, address: "[2001:db8:c0::11]:8080"}
      - {name: rs3, address: "[2001:db8:c0::12]:8080"}
`

// nat is the story's first network.
func (d *demo) nat() error {
	// Without offload the checksums on the links are whole, as on a wire, and can be shown.
	end := d.stage(labnet.Story(labnet.StoryOptions{OwnVIP: true, NoOffload: true}),
		"The network. Only lb is known outside; the servers' default gateway is lb.", demoConfig)
	if d.err != nil {
		return end(d.err)
	}
	d.say("\nRequests from the client, one connection each:\n")
	way := d.watch(func() { d.requests("round robin", "http://203.0.113.22/", 6) },
		hop{"client", "eth0"}, hop{"lb", "eth0"}, hop{"lb", "tunlb0"}, hop{"lb", "eth1"}, hop{"rs1", "eth0"}, hop{"rs2", "eth0"}, hop{"rs3", "eth0"})
	d.requests("weighted round robin, 3:2:1", "http://203.0.113.22:8080/", 12)
	d.requests("round robin, IPv6", "http://[2001:db8:113::22]/", 6)

	d.say("\nThe way of the first request and of its answer:\n\n")
	if journey := d.trace(way); d.err == nil {
		d.err = journey.Table(d.out, colours(d.out))
	}
	d.say("\nWhat lb says (tunlb status):\n\n")
	d.status()
	return end(d.err)
}
