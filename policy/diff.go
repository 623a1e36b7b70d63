package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Diff lists how the table differs from prev, which may be nil, a line each: + for what is new, - for what
// is gone, ~ for what has changed. Tables of equal specs give none.
func (t *Table) Diff(prev *Table) []string {
	var lines []string
	var before []Spec
	if prev != nil {
		before = prev.specs
	}
	gone := make([]bool, len(before))
	for i := range gone {
		gone[i] = true
	}
	for i, k := range match(t.specs, before) {
		s := &t.specs[i]
		old := &Spec{Name: s.Name, Listen: s.Listen, Mark: s.Mark, Mode: s.Mode, Scheduler: s.Scheduler}
		if k >= 0 {
			old, gone[k] = &before[k], false
		} else {
			lines = append(lines, fmt.Sprintf("+ service %s %s %s %s", s.Name, s.where(), s.Mode, s.Scheduler))
		}
		lines = append(lines, diffService(old, s)...)
		lines = append(lines, diffServers(old, s)...)
	}
	for i := range before {
		if gone[i] {
			lines = append(lines, fmt.Sprintf("- service %s %s", before[i].Name, before[i].where()))
		}
	}
	return lines
}

// differences collects lines about one subject.
type differences struct {
	subject string
	lines   []string
}

func (d *differences) add(what string, from, to any) {
	if !reflect.DeepEqual(from, to) {
		d.lines = append(d.lines, fmt.Sprintf("~ %s: %s %v -> %v", d.subject, what, from, to))
	}
}

func diffService(old, s *Spec) []string {
	d := &differences{subject: fmt.Sprintf("service %s %s", s.Name, s.where())}
	d.add("name", old.Name, s.Name)
	d.add("listen", old.where(), s.where())
	d.add("mode", old.Mode, s.Mode)
	d.add("scheduler", old.Scheduler, s.Scheduler)
	d.add("scheduler flags", old.Flags, s.Flags)
	d.add("persistence timeout", old.Persistence.Timeout, s.Persistence.Timeout)
	d.add("persistence host bits", old.Persistence.HostBits, s.Persistence.HostBits)
	d.add("persistence engine", old.Persistence.Engine, s.Persistence.Engine)
	d.add("one packet", old.OnePacket, s.OnePacket)
	d.addFields("timeout", old.Timeouts, s.Timeouts)
	d.add("keep", old.Keep, s.Keep)
	d.addFields("health", old.Health, s.Health)
	d.add("slow start", old.SlowStart, s.SlowStart)
	d.add("quorum", old.Quorum, s.Quorum)
	d.add("sorry server", old.sorry(), s.sorry())
	// Only the common servers have an order to be changed: those gone or new are listed as such.
	if from, to := common(old, s), common(s, old); !slices.Equal(from, to) {
		d.lines = append(d.lines, fmt.Sprintf("~ %s: order of servers", d.subject))
	}
	return d.lines
}

// addFields compares two structs of one type field by field.
func (d *differences) addFields(what string, from, to any) {
	a, b := reflect.ValueOf(from), reflect.ValueOf(to)
	for i := range a.NumField() {
		d.add(what+" "+strings.ToLower(a.Type().Field(i).Name), a.Field(i).Interface(), b.Field(i).Interface())
	}
}

func (s *Spec) sorry() string {
	if s.Sorry == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s", s.Sorry.Name, s.Sorry.details())
}

// details are a server's properties besides its name; those that are as usual are left out.
func (s *ServerSpec) details() string {
	text := fmt.Sprintf("%s weight %d", s.Address, s.Weight)
	if s.MAC != ([6]byte{}) {
		text += " mac " + macText(s.MAC)
	}
	if s.Upper != 0 || s.Lower != 0 {
		text += fmt.Sprintf(" bounds %d/%d", s.Upper, s.Lower)
	}
	return text
}

func diffServers(old, s *Spec) (lines []string) {
	before, after := byAddress(old), byAddress(s)
	for _, server := range s.Servers {
		was, ok := before[server.Address]
		if !ok {
			lines = append(lines, fmt.Sprintf("+ server %s/%s %s", s.Name, server.Name, server.details()))
			continue
		}
		d := &differences{subject: fmt.Sprintf("server %s/%s %s", s.Name, server.Name, server.Address)}
		d.add("name", was.Name, server.Name)
		d.add("weight", was.Weight, server.Weight)
		if old.Mode == s.Mode || server.Mode != s.Mode { // else it follows the service's
			d.add("mode", was.Mode, server.Mode)
		}
		d.add("mac", macText(was.MAC), macText(server.MAC))
		d.add("upper bound", was.Upper, server.Upper)
		d.add("lower bound", was.Lower, server.Lower)
		d.add("tunnel", was.Tunnel, server.Tunnel)
		if old.Keep == s.Keep {
			d.add("keep", was.Keep, server.Keep)
		}
		lines = append(lines, d.lines...)
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

// where is where the service listens, as in the configuration.
func (s *Spec) where() string {
	var places []string
	for _, p := range s.places() {
		places = append(places, p.String())
	}
	return strings.Join(places, ",")
}
