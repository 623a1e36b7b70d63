package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// maxVisits bounds what aliases of aliased lists can unfold to.
const maxVisits = 1 << 19

// decoder turns the tree into what the file asks for. It goes on after an error; what could not be read stays zero.
type decoder struct {
	reporter
	visits    int  // list items and fields so far
	badPorts  bool // some port was not read, so that the routes are not known
	ports     []port
	services  []service
	gateways  []gateway
	control   Control
	metrics   Metrics
	metricsAt pos // valid iff metrics.Listen is not empty
	flows     Flows
	threads   int
	timeouts  policy.Timeouts
	fastpath  fastpath
}

// key is a key that a map may have.
type key struct {
	name   string
	decode func(*node)
	later  string // why it is known and yet an error; "" for the keys of this version
	unfit  *unfit // why it is an error beside what else the map has; nil if it is none
}

// unfit is the three parts of an error.
type unfit struct{ what, why, instead string }

// config is valid iff there were no errors.
func (d *decoder) config() *Config {
	c := &Config{Control: d.control, Metrics: d.metrics, Flows: d.flows, Threads: d.threads, Timeouts: d.timeouts, Fastpath: d.fastpath.kernel}
	for _, p := range d.ports {
		c.Ports = append(c.Ports, p.Port)
	}
	for _, s := range d.services {
		c.Services = append(c.Services, s.Spec)
	}
	for _, g := range d.gateways {
		c.Gateways = append(c.Gateways, g.Gateway)
	}
	return c
}

func (d *decoder) document(root *node) {
	d.control.Mode = DefaultControlMode
	d.flows.Max = DefaultMaxFlows
	d.timeouts = DefaultTimeouts()
	if root.kind == null {
		d.emptyFile()
		return
	}
	ok := d.decode(root, "the configuration", []key{
		{name: "ports", decode: d.decodePorts},
		{name: "services", decode: d.decodeServices},
		{name: "gateway", decode: d.decodeGateways},
		{name: "control", decode: d.decodeControl},
		{name: "flows", decode: d.decodeFlows},
		{name: "threads", decode: func(n *node) {
			const most = 254 // ports
			d.threads, _ = d.number(n, "threads", 1, most)
		}},
		{name: "timeouts", decode: func(n *node) { d.decodeTimeouts(n, &d.timeouts) }},
		{name: "metrics", decode: d.decodeMetrics},
		{name: "fastpath", decode: func(n *node) { d.fastpath = d.decodeFastpath(n) }},
	})
	if !ok {
		return
	}
	if root.field("ports") == nil {
		d.ports = []port{{Port: defaultPort()}}
	} else if len(d.ports) == 0 {
		d.badPorts = true
	}
	if root.field("services") == nil && root.field("gateway") == nil {
		d.fail(root.at, "no service and no gateway", "there is nothing to do", "write services: or gateway:")
	}
}

// decode reads a map; of names it in errors.
func (d *decoder) decode(n *node, of string, keys []key) bool {
	if n.kind != mapping {
		d.fail(n.at, fmt.Sprintf("%s in place of %s", kindNames[n.kind], of), "a map is expected", "write key: value")
		return false
	}
	for _, f := range n.fields {
		if !d.visit(f.at) {
			break
		}
		d.decodeField(f, of, keys)
	}
	return true
}

func (d *decoder) decodeField(f field, of string, keys []key) {
	var names []string
	for _, k := range keys {
		switch {
		case k.name == f.key && k.later != "":
			d.fail(f.at, fmt.Sprintf("%q is not supported by this version", k.name), k.later, "remove the key")
			return
		case k.name == f.key && k.unfit != nil:
			d.fail(f.at, k.unfit.what, k.unfit.why, k.unfit.instead)
			return
		case k.name == f.key && f.value == nil: // reported by the tree
			return
		case k.name == f.key && f.value.kind == null:
			d.fail(f.at, fmt.Sprintf("%q is empty", k.name), "a key has a value", "write one or remove the key")
			return
		case k.name == f.key:
			k.decode(f.value)
			return
		case k.later == "":
			names = append(names, k.name)
		}
	}
	d.fail(f.at, "unknown key "+wording.Quote(f.key), "it is no key of "+of, wording.Suggest(f.key, names))
}

// visit counts list items and fields, and reports whether to go on.
func (d *decoder) visit(at pos) bool {
	if d.visits++; d.visits == maxVisits+1 {
		d.fail(at, "too large", fmt.Sprintf("the aliases unfold to more than %d values", maxVisits), "write fewer")
	}
	return d.visits <= maxVisits && !d.full()
}

// items calls each for the items of a list.
func (d *decoder) items(n *node, name string, most int, each func(*node)) {
	if n.kind != list {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a list is expected", fmt.Sprintf("write %s: [...]", name))
		return
	}
	if len(n.items) > most {
		d.fail(n.at, fmt.Sprintf("%q has %d items", name, len(n.items)), fmt.Sprintf("at most %d are allowed", most), "remove some")
		return
	}
	for _, item := range n.items {
		if !d.visit(item.at) {
			return
		}
		if item.kind == null {
			d.fail(item.at, fmt.Sprintf("empty item of %q", name), "every item has a value", "write one or remove the item")
			continue
		}
		each(item)
	}
}

// oneOrMore calls each for the items of a list, or for a string in place of one.
func (d *decoder) oneOrMore(n *node, name string, most int, each func(*node)) {
	if n.kind == list {
		d.items(n, name, most, each)
	} else {
		each(n)
	}
}

