package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Diff lists how the table differs from prev, which may be nil, a line each: + for what is new, - for what
// is gone, ~ for what has changed. Tables of equal specs give none.
func (t *Table) Diff(prev *Table) []string {
	var lines []string
	before := make(map[serviceKey]*Spec)
	if prev != nil {
		for i := range prev.specs {
			before[keyOf(&prev.specs[i])] = &prev.specs[i]
		}
	}
	for i := range t.specs {
		s := &t.specs[i]
		old := before[keyOf(s)]
		if old == nil {
			lines = append(lines, fmt.Sprintf("+ service %s %s %s %s", s.Name, endpoint(s), s.Mode, s.Scheduler))
			old = &Spec{Name: s.Name, Mode: s.Mode, Scheduler: s.Scheduler}
		}
		lines = append(lines, diffService(old, s)...)
		lines = append(lines, diffServers(old, s)...)
	}
	if prev != nil {
		for i := range prev.specs {
			if s := &prev.specs[i]; t.index[keyOf(s)] == nil {
				lines = append(lines, fmt.Sprintf("- service %s %s", s.Name, endpoint(s)))
			}
		}
	}
	return lines
}

func diffService(old, s *Spec) (lines []string) {
	changed := func(what string, from, to any) {
		if from != to {
			lines = append(lines, fmt.Sprintf("~ service %s %s: %s %v -> %v", s.Name, endpoint(s), what, from, to))
		}
	}
	changed("name", old.Name, s.Name)
	changed("mode", old.Mode, s.Mode)
	changed("scheduler", old.Scheduler, s.Scheduler)
	// Only the common servers have an order to be changed: those gone or new are listed as such.
	if from, to := common(old, s), common(s, old); !slices.Equal(from, to) {
		lines = append(lines, fmt.Sprintf("~ service %s %s: order of servers", s.Name, endpoint(s)))
	}
	return lines
}

func diffServers(old, s *Spec) (lines []string) {
	before, after := byAddress(old), byAddress(s)
	for _, server := range s.Servers {
		was, ok := before[server.Address]
		if !ok {
			line := fmt.Sprintf("+ server %s/%s %s weight %d", s.Name, server.Name, server.Address, server.Weight)
			if server.MAC != ([6]byte{}) {
				line += " mac " + macText(server.MAC)
			}
			lines = append(lines, line)
			continue
		}
		if was.Name != server.Name {
			lines = append(lines, fmt.Sprintf("~ server %s/%s %s: name %s -> %s", s.Name, server.Name, server.Address, was.Name, server.Name))
		}
		if was.Weight != server.Weight {
			lines = append(lines, fmt.Sprintf("~ server %s/%s %s: weight %d -> %d", s.Name, server.Name, server.Address, was.Weight, server.Weight))
		}
		if was.MAC != server.MAC {
			lines = append(lines, fmt.Sprintf("~ server %s/%s %s: mac %s -> %s", s.Name, server.Name, server.Address, macText(was.MAC), macText(server.MAC)))
		}
	}
	for _, server := range old.Servers {
		if _, ok := after[server.Address]; !ok {
			lines = append(lines, fmt.Sprintf("- server %s/%s %s", s.Name, server.Name, server.Address))
		}
	}
	return lines
}

// common lists the addresses of s's servers that other has too, in s's order.
func common(s, other *Spec) (addresses []netip.AddrPort) {
	known := byAddress(other)
	for _, server := range s.Servers {
		if _, ok := known[server.Address]; ok {
			addresses = append(addresses, server.Address)
		}
	}
	return addresses
}

func byAddress(s *Spec) map[netip.AddrPort]ServerSpec {
	servers := make(map[netip.AddrPort]ServerSpec, len(s.Servers))
	for _, server := range s.Servers {
		servers[server.Address] = server
	}
	return servers
}

// macText is a MAC address as in the configuration.
func macText(mac [6]byte) string {
	if mac == ([6]byte{}) {
		return "resolved"
	}
	return strings.ReplaceAll(fmt.Sprintf("% x", mac), " ", ":")
}

// endpoint is VIP:port/protocol as in the configuration.
func endpoint(s *Spec) string {
	switch s.Proto {
	case TCP:
		return s.Listen.String() + "/tcp"
	case UDP:
		return s.Listen.String() + "/udp"
	}
	return fmt.Sprintf("%s/%d", s.Listen, s.Proto)
}
