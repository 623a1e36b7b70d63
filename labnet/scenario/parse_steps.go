package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// What steps get that do not say otherwise, and at most.
const (
	defaultTimeout = 5 * time.Second
	maxTimeout     = 10 * time.Minute
	maxCount       = 100_000
	maxParallel    = 1000
)

// stepAt is where the parts of a step stand.
type stepAt struct {
	at     pos
	values map[string]pos // of the action's keys, of "within", "expect" and "expect.KEY"
}

// place is where a key's value stands, or else the step.
func (s *stepAt) place(key string) pos {
	if at, ok := s.values[key]; ok {
		return at
	}
	return s.at
}

// step reads one step: its action's key, name, within and expect.
func (d *decoder) step(n *node) {
	s, at := Step{Line: n.at.line}, &stepAt{at: n.at, values: make(map[string]pos)}
	var actions []pos
	var keys []key
	before := len(d.errs)
	for _, a := range d.actions(&s, at) {
		keys = append(keys, key{a.name, func(n *node) { actions = append(actions, n.at); a.decode(n) }})
	}
	keys = append(keys,
		key{"name", d.into("name", &s.Name)},
		key{"within", func(n *node) { at.values["within"] = n.at; s.Within = d.duration(n, "within", maxTimeout) }},
		key{"expect", func(n *node) { at.values["expect"] = n.at; d.expectation(n, &s.Expect, at) }},
	)
	if !d.fields(n, "a step", keys...) {
		return
	}
	switch {
	case len(actions) == 0 && len(d.errs) > before: // the action may be what is misspelt
		return
	case len(actions) == 0:
		d.fail(n.at, "step without an action", "it would do nothing", "write one of "+wording.Enumerate(actionNames(d.actions(&s, at)), "and"))
		return
	case len(actions) > 1:
		d.fail(actions[1], "second action in a step", "a step does one thing", "begin a step of its own with -")
		return
	case s.Do == nil: // reported
		return
	}
	d.lab.Steps = append(d.lab.Steps, s)
	d.at.steps = append(d.at.steps, at)
}

func actionNames(keys []key) (names []string) {
	for _, k := range keys {
		names = append(names, k.name)
	}
	return names
}

// actions are the keys of a step that say what it does.
func (d *decoder) actions(s *Step, at *stepAt) []key {
	return []key{
		{"request", func(n *node) { s.Do = d.request(n, at) }},
		{"udp", func(n *node) { s.Do = d.udp(n, at) }},
		{"ping", func(n *node) { s.Do = d.ping(n, at) }},
		{"hold", func(n *node) { s.Do = d.hold(n, at) }},
		{"check", func(n *node) {
			c := &Check{Timeout: defaultTimeout}
			d.action(n, "check", at, []string{"hold"}, at.str(d, "hold", &c.Hold), d.timeout(&c.Timeout))
			s.Do = c
		}},
		{"end", func(n *node) {
			e := &End{}
			d.action(n, "end", at, []string{"hold"}, at.str(d, "hold", &e.Hold))
			s.Do = e
		}},
		{"drain", func(n *node) { s.Do = d.order(n, "drain", at) }},
		{"undrain", func(n *node) { s.Do = d.order(n, "undrain", at) }},
		{"weight", func(n *node) { s.Do = d.order(n, "weight", at) }},
		{"kill", func(n *node) { s.Do = d.kill(n, at) }},
		{"behave", func(n *node) { s.Do = d.behave(n, at) }},
		{"impair", func(n *node) { s.Do = d.impair(n, at) }},
		{"status", func(n *node) { s.Do = d.status(n, at) }},
		{"wait", func(n *node) { s.Do = &Wait{d.duration(n, "wait", maxTimeout)} }},
		{"drops", func(n *node) { s.Do = d.drops(n) }},
		{"explain", func(n *node) { s.Do = d.explain(n, at) }},
	}
}

// action reads an action's map and wants some of its keys.
func (d *decoder) action(n *node, name string, at *stepAt, needed []string, keys ...key) {
	if !d.fields(n, fmt.Sprintf("%q", name), keys...) {
		return
	}
	for _, f := range n.fields {
		at.values[f.key] = f.value.at
	}
	for _, k := range needed {
		if n.field(k) == nil {
			d.fail(n.at, fmt.Sprintf("%s without %q", name, k), "it has to be said", fmt.Sprintf("write %s: {%s: ...}", name, strings.Join(needed, ": ..., ")))
		}
	}
}

// str is the key of a string.
func (s *stepAt) str(d *decoder, name string, v *string) key { return key{name, d.into(name, v)} }