// boolean reads true or false.
func (d *decoder) boolean(n *node, name string) (v, ok bool) {
	if n.kind != boolean {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "true or false is expected", "write true or false without quotes")
		return false, false
	}
	return n.text == "true", true
}

// str reads a string that is not empty.
func (d *decoder) str(n *node, name string) (string, bool) {
	switch {
	case n.kind == text && n.text == "":
		d.fail(n.at, fmt.Sprintf("%q is empty", name), "a key has a value", "write one or remove the key")
	case n.kind == text && strings.ContainsFunc(n.text, unicode.IsControl):
		d.fail(n.at, fmt.Sprintf("%s %s has a control character", name, wording.Quote(n.text)), "it is one line of text", "write it without")
	case n.kind == text:
		return n.text, true
	case n.kind < list:
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a string is expected", fmt.Sprintf("write quotes: %q", n.text))
	default:
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a string is expected", "write one value, in quotes if it begins with [ or {")
	}
	return "", false
}

// number reads a whole number within bounds, in decimal: to YAML 1.1 the value of 010 is 8, to YAML 1.2 it is 10.
func (d *decoder) number(n *node, name string, least, most int) (int, bool) {
	instead := fmt.Sprintf("write a number from %d to %d", least, most)
	if n.kind != integer {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a whole number is expected", instead)
		return 0, false
	}
	digits := strings.ReplaceAll(n.text, "_", "")
	v, err := strconv.Atoi(digits)
	switch {
	case strconv.Itoa(v) == digits && v >= least && v <= most:
		return v, true
	case strconv.Itoa(v) == digits || errors.Is(err, strconv.ErrRange):
		d.fail(n.at, fmt.Sprintf("%s %s is out of range", name, wording.Quote(n.text)), fmt.Sprintf("%d to %d are allowed", least, most), instead)
	default:
		d.fail(n.at, fmt.Sprintf("%s %s is no plain decimal number", name, wording.Quote(n.text)), "readers of YAML disagree on its value", instead)
	}
	return 0, false
}

// duration reads a time in the syntax of Go.
func (d *decoder) duration(n *node, name string, into *time.Duration) {
	d.durationWithin(n, name, time.Millisecond, 480*time.Hour, into) // the connection table's clock wraps around after 49 days
}

func (d *decoder) durationWithin(n *node, name string, least, most time.Duration, into *time.Duration) {
	if n.kind == integer {
		d.fail(n.at, fmt.Sprintf("%s %s has no unit", name, wording.Quote(n.text)), "a time has one", fmt.Sprintf("write %ss if seconds are meant", n.text))
		return
	}
	if n.kind != text {
		d.fail(n.at, fmt.Sprintf("%q is %s", name, kindNames[n.kind]), "a time is expected", "write it like 900s, 15m or 1h30m")
		return
	}
	s, ok := d.str(n, name)
	if !ok {
		return
	}
	v, err := time.ParseDuration(s)
	switch {
	case err != nil:
		d.fail(n.at, fmt.Sprintf("%s %s is no time", name, wording.Quote(s)), "a time is numbers with units", "write it like 900s, 15m or 1h30m")
	case v < least || v > most:
		d.fail(n.at, fmt.Sprintf("%s %s is out of range", name, wording.Quote(s)), fmt.Sprintf("%s to %s are allowed", durationText(least), durationText(most)), "write a time in this range")
	default:
		*into = v
	}
}

// label reads a name that is shown to people: one word, so that it stays one column of a table.
func (d *decoder) label(n *node, name string) (string, bool) {
	const longest = 63
	s, ok := d.str(n, name)
	if !ok {
		return "", false
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			d.fail(n.at, fmt.Sprintf("%s %s has %q in it", name, wording.Quote(s), r), "names are one word of ASCII", "write letters, digits, - and .")
			return "", false
		}
	}
	if len(s) > longest {
		d.fail(n.at, fmt.Sprintf("%s %s is too long", name, wording.Quote(s)), fmt.Sprintf("at most %d characters are allowed", longest), "write a shorter one")
		return "", false
	}
	return s, true
}

// choice reads one of names; later are those of later versions.
func (d *decoder) choice(n *node, name string, names, later []string) (string, bool) {
	if n.kind == boolean && n.text == "false" && wording.Nearest("off", names) == "off" {
		d.fail(n.at, fmt.Sprintf("%q is true or false", name), "a string is expected", `write "off"`)
		return "", false
	}
	s, ok := d.str(n, name)
	if !ok {
		return "", false
	}
	for _, known := range names {
		if s == known {
			return s, true
		}
	}
	for _, known := range later {
		if s == known {
			d.fail(n.at, fmt.Sprintf("%s %q is not supported by this version", name, s), "a later version has it", "write "+wording.Enumerate(names, "or"))
			return "", false
		}
	}
	d.fail(n.at, fmt.Sprintf("unknown %s %s", name, wording.Quote(s)), "this version has "+wording.Enumerate(names, "and"), wording.Suggest(s, names))
	return "", false
}

func (d *decoder) decodeFlows(n *node) {
	const most = 100_000_000 // some 20 GB
	d.decode(n, `"flows"`, []key{
		{name: "max", decode: func(n *node) {
			if v, ok := d.number(n, "max", 1, most); ok {
				d.flows.Max = v
			}
		}},
	})
}
