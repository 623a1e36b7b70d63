package config

import (
	"fmt"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// maxQuorum is the largest sum of weights that anybody needs.
const maxQuorum = 1<<31 - 1

// service is a service with the places of what the checks compare.
type service struct {
	policy.Spec
	at, nameAt, listenAt, modeAt        pos
	onePacketAt, quorumAt               pos // valid iff the file has these
	carry                               fastpath
	placeAt                             []pos
	implied                             bool          // the name is made of Listen
	badMode, badPersistence, badServers bool          // could not be read
	serverAt                            []serverPlace // parallel to Servers
	sorryAt                             serverPlace
	check                               healthPlace
}

func (d *decoder) decodeServices(n *node) {
	if n.empty() {
		d.fail(n.at, `"services" has no items`, "there is nothing to balance", "write a service or remove the key")
	}
	d.items(n, "services", maxItems, d.decodeService)
}

func (d *decoder) decodeService(n *node) {
	s := service{at: n.at, nameAt: n.at, listenAt: n.at, modeAt: n.at}
	s.Scheduler, s.Mode = DefaultScheduler, policy.NAT
	later := func(*node) {} // those that depend on what other keys say
	ok := d.decode(n, "a service", []key{
		{name: "name", decode: func(n *node) { s.nameAt = n.at; s.Name, _ = d.label(n, "name") }},
		{name: "listen", decode: func(n *node) { d.decodeListen(n, &s) }},
		{name: "mode", decode: func(n *node) { d.decodeServiceMode(n, &s) }},
		{name: "scheduler", decode: func(n *node) { s.Scheduler = d.decodeScheduler(n) }},
		{name: "flags", decode: later},
		{name: "persistence", decode: later},
		{name: "one_packet", decode: func(n *node) { s.onePacketAt = n.at; s.OnePacket, _ = d.boolean(n, "one_packet") }},
		{name: "fastpath", decode: func(n *node) { s.carry = d.decodeFastpath(n); s.Fastpath = s.carry.kernel }},
		{name: "timeouts", decode: func(n *node) { d.decodeTimeouts(n, &s.Timeouts) }},
		{name: "on_delete", decode: func(n *node) { s.Keep = d.decodeOnDelete(n) }},
		{name: "health", decode: later},
		{name: "on_failure", decode: later},
		{name: "slow_start", decode: later},
		{name: "quorum", decode: func(n *node) { s.quorumAt = n.at; s.Quorum, _ = d.number(n, "quorum", 1, maxQuorum) }},
		{name: "sorry_server", decode: later},
		{name: "servers", decode: later},
	})
	if !ok {
		return
	}
	d.finishService(n, &s)
	d.services = append(d.services, s)
}

// finishService reads what depends on other keys, wherever these stand, and finds what is missing.
func (d *decoder) finishService(n *node, s *service) {
	if n.field("listen") == nil {
		d.fail(n.at, `service without "listen"`, "it has no address that clients could connect to", "write listen: VIP:port/proto")
	}
	if n.field("servers") == nil {
		d.fail(n.at, `service without "servers"`, "nobody would answer", "write servers: [IP:port, ...]")
	}
	for _, k := range []struct {
		name   string
		decode func(*node)
	}{
		{"flags", func(n *node) { d.decodeFlags(n, s) }},
		{"persistence", func(n *node) { d.decodePersistence(n, s) }},
		{"servers", func(n *node) {
			before := len(d.errs)
			d.items(n, "servers", maxItems, func(n *node) { d.decodeServer(n, s) })
			s.badServers = len(d.errs) > before || n.broken
		}},
		{"sorry_server", func(n *node) { d.decodeSorry(n, s) }},
		{"health", func(n *node) { d.decodeHealth(n, s) }},
		{"on_failure", func(n *node) { d.decodeOnFailure(n, s) }},
		{"slow_start", func(n *node) { d.decodeSlowStart(n, s) }},
	} {
		if f := n.field(k.name); f != nil && f.value != nil && f.value.kind != null {
			k.decode(f.value)
		}
	}
	if s.Name == "" && s.listens() {
		s.Name, s.nameAt, s.implied = s.Listen[0].String(), s.placeAt[0], true
	}
}

func (d *decoder) decodeServiceMode(n *node, s *service) {
	mode, ok := d.mode(n)
	s.modeAt, s.badMode = n.at, !ok
	if ok {
		s.Mode = mode
	}
}

// mode reads how packets reach a server.
func (d *decoder) mode(n *node) (policy.Mode, bool) {
	names := []string{policy.NAT.String(), policy.FullNAT.String(), policy.DR.String()}
	name, ok := d.choice(n, "mode", names, []string{policy.Tunnelled.String(), "http"})
	if !ok {
		return 0, false
	}
	return policy.ParseMode(name)
}

// decodeOnDelete says whether connections to deleted servers are kept.
func (d *decoder) decodeOnDelete(n *node) bool {
	s, _ := d.choice(n, "on_delete", []string{"reset", "keep"}, nil)
	return s == "keep"
}

func (d *decoder) checkServiceNames() {
	first := make(map[string]*service)
	for i := range d.services {
		s := &d.services[i]
		switch f := first[s.Name]; {
		case s.Name == "":
		case f == nil:
			first[s.Name] = s
		case f.implied && s.implied: // checkListen has it
		default:
			d.doubled(s.nameAt, "service name "+wording.Quote(s.Name), f.nameAt, "write another name")
		}
	}
}

// checkScheduling finds what does not fit the service's protocols and servers.
func (d *decoder) checkScheduling(s *service) {
	for _, l := range s.Listen {
		if s.OnePacket && l.Proto != policy.UDP {
			d.fail(s.onePacketAt, fmt.Sprintf("one_packet in a service on %s", l), "a connection of TCP is one whole; only datagrams can be scheduled each by itself", "remove the key or write "+onUDP(l).String())
			break
		}
	}
	sum := 0
	for _, server := range s.Servers {
		sum += server.Weight
	}
	if most := max(1, sum); s.Quorum > most && !s.badServers {
		d.fail(s.quorumAt, fmt.Sprintf("quorum %d is more than all servers have", s.Quorum),
			fmt.Sprintf("the sum of their weights is %d, so that they would never serve", sum), fmt.Sprintf("write a number from 1 to %d", most))
	}
}

// onUDP is the same place with the other protocol.
func onUDP(l policy.Listen) policy.Listen {
	l.Proto = policy.UDP
	return l
}
