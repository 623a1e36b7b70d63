package config

import (
	"fmt"
	"slices"

	"github.com/tunlb/tunlb/policy"
)

// fastpath is who carries connections that are established, as the file says it: `fastpath: kernel` or `user`.
type fastpath struct {
	at     pos  // not zero iff the file has the key
	kernel bool // valid iff at is
}

func (d *decoder) decodeFastpath(n *node) fastpath {
	s, _ := d.choice(n, "fastpath", []string{"kernel", "user"}, nil)
	return fastpath{n.at, s == "kernel"}
}

// checkFastpath gives each service its own word, or else the general one, and wants a TUN on the box where the kernel is to
// carry anything: there its packet filter is on the way of all packets, and before tunlb.
func (d *decoder) checkFastpath() {
	at := d.fastpath.at
	asked := d.fastpath.kernel
	for i := range d.services {
		s := &d.services[i]
		switch why := s.uncarried(); {
		case s.carry.at == pos{}:
			s.Fastpath = d.fastpath.kernel && why == ""
		case s.carry.kernel && why != "":
			d.fail(s.carry.at, "fastpath: kernel of "+s.uncarriedWhat(), why, "remove the key or write fastpath: user")
		case s.carry.kernel && !asked:
			at, asked = s.carry.at, true
		}
	}
	if !asked || d.badPorts {
		return
	}
	const what, user = "fastpath: kernel ", "write fastpath: user"
	switch box := d.boxPort(); {
	case box != nil:
		d.fail(at, fmt.Sprintf(what+"with port %q, an interface of the box's own, in line %d", box.Name, box.at.line),
			"a packet socket gets the packets before the kernel's packet filter does, which could carry none", user+", or a port with type: tun in place of the packet ports")
	case !d.boxTUN():
		d.fail(at, what+"without a TUN on the box", "the kernel of the box is to carry connections between its interfaces, and leads nothing to these ports", user+", or a port with type: tun and without netns")
	}
}

// uncarried is why the kernel can carry no connection of the service; "" if it can.
func (s *service) uncarried() string {
	switch {
	case s.OnePacket:
		return "with one_packet there are no connections that could be carried"
	case s.badServers || s.badMode || !s.onlyDirect():
		return ""
	}
	return "the answers of directly routed servers pass the box by, and their requests leave it as they came"
}

// uncarriedWhat names what uncarried has found.
func (s *service) uncarriedWhat() string {
	if s.OnePacket {
		return "a service with one_packet"
	}
	return "a service with mode dr"
}

// onlyDirect says whether all servers are directly routed, or those to come if there are none.
func (s *service) onlyDirect() bool {
	all := s.all()
	if len(all) == 0 {
		return s.Mode == policy.DR
	}
	return !slices.ContainsFunc(all, func(server serverOf) bool { return server.mode != policy.DR })
}
