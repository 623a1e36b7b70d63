package scenario

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// decoder turns the tree into a File. It goes on after an error; what could not be read stays zero.
type decoder struct {
	file   string
	errs   config.Errors
	visits int // values looked at so far

	lab    File
	at     places
	config *config.Config // the director's; nil if it could not be read
}

// maxErrors is more than anybody reads.
const maxErrors = 200

func (d *decoder) fail(at pos, what, why, instead string) {
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, &config.Error{File: d.file, Line: at.line, Column: at.column, What: what, Why: why, Instead: instead})
	}
}

// warn notes what is allowed and yet most likely a mistake.
func (d *decoder) warn(at pos, what, why, instead string) {
	e := config.Error{File: d.file, Line: at.line, Column: at.column, What: what, Why: why, Instead: instead}
	d.lab.Warnings = append(d.lab.Warnings, e.Error())
}

// sorted orders the errors by position; an aliased value is read wherever it is used, but is wrong once.
func (d *decoder) sorted() config.Errors {
	slices.SortStableFunc(d.errs, func(a, b *config.Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(d.errs, func(a, b *config.Error) bool { return *a == *b })
}

// visit counts values, and reports whether to go on: aliases of aliases unfold to any number.
func (d *decoder) visit(at pos) bool {
	if d.visits++; d.visits == maxNodes+1 {
		d.fail(at, "too large", fmt.Sprintf("the aliases unfold to more than %d values", maxNodes), "write fewer")
	}
	return d.visits <= maxNodes
}

// key is a key that a map may have.
type key struct {
	name   string
	decode func(*node)
}

// fields reads a map; of names it in errors.
func (d *decoder) fields(n *node, of string, keys ...key) bool {
	if n.kind != mapping {
		d.fail(n.at, fmt.Sprintf("%s in place of %s", kindNames[n.kind], of), "a map is expected", "write key: value")
		return false
	}
	for _, f := range n.fields {
		if !d.visit(f.at) {
			return false
		}
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == f.key })
		switch {
		case i < 0:
			names := make([]string, len(keys))
			for i, k := range keys {
				names[i] = k.name
			}
			d.fail(f.at, "unknown key "+wording.Quote(f.key), "it is no key of "+of, wording.Suggest(f.key, names))
		case f.value.kind == null:
			d.fail(f.at, fmt.Sprintf("%q is empty", f.key), "a key has a value", "write one or remove the key")
		default:
			keys[i].decode(f.value)
		}
	}
	return true
}

// named reads a map whose keys are names that the file chooses.
func (d *decoder) named(n *node, what string, each func(name string, at pos, value *node)) {
	if n.kind != mapping {
		d.fail(n.at, fmt.Sprintf("%q is %s", what, kindNames[n.kind]), "a map is expected", "write NAME: {...}")
		return
	}
	for _, f := range n.fields {
		if !d.visit(f.at) {
			return
		}
		each(f.key, f.at, f.value)
	}
}

// items calls each for the items of a list.
func (d *decoder) items(n *node, name string, each func(*node)) {
	if n.kind != list {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a list is expected", fmt.Sprintf("write %s: [...]", name))
		return
	}
	for _, item := range n.items {
		if !d.visit(item.at) {
			return
		}
		each(item)
	}
}

// oneOrMore calls each for the items of a list, or for one value in place of it.
func (d *decoder) oneOrMore(n *node, name string, each func(*node)) {
	if n.kind == list {
		d.items(n, name, each)
		return
	}
	each(n)
}

