package config

import (
	"fmt"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

const (
	maxWeight    = 65535
	maxThreshold = 1<<31 - 1 // the kernel's
)

// serverPlace is where a server's parts stand.
type serverPlace struct{ name, address, mac, mode, lower pos }

// serverOf is a server of a service, or its sorry server, with its places and the mode that it has in the end.
type serverOf struct {
	*policy.ServerSpec
	at   serverPlace
	mode policy.Mode
}

// all are the servers of the service and at last its sorry server, if it has one.
func (s *service) all() (list []serverOf) {
	add := func(spec *policy.ServerSpec, at serverPlace) {
		mode := spec.Mode
		if mode == 0 {
			mode = s.Mode
		}
		list = append(list, serverOf{spec, at, mode})
	}
	for i := range s.Servers {
		add(&s.Servers[i], s.serverAt[i])
	}
	if s.Sorry != nil {
		add(s.Sorry, s.sorryAt)
	}
	return list
}

// decodeServer reads one of the list of servers.
func (d *decoder) decodeServer(n *node, s *service) {
	server, at := d.server(n, s, policy.ServerSpec{Name: fmt.Sprintf("rs%d", len(s.Servers)+1), Weight: 1}, nil)
	s.Servers = append(s.Servers, server)
	s.serverAt = append(s.serverAt, at)
}

// decodeSorry reads the server of last resort.
func (d *decoder) decodeSorry(n *node, s *service) {
	weight := &unfit{`"weight" of the sorry server`, "it serves alone", "remove the key"}
	server, at := d.server(n, s, policy.ServerSpec{Name: "sorry", Weight: 1}, weight)
	s.Sorry, s.sorryAt = &server, at
}

// server reads a map or, for short, only the address; what it does not say stays as it is in server.
func (d *decoder) server(n *node, s *service, server policy.ServerSpec, weight *unfit) (policy.ServerSpec, serverPlace) {
	at := serverPlace{name: n.at, address: n.at, mac: n.at, mode: s.modeAt, lower: n.at}
	address := func(n *node) {
		at.address = n.at
		if text, ok := d.str(n, "address"); ok {
			server.Address = d.serverAddress(n.at, text, s)
		}
	}
	if n.kind == text {
		address(n)
		return server, at
	}
	ok := d.decode(n, "a server", []key{
		{name: "name", decode: func(n *node) {
			if name, ok := d.label(n, "name"); ok {
				server.Name, at.name = name, n.at
			}
		}},
		{name: "address", decode: address},
		{name: "weight", unfit: weight, decode: func(n *node) { server.Weight, _ = d.number(n, "weight", 0, maxWeight) }},
		{name: "mode", decode: func(n *node) { at.mode = n.at; server.Mode, _ = d.mode(n) }},
		{name: "upper", decode: func(n *node) { server.Upper, _ = d.number(n, "upper", 0, maxThreshold) }},
		{name: "lower", decode: func(n *node) { at.lower = n.at; server.Lower, _ = d.number(n, "lower", 0, maxThreshold) }},
		{name: "on_delete", decode: func(n *node) { server.Keep = d.decodeOnDelete(n) }},
		{name: "mac", unfit: s.unfitMAC(n), decode: func(n *node) { at.mac = n.at; server.MAC = d.mac(n, "mac") }},
	})
	if ok && n.field("address") == nil {
		d.fail(n.at, `server without "address"`, "it cannot be reached", "write address: IP:port")
	}
	return server, at
}

// serverAddress has the service's port if it has none itself. In a service with several ports it then keeps that of
// the client; 0 says so, too, as to ipvsadm.
func (d *decoder) serverAddress(at pos, text string, s *service) netip.AddrPort {
	address, ok := d.addrPort(at, "address", text, "")
	_, err := netip.ParseAddrPort(text)
	switch explicit := err == nil; {
	case !ok:
		return netip.AddrPort{}
	case !explicit:
		return netip.AddrPortFrom(address.Addr(), s.port())
	case address.Port() == 0 && s.port() != 0:
		d.fail(at, fmt.Sprintf("address %s has port 0", wording.Quote(text)), "no connection has it", "write a port from 1 to 65535, or none if it is the service's")
		return netip.AddrPort{}
	}
	return address
}

func (d *decoder) checkServers(s *service, own map[netip.Addr]string, vips map[netip.Addr]pos) {
	names := make(map[string]pos)
	addresses := make(map[netip.AddrPort]pos)
	for _, server := range s.all() {
		if first, known := names[server.Name]; known {
			d.doubled(server.at.name, "server name "+wording.Quote(server.Name), first, "write another name")
		} else {
			names[server.Name] = server.at.name
		}
		d.checkThresholds(server)
		if !server.Address.IsValid() {
			continue
		}
		if first, known := addresses[server.Address]; known && s.listens() {
			instead := "write it once, with a higher weight"
			if server.ServerSpec == s.Sorry {
				instead = "write another sorry_server, which is there when the servers are not"
			}
			d.doubled(server.at.address, fmt.Sprintf("server %s", server.Address), first, instead)
			continue
		}
		addresses[server.Address] = server.at.address
		d.checkServer(s, server, own, vips)
		d.checkServerPort(s, server)
	}
}

func (d *decoder) checkServer(s *service, server serverOf, own map[netip.Addr]string, vips map[netip.Addr]pos) {
	a, at, vip := server.Address.Addr(), server.at.address, s.vip()
	if vip.IsValid() && vip.Is4() != a.Is4() {
		d.fail(at, fmt.Sprintf("server %s of the %s service %s", a, family(vip), s.Listen[0]), familyStays(server.mode), "write an "+family(vip)+" address")
		return
	}
	if what := own[a]; what != "" {
		d.fail(at, fmt.Sprintf("server %s is %s", a, what), "that is tunlb itself", "write the address of the server")
	}
	if vip, known := vips[a]; known {
		d.fail(at, fmt.Sprintf("server %s is the VIP in line %d", a, vip.line), "its packets would come back to tunlb in a loop", "write the server's own address")
	}
}

// checkThresholds wants a bound from which on a server is full that is not below the one from which on it is not.
func (d *decoder) checkThresholds(server serverOf) {
	switch {
	case server.Lower <= server.Upper:
	case server.Upper == 0:
		d.fail(server.at.lower, fmt.Sprintf("lower %d without an upper", server.Lower), "a server that is never full has nothing to recover from", "write upper, too, or remove the key")
	default:
		d.fail(server.at.lower, fmt.Sprintf("lower %d is above the upper %d", server.Lower, server.Upper), "a full server takes new connections again below lower", fmt.Sprintf("write a number up to %d", server.Upper))
	}
}

// familyStays says why a server has the family of its service.
func familyStays(mode policy.Mode) string {
	if mode == policy.DR {
		return "mode dr leaves packets as they are"
	}
	return "addresses are translated within one family only"
}
