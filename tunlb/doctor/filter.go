package doctor

import (
	"slices"
	"strings"
)

// What the packet filter does with packets of tunlb's. Its rules are gone through as the kernel does it, as far as
// they ask for devices and for the state of the connection; what else they ask for may or may not be so.

// chain is a chain of the packet filter.
type chain struct {
	family, table, name string
	hook                string // "": only other chains lead to it
	drop                bool   // its policy; valid iff there is a hook
	rules               []filterRule
	legacy              bool // the whole table is of the older iptables, whose rules are not known
}

func (c *chain) String() string { return c.family + " " + c.table + " " + c.name }

// filterRule is as much of a rule as says whether packets get through.
type filterRule struct {
	conditions []condition
	verdict    string // accept, drop, jump, goto or return; "" goes on
	target     string // the chain's name; valid iff the verdict is jump or goto
	xtables    bool   // iptables has made it
}

// condition is something that a rule asks for of a packet.
type condition struct {
	what   string   // iif, oif, state, rpf (the way back to the source is another device); "" is anything else
	not    bool     //
	names  []string // of devices, one of them; with a * at the end all that begin so. Valid iff what is iif or oif
	states uint32   // valid iff what is state
}

// States of connections, as the filter numbers them.
const (
	stateInvalid     = 1 << 0
	stateEstablished = 1 << 1
	stateNew         = 1 << 3
)

// passage is a packet that has to get through.
type passage struct {
	what     string // for people
	family   int
	iif, oif string
	state    uint32
	strange  bool // the way back to its source is another device than iif
}

type answerTo uint8

const (
	no answerTo = iota
	maybe
	yes
)

func (c *condition) holds(p *passage) answerTo {
	is := false
	switch c.what {
	case "iif":
		is = named(c.names, p.iif)
	case "oif":
		is = named(c.names, p.oif)
	case "state":
		is = c.states&p.state != 0
	case "rpf":
		is = p.strange
	default:
		return maybe
	}
	if is != c.not {
		return yes
	}
	return no
}

func named(names []string, device string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		prefix, open := strings.CutSuffix(n, "*")
		return n == device || open && strings.HasPrefix(device, prefix)
	})
}

func (r *filterRule) holds(p *passage) answerTo {
	all := yes
	for i := range r.conditions {
		all = min(all, r.conditions[i].holds(p))
	}
	return all
}

// blame is who drops a packet.
type blame struct {
	chain  *chain
	policy bool // of the chain; else it is one of its rules
	sure   bool // else only if no rule accepts it first whose conditions are not known
	rule   *filterRule
}

// drops says who drops a packet at a hook, sure ones first.
func (s *space) drops(hook string, p passage) (list []blame) {
	for i := range s.chains {
		c := &s.chains[i]
		if c.hook != hook || c.legacy || !c.sees(p.family) {
			continue
		}
		w := walk{space: s, packet: &p}
		if out := w.chain(c, true, 0); out != no && c.drop {
			w.blamed = append(w.blamed, blame{chain: c, policy: true, sure: out == yes})
		}
		list = append(list, w.blamed...)
	}
	slices.SortStableFunc(list, func(a, b blame) int {
		switch {
		case a.sure == b.sure:
			return 0
		case a.sure:
			return -1
		}
		return 1
	})
	return list
}

// sees says whether packets of a family, routed ones, come through the chain.
func (c *chain) sees(family int) bool { return c.family == "inet" || c.family == ip4or6(family) }

// walk is a packet's way through a base chain and those that it leads to.
type walk struct {
	space  *space
	packet *passage
	blamed []blame
}

// maxJumps is the kernel's own limit.
const maxJumps = 16

// chain goes through a chain and says whether the packet comes out at its end, once it is in there. sure is whether it
// comes there at all.
func (w *walk) chain(c *chain, sure bool, jumps int) (out answerTo) {
	if c == nil || jumps > maxJumps {
		return maybe
	}
	here := true  // the packet surely comes to the next rule, once it is in the chain
	left := false // it may have left for the end already
	end := func(out answerTo) answerTo {
		if out == no && left || out == yes && !here {
			return maybe
		}
		return out
	}
	for i := range c.rules {
		r := &c.rules[i]
		holds := r.holds(w.packet)
		if holds == no || r.verdict == "" {
			continue
		}
		certain, then := holds == yes, no
		switch r.verdict {
		case "drop":
			if certain {
				w.blamed = append(w.blamed, blame{chain: c, sure: sure && here, rule: r})
			}
		case "return":
			then = yes
		case "jump", "goto":
			then = w.chain(w.space.chainNamed(c, r.target), sure && here && certain, jumps+1)
		}
		if r.verdict == "jump" && then == yes {
			continue // it is back
		}
		if certain && (then == no || r.verdict != "jump") {
			return end(then)
		}
		here, left = false, left || then != no && r.verdict != "jump"
	}
	return end(yes)
}

// chainNamed finds another chain of the same table.
func (s *space) chainNamed(of *chain, name string) *chain {
	for i := range s.chains {
		if c := &s.chains[i]; c.family == of.family && c.table == of.table && c.name == name {
			return c
		}
	}
	return nil
}

// xtables says whether a table is iptables': then its own command has to change it, and Docker wants that in a chain of
// its own.
func (s *space) xtables(of *chain) (yes bool, chain string) {
	chain = of.name
	for i := range s.chains {
		c := &s.chains[i]
		if c.family != of.family || c.table != of.table {
			continue
		}
		if c.name == "DOCKER-USER" {
			yes, chain = true, c.name
		}
		yes = yes || slices.ContainsFunc(c.rules, func(r filterRule) bool { return r.xtables })
	}
	return yes, chain
}
