package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Diff lists how the table differs from prev, which may be nil, a line each: + for what is new, - for what
// is gone, ~ for what has changed. Tables of equal specs give none. A new service is a line of its own and one for
// each server: what it is like in all detail stands in the configuration.
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
		if k < 0 {
			lines = append(lines, "+ service "+s.summary())
			lines = append(lines, diffServers(&Spec{}, s)...)
			continue
		}
		gone[k] = false
		lines = append(lines, diffService(&before[k], s)...)
		lines = append(lines, diffServers(&before[k], s)...)
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
	if !reflect.DeepEqual(from, to) && !(empty(from) && empty(to)) {
		d.lines = append(d.lines, fmt.Sprintf("~ %s: %s %s -> %s", d.subject, what, text(from), text(to)))
	}
}

// empty says whether the value is a slice without elements, nil or not.
func empty(value any) bool {
	v := reflect.ValueOf(value)
	return v.Kind() == reflect.Slice && v.Len() == 0
}

// text is a value for people. What is not set is none.
func text(value any) string {
	switch v := value.(type) {
	case bool:
		if v {
			return "on"
		}
		return "off"
	case time.Duration:
		if v == 0 {
			return "none"
		}
	case []StatusRange:
		var ranges []string
		for _, r := range v {
			if r.First == r.Last {
				ranges = append(ranges, fmt.Sprint(r.First))
			} else {
				ranges = append(ranges, fmt.Sprintf("%d-%d", r.First, r.Last))
			}
		}
		return text(strings.Join(ranges, ","))
	case []string:
		return text(strings.Join(v, " "))
	case Flags:
		var flags []string
		for i, name := range []string{"fallback", "port", "flag-3"} {
			if v&(1<<i) != 0 {
				flags = append(flags, name)
			}
		}
		return text(strings.Join(flags, ","))
	case Tunnel:
		return tunnelText(v)
	case string:
		if v == "" {
			return "none"
		}
	}
	return fmt.Sprint(value)
}

func tunnelText(t Tunnel) string {
	text := cmp.Or(t.Type, "ipip")
	if t.Port != 0 {
		text += fmt.Sprintf(" port %d", t.Port)
	}
	if t.Checksum != "" {
		text += " " + t.Checksum
	}
	return text
}

func diffService(old, s *Spec) []string {
	d := &differences{subject: fmt.Sprintf("service %s %s", s.Name, s.briefly())}
	d.add("name", old.Name, s.Name)
	d.add("listen", old.where(), s.where())
	d.add("mode", old.Mode, s.Mode)
	d.add("scheduler", old.Scheduler, s.Scheduler)
	d.add("scheduler flags", old.Flags, s.Flags)
	d.add("persistence timeout", old.Persistence.Timeout, s.Persistence.Timeout)
	d.add("persistence host bits", old.Persistence.HostBits, s.Persistence.HostBits)
	d.add("persistence engine", old.Persistence.Engine, s.Persistence.Engine)
	d.add("one packet", old.OnePacket, s.OnePacket)
	d.add("kernel fast path", old.Fastpath, s.Fastpath)
	d.addFields("timeout", old.Timeouts, s.Timeouts)
	d.add("keep", old.Keep, s.Keep)
	d.addFields("health", old.Health, s.Health)
	d.add("slow start", old.SlowStart, s.SlowStart)
	d.add("quorum", old.Quorum, s.Quorum)
	if !old.sameSorry(s) {
		d.add("sorry server", old.sorry(), s.sorry())
	}
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
		d.add(what+" "+spaced(a.Type().Field(i).Name), a.Field(i).Interface(), b.Field(i).Interface())
	}
}

// spaced is the name of a field for people: SynRecv is syn recv, UDP is udp.
func spaced(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) && unicode.IsLower(rune(name[i-1])) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func (s *Spec) sorry() string {
	if s.Sorry == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s", s.Sorry.Name, s.details(s.Sorry))
}

// sameSorry leaves out what the sorry server only has from its service.
func (s *Spec) sameSorry(other *Spec) bool {
	if s.Sorry == nil || other.Sorry == nil {
		return s.Sorry == other.Sorry
	}
	a, b := *s.Sorry, *other.Sorry
	if s.follows(&a) && other.follows(&b) {
		a.Mode, a.Keep, b.Mode, b.Keep = 0, false, 0, false
	}
	return a == b
}

// follows says whether a server is of the service's mode, and kept like the service's flows.
func (s *Spec) follows(server *ServerSpec) bool {
	return server.Mode == s.Mode && server.Keep == s.Keep
}

// details are a server's properties besides its name; those that are as usual are left out.
func (s *Spec) details(server *ServerSpec) string {
	text := fmt.Sprintf("%s weight %d", server.Address, server.Weight)
	if server.Mode != s.Mode {
		text += " mode " + server.Mode.String()
	}
	if server.Mode == Tunnelled || server.Tunnel != (Tunnel{}) {
		text += " tunnel " + tunnelText(server.Tunnel)
	}
	if server.MAC != ([6]byte{}) {
		text += " mac " + macText(server.MAC)
	}
	if server.Upper != 0 || server.Lower != 0 {
		text += fmt.Sprintf(" bounds %d/%d", server.Upper, server.Lower)
	}
	if server.Keep != s.Keep {
		text += " keep"
	}
	return text
}

func diffServers(old, s *Spec) (lines []string) {
	before, after := byAddress(old), byAddress(s)
	for _, server := range s.Servers {
		was, ok := before[server.Address]
		if !ok {
			lines = append(lines, fmt.Sprintf("+ server %s/%s %s", s.Name, server.Name, s.details(&server)))
			continue
		}
		d := &differences{subject: fmt.Sprintf("server %s/%s %s", s.Name, server.Name, server.Address)}
		d.add("name", was.Name, server.Name)
		d.add("weight", was.Weight, server.Weight)
		if was.Mode != old.Mode || server.Mode != s.Mode { // else it follows the service's
			d.add("mode", was.Mode, server.Mode)
		}
		d.add("mac", macText(was.MAC), macText(server.MAC))
		d.add("upper bound", was.Upper, server.Upper)
		d.add("lower bound", was.Lower, server.Lower)
		d.add("tunnel", was.Tunnel, server.Tunnel)
		if was.Keep != old.Keep || server.Keep != s.Keep {
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

// summary is a service in a line: what it is known by, and what is not every service's.
func (s *Spec) summary() string {
	text := fmt.Sprintf("%s %s %s %s", s.Name, s.where(), s.Mode, s.Scheduler)
	if s.Persistence.Timeout != 0 {
		text += fmt.Sprintf(" persistence %s", s.Persistence.Timeout)
	}
	if s.Health.Enabled() {
		text += " health " + s.Health.Type
	}
	return text
}

// briefly is the first place where the service listens, and how many others there are.
func (s *Spec) briefly() string {
	first, rest, more := strings.Cut(s.where(), ",")
	if more {
		first += fmt.Sprintf(" +%d", 1+strings.Count(rest, ","))
	}
	return first
}

// where is where the service listens, as in the configuration.
func (s *Spec) where() string {
	var places []string
	for _, p := range s.places() {
		places = append(places, p.String())
	}
	return strings.Join(places, ",")
}
