package config

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tunlb/tunlb/policy"
)

// service is a service with the places of what the checks compare.
type service struct {
	policy.Spec
	at, nameAt, listenAt, modeAt pos
	implied                      bool          // the name is made of Listen
	badMode                      bool          // the mode could not be read
	serverAt                     []serverPlace // parallel to Servers
}

type serverPlace struct{ name, address, mac pos }

// protocols are the transports of this version.
var protocols = map[string]uint8{"tcp": policy.TCP, "udp": policy.UDP}

func protocolName(proto uint8) string {
	if proto == policy.UDP {
		return "udp"
	}
	return "tcp"
}

// listenText is VIP:port/protocol as in the file.
func (s *service) listenText() string { return s.Listen.String() + "/" + protocolName(s.Proto) }

func (d *decoder) decodeServices(n *node) {
	if n.empty() {
		d.fail(n.at, `"services" has no items`, "there is nothing to balance", "write a service or remove the key")
	}
	d.items(n, "services", maxItems, d.decodeService)
}

func (d *decoder) decodeService(n *node) {
	s := service{at: n.at, nameAt: n.at, listenAt: n.at, modeAt: n.at}
	s.Scheduler = DefaultScheduler
	ok := d.decode(n, "a service", []key{
		{name: "name", decode: func(n *node) { s.nameAt = n.at; s.Name, _ = d.label(n, "name") }},
		{name: "listen", decode: func(n *node) { d.decodeListen(n, &s) }},
		{name: "mode", decode: func(n *node) { d.decodeServiceMode(n, &s) }},
		{name: "scheduler", decode: func(n *node) { s.Scheduler = d.decodeScheduler(n) }},
		{name: "servers", decode: func(*node) {}}, // after listen and mode, on which they depend
		{name: "persistence", later: "every connection is scheduled by itself"},
		{name: "health", later: "servers are not checked; weight: 0 takes one out by hand"},
	})
	if !ok {
		return
	}
	if n.field("listen") == nil {
		d.fail(n.at, `service without "listen"`, "it has no address that clients could connect to", "write listen: VIP:port/proto")
	}
	if f := n.field("servers"); f == nil {
		d.fail(n.at, `service without "servers"`, "nobody would answer", "write servers: [IP:port, ...]")
	} else if f.value != nil && f.value.kind != null {
		d.items(f.value, "servers", maxItems, func(n *node) { d.decodeServer(n, &s) })
	}
	if s.Name == "" && s.Listen.IsValid() {
		s.Name, s.nameAt, s.implied = s.listenText(), s.listenAt, true
	}
	d.services = append(d.services, s)
}

func (d *decoder) decodeListen(n *node, s *service) {
	s.listenAt = n.at
	text, ok := d.str(n, "listen")
	if !ok {
		return
	}
	address, proto, found := strings.Cut(text, "/")
	if !found {
		proto = "tcp"
	}
	number, known := protocols[proto]
	if !known {
		what := fmt.Sprintf("listen %s has the protocol %s", quote(text), quote(proto))
		d.fail(n.at, what, "this version has tcp and udp", suggest(proto, []string{"tcp", "udp"}))
	}
	listen, ok := d.addrPort(n.at, "listen", address, 0)
	if ok && known {
		s.Listen, s.Proto = listen, number
	}
}

func (d *decoder) decodeServiceMode(n *node, s *service) {
	names := []string{policy.NAT.String(), policy.FullNAT.String(), policy.DR.String()}
	name, ok := d.choice(n, "mode", names, []string{"tunnel", "http"})
	s.modeAt, s.badMode = n.at, !ok
	s.Mode, _ = policy.ParseMode(name)
}

func (d *decoder) decodeScheduler(n *node) string {
	later := []string{"sh", "dh", "sed", "nq", "lblc", "lblcr", "fo", "ovf", "mh", "twos"}
	name, ok := d.choice(n, "scheduler", policy.Schedulers(), later)
	if !ok {
		return DefaultScheduler
	}
	return name
}

// decodeServer reads a map or, for short, only the address.
func (d *decoder) decodeServer(n *node, s *service) {
	server := policy.ServerSpec{Name: fmt.Sprintf("rs%d", len(s.Servers)+1), Weight: 1}
	place := serverPlace{name: n.at, address: n.at, mac: n.at}
	address := func(n *node) {
		place.address = n.at
		if text, ok := d.str(n, "address"); ok {
			server.Address = d.serverAddress(n.at, text, s)
		}
	}
	if n.kind == text {
		address(n)
	} else {
		ok := d.decode(n, "a server", []key{
			{name: "name", decode: func(n *node) {
				if name, ok := d.label(n, "name"); ok {
					server.Name, place.name = name, n.at
				}
			}},
			{name: "address", decode: address},
			{name: "weight", decode: func(n *node) { server.Weight, _ = d.number(n, "weight", 0, 65535) }},
			{name: "mac", unfit: s.unfitMAC(), decode: func(n *node) { place.mac = n.at; server.MAC = d.mac(n, "mac") }},
		})
		if ok && n.field("address") == nil {
			d.fail(n.at, `server without "address"`, "it cannot be reached", "write address: IP:port")
		}
	}
	s.Servers = append(s.Servers, server)
	s.serverAt = append(s.serverAt, place)
}

// serverAddress has the service's port if it has none itself; any port will do to go on if that one is unknown.
func (d *decoder) serverAddress(at pos, text string, s *service) netip.AddrPort {
	port := s.Listen.Port()
	if port == 0 {
		port = 1
	}
	address, _ := d.addrPort(at, "address", text, port)
	return address
}