func (d *decoder) timeout(v *time.Duration) key {
	return key{"timeout", func(n *node) {
		before := len(d.errs)
		if *v = d.duration(n, "timeout", maxTimeout); *v == 0 && len(d.errs) == before {
			d.fail(n.at, fmt.Sprintf("timeout %s is no time at all", shown(n)), "nothing answers within it", "write one like 2s, or remove the key")
		}
	}}
}

func (d *decoder) count(v *int) key {
	return key{"count", func(n *node) { *v = d.number(n, "count", 1, maxCount) }}
}

func (d *decoder) target(v *netip.AddrPort) key {
	return key{"to", func(n *node) { *v = d.addrPort(n, "to") }}
}

func (d *decoder) request(n *node, at *stepAt) Action {
	r := &Request{Count: 1, Parallel: 1, Timeout: defaultTimeout}
	d.action(n, "request", at, []string{"from", "url"}, at.str(d, "from", &r.From), d.count(&r.Count), d.timeout(&r.Timeout),
		key{"url", func(n *node) { d.url(n, r) }},
		key{"parallel", func(n *node) { r.Parallel = d.number(n, "parallel", 1, maxParallel) }},
	)
	return r
}

// url reads http://ADDRESS[:PORT]/PATH: names are not resolved in labs.
func (d *decoder) url(n *node, r *Request) {
	const instead = `write it like "http://203.0.113.22/" or "http://[2001:db8::22]:8080/"`
	s, ok := d.str(n, "url")
	if !ok {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil {
		d.fail(n.at, fmt.Sprintf("url %s is none of HTTP", wording.Quote(s)), "the servers speak HTTP without TLS", instead)
		return
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	to, err := netip.ParseAddrPort(net.JoinHostPort(u.Hostname(), port))
	if err != nil || to.Port() == 0 {
		d.fail(n.at, fmt.Sprintf("url %s has no address", wording.Quote(s)), "names are not resolved in a lab", instead)
		return
	}
	if u.Path == "" {
		u.Path = "/"
	}
	r.URL, r.To = u.String(), to
}

func (d *decoder) udp(n *node, at *stepAt) Action {
	u := &UDP{Count: 1, Timeout: defaultTimeout}
	d.action(n, "udp", at, []string{"from", "to"}, at.str(d, "from", &u.From), d.target(&u.To), d.count(&u.Count), d.timeout(&u.Timeout))
	return u
}

func (d *decoder) ping(n *node, at *stepAt) Action {
	p := &Ping{Count: 1, Timeout: defaultTimeout}
	d.action(n, "ping", at, []string{"from", "to"}, at.str(d, "from", &p.From), d.count(&p.Count), d.timeout(&p.Timeout),
		key{"to", func(n *node) { p.To = d.address(n, "to") }})
	return p
}

func (d *decoder) hold(n *node, at *stepAt) Action {
	h := &Hold{Timeout: defaultTimeout}
	d.action(n, "hold", at, []string{"name", "from", "to"}, at.str(d, "name", &h.Name), at.str(d, "from", &h.From), d.target(&h.To), d.timeout(&h.Timeout))
	return h
}

func (d *decoder) order(n *node, do string, at *stepAt) Action {
	o := &Order{Do: do}
	keys, needed := []key{at.str(d, "server", &o.Server), at.str(d, "service", &o.Service)}, []string{"server"}
	if do == "weight" {
		keys, needed = append(keys, key{"weight", func(n *node) { o.Weight = d.number(n, "weight", 0, 65535) }}), append(needed, "weight")
	}
	d.action(n, do, at, needed, keys...)
	return o
}

func (d *decoder) kill(n *node, at *stepAt) Action {
	k := &Kill{}
	d.action(n, "kill", at, nil, at.str(d, "server", &k.Server), at.str(d, "service", &k.Service),
		key{"client", func(n *node) { k.Client = d.address(n, "client") }})
	if n.kind == mapping && len(n.fields) == 0 {
		d.fail(n.at, "kill of all connections", "it is to be said which ones", "write kill: {server: rs1}, or service: or client:")
	}
	return k
}

func (d *decoder) behave(n *node, at *stepAt) Action {
	b := &Behave{}
	d.action(n, "behave", at, []string{"host", "port"}, append(d.behaviour(&b.Behaviour), at.str(d, "host", &b.Host),
		key{"port", func(n *node) { b.Port = uint16(d.number(n, "port", 1, 65535)) }})...)
	return b
}

func (d *decoder) impair(n *node, at *stepAt) Action {
	i, before := &Impair{}, len(d.errs)
	d.action(n, "impair", at, []string{"host", "network"}, append(d.link(&i.Impairment), at.str(d, "host", &i.Host), at.str(d, "network", &i.Network))...)
	d.checkLink(n.at, i.Impairment, before)
	return i
}

func (d *decoder) status(n *node, at *stepAt) Action {
	s := &Status{}
	keys := []key{at.str(d, "server", &s.Server), at.str(d, "service", &s.Service),
		{"health", func(n *node) { s.Health = d.choice(n, "health", "up", "down", "checking") }},
		{"drained", func(n *node) { v := d.boolean(n, "drained"); s.Drained = &v }},
	}
	for _, name := range statusCounters() {
		keys = append(keys, key{name, func(n *node) { s.Counts = append(s.Counts, Count{name, d.condition(n, name, wholeNumber)}) }})
	}
	d.action(n, "status", at, nil, keys...)
	if n.kind != mapping {
		return s
	}
	switch {
	case s.Server == "" && s.Service == "":
		d.fail(n.at, "status of nobody", "it is a server's or a service's", "write server: or service:")
	case s.Server == "" && (s.Health != "" || s.Drained != nil || slices.ContainsFunc(s.Counts, func(c Count) bool { return serverCounter(c.Name) })):
		d.fail(n.at, "status of a service with what only servers have", "these are health, drained, weight, active, inactive and passing", "write server:, too")
	case s.Health == "" && s.Drained == nil && len(s.Counts) == 0:
		d.fail(n.at, "status without what it is to be", "it would always be true", "write health: up, or one of "+wording.Enumerate(statusCounters(), "and"))
	}
	return s
}

func (d *decoder) drops(n *node) Action {
	drops := &Drops{}
	var reasons []key
	for _, name := range dropReasons() {
		reasons = append(reasons, key{name, func(n *node) {
			drops.Counts = append(drops.Counts, Count{name, d.condition(n, name, wholeNumber)})
		}})
	}
	if d.fields(n, `"drops"`, reasons...) && len(n.fields) == 0 {
		d.fail(n.at, "drops without a reason", "it would always be true", `write drops: {no-server: ">=1"}`)
	}
	return drops
}

func (d *decoder) explain(n *node, at *stepAt) Action {
	e := &Explain{Protocol: "tcp"}
	d.action(n, "explain", at, []string{"client", "vip"},
		key{"client", func(n *node) { e.Client = d.addrPort(n, "client") }},
		key{"vip", func(n *node) { e.VIP = d.addrPort(n, "vip") }},
		key{"protocol", func(n *node) { e.Protocol = d.choice(n, "protocol", "tcp", "udp") }})
	return e
}

// condition reads 3, ">=1" or "<5".
func (d *decoder) condition(n *node, name string, value func(string) (int64, error)) Condition {
	c, err := parseCondition(n.text, value)
	if n.kind >= list || err != nil || c.Value < 0 {
		example := map[bool]string{true: `write it like 3, ">=1" or "<5"`, false: `write it like ">=20ms" or "<1s"`}
		d.fail(n.at, fmt.Sprintf("%s %s is no condition", name, shown(n)), "it is a number, or a comparison with one", example[name != "took"])
	}
	return c
}

// expectation reads what is to come of a step.
func (d *decoder) expectation(n *node, e *Expectation, at *stepAt) {
	note := func(name string, decode func(*node)) key {
		return key{name, func(n *node) { at.values["expect."+name] = n.at; decode(n) }}
	}
	d.fields(n, `"expect"`,
		note("status", func(n *node) { e.Status = d.number(n, "status", 100, 599) }),
		note("server", func(n *node) {
			if s, ok := d.str(n, "server"); ok {
				e.AnyOf = []string{s}
			}
		}),
		note("servers", func(n *node) { d.servers(n, e) }),
		note("client", func(n *node) {
			d.oneOrMore(n, "client", func(n *node) { e.Client = append(e.Client, d.address(n, "client")) })
		}),
		note("error", func(n *node) {
			d.oneOrMore(n, "error", func(n *node) {
				e.Errors = append(e.Errors, d.choice(n, "error", failures()...))
			})
		}),
		note("alive", func(n *node) { v := d.boolean(n, "alive"); e.Alive = &v }),
		note("took", func(n *node) { c := d.condition(n, "took", nanoseconds); e.Took = &c }),
		note("bytes", func(n *node) { c := d.condition(n, "bytes", wholeNumber); e.Bytes = &c }),
	)
	if n.field("server") != nil && n.field("servers") != nil {
		d.fail(n.at, `"server" beside "servers"`, "both say who answers", "remove one of them")
	}
}

// servers reads {rs1: 2, rs2: ">=1"} or [rs1, rs2].
func (d *decoder) servers(n *node, e *Expectation) {
	if n.kind != mapping {
		d.oneOrMore(n, "servers", func(n *node) {
			s, _ := d.str(n, "servers")
			e.AnyOf = append(e.AnyOf, s)
		})
		return
	}
	d.named(n, "servers", func(name string, _ pos, n *node) {
		e.Servers = append(e.Servers, ServerIs{name, d.condition(n, name, wholeNumber)})
	})
}