// str reads a string that is not empty.
func (d *decoder) str(n *node, name string) (string, bool) {
	switch {
	case n.kind == text && strings.TrimSpace(n.text) != "" && !strings.ContainsFunc(n.text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return n.text, true
	case n.kind == text:
		d.fail(n.at, fmt.Sprintf("%s %s is no line of text", name, wording.Quote(n.text)), "it is empty or has control characters", "write one line")
	case n.kind < list && n.kind != null:
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a string is expected", fmt.Sprintf("write quotes: %q", n.text))
	default:
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a string is expected", "write one value, in quotes if there are colons or brackets in it")
	}
	return "", false
}

// into reads a string to where it belongs.
func (d *decoder) into(name string, v *string) func(*node) {
	return func(n *node) { *v, _ = d.str(n, name) }
}

// label wants a name of letters, digits, dots and hyphens.
func (d *decoder) label(at pos, what, s string, longest int) bool {
	if !isLabel(s, longest) {
		d.fail(at, fmt.Sprintf("%s %s is no name", what, wording.Quote(s)), fmt.Sprintf("names are 1 to %d letters, digits, -, _ and dots, and begin with a letter or digit", longest), "write one like rs1")
		return false
	}
	return true
}

func isLabel(s string, longest int) bool {
	return s != "" && len(s) <= longest && !strings.ContainsAny(s[:1], "-._") && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// number reads a whole number within bounds.
func (d *decoder) number(n *node, name string, least, most int) int {
	v, err := strconv.Atoi(n.text)
	if n.kind != integer || err != nil || v < least || v > most || strconv.Itoa(v) != n.text {
		d.fail(n.at, fmt.Sprintf("%s %s is out of range", name, shown(n)), fmt.Sprintf("a whole number from %d to %d is expected", least, most), fmt.Sprintf("write a number from %d to %d", least, most))
		return 0
	}
	return v
}

func (d *decoder) boolean(n *node, name string) bool {
	if n.kind != boolean {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "true or false is expected", "write true or false without quotes")
	}
	return n.text == "true"
}

// duration reads a time in the syntax of Go.
func (d *decoder) duration(n *node, name string, most time.Duration) time.Duration {
	if n.kind == integer && n.text != "0" {
		d.fail(n.at, fmt.Sprintf("%s %s has no unit", name, wording.Quote(n.text)), "a time has one", fmt.Sprintf("write %ss if seconds are meant", n.text))
		return 0
	}
	v, err := time.ParseDuration(n.text)
	switch {
	case n.kind >= list || err != nil:
		d.fail(n.at, fmt.Sprintf("%s %s is no time", name, shown(n)), "a time is numbers with units", "write it like 20ms, 3s or 1m30s")
	case v < 0 || v > most:
		d.fail(n.at, fmt.Sprintf("%s %s is out of range", name, wording.Quote(n.text)), fmt.Sprintf("0s to %v are allowed", most), "write a time in this range")
	default:
		return v
	}
	return 0
}

// share reads 5% or 0.05.
func (d *decoder) share(n *node, name string) float64 {
	s, percent := strings.CutSuffix(n.text, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if percent {
		v /= 100
	}
	switch {
	case n.kind >= list || err != nil || math.IsNaN(v):
		d.fail(n.at, fmt.Sprintf("%s %s is no part of a whole", name, shown(n)), "it is a percentage, or a number from 0 to 1", "write it like 5% or 0.05")
		return 0
	case v < 0 || v > 1:
		instead := "write it like 5% or 0.05"
		if !percent && 1 < v && v <= 100 {
			instead = fmt.Sprintf("write %s%% if percent are meant", strings.TrimSpace(s))
		}
		d.fail(n.at, fmt.Sprintf("%s %s is out of range", name, shown(n)), "0% to 100% are allowed", instead)
		return 0
	}
	return v
}

// choice reads one of names.
func (d *decoder) choice(n *node, name string, names ...string) string {
	if n.kind < list && slices.Contains(names, n.text) {
		return n.text
	}
	d.fail(n.at, fmt.Sprintf("unknown %s %s", name, shown(n)), "there is "+wording.Enumerate(names, "and"), wording.Suggest(n.text, names))
	return ""
}

// address reads one host's IP address.
func (d *decoder) address(n *node, name string) netip.Addr {
	a, err := netip.ParseAddr(n.text)
	if n.kind >= list || err != nil || !unicast(a) {
		d.fail(n.at, fmt.Sprintf("%s %s is no address of a host", name, shown(n)), "it is one IP address without a port", `write it like 192.0.2.1 or "2001:db8::1"`)
		return netip.Addr{}
	}
	return a
}

// addrPort reads ADDRESS:PORT.
func (d *decoder) addrPort(n *node, name string) netip.AddrPort {
	a, err := netip.ParseAddrPort(n.text)
	if n.kind >= list || err != nil || !unicast(a.Addr()) || a.Port() == 0 {
		d.fail(n.at, fmt.Sprintf("%s %s is no address with a port", name, shown(n)), "it is an IP address, a colon and a port", `write it like 192.0.2.1:80 or "[2001:db8::1]:80"`)
		return netip.AddrPort{}
	}
	return a
}

// prefix reads ADDRESS/LENGTH, a host's address and how much of it is the network's.
func (d *decoder) prefix(n *node, name string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(n.text)
	switch {
	case n.kind >= list:
		d.fail(n.at, fmt.Sprintf("%s is %s", name, kindNames[n.kind]), "an address with the length of its prefix is expected", `write it like 192.0.2.1/24, and in quotes "2001:db8::1/64"`)
	case err != nil:
		instead := `write it like 192.0.2.1/24 or "2001:db8::1/64"`
		if a, err := netip.ParseAddr(n.text); err == nil {
			instead = fmt.Sprintf("write %s/%d", a, map[bool]int{true: 24, false: 64}[a.Is4()])
		}
		d.fail(n.at, fmt.Sprintf("%s %s is no address with a length", name, wording.Quote(n.text)), "the length says what is on the link", instead)
	case !unicast(p.Addr()):
		d.fail(n.at, fmt.Sprintf("%s %s is not one host's", name, wording.Quote(n.text)), "only unicast addresses are", "write the address of one host")
	case !p.IsSingleIP() && p.Bits() < p.Addr().BitLen()-1 && (p.Masked().Addr() == p.Addr() || p.Addr().Is4() && !p.Contains(p.Addr().Next())):
		d.fail(n.at, fmt.Sprintf("%s %s is no host's address", name, wording.Quote(n.text)), "the first and the last address of a network are reserved", "write one between them")
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

func unicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.Zone() == "" && !a.Is4In6() && !a.IsLinkLocalUnicast()
}

// shown is a value as errors show it.
func shown(n *node) string {
	if n.kind >= list || n.kind == null {
		return kindNames[n.kind]
	}
	return wording.Quote(n.text)
}
