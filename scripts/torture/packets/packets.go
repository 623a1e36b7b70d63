// Package packets attacks an engine with packets: mutated ones, guessed ones, fragments, errors, chosen addresses, and a
// week of connections by a clock that runs as fast as it can. Each case is a function that both the torture command and
// the tests call, long there and short here.
//
// It owns the attacks and their verdicts. The engine is the real one with ports in memory; there is no device, no
// namespace and no sleeping. What is valid gVisor's headers and stack say, as another implementation.
package packets

import (
	"context"
	"fmt"
	"strings"
)

// Case is one attack.
type Case struct {
	Name, What  string
	Target      string // in words
	Long, Short int    // how many packets, tries or lives
	// Run attacks with n of them. The same seed does the same. An error says that the case could not be run; what the
	// attack has achieved is in the Result.
	Run func(ctx context.Context, n int, seed uint64) (*Result, error)
}

// Cases lists all of them.
func Cases() []Case {
	return []Case{
		{"hash-flood", "tuples chosen to collide, without the seed", "a look-up costs at most twice what random ones cost", 1 << 18, 1 << 14, HashFlood},
		{"mutated", "mutated packets through every kind of port", "no panic, nothing malformed leaves, nothing stays", 10_000_000, 200_000, Mutated},
		{"blind", "guessed RST, SYN, FIN and data into established connections, tries each", "no connection disturbed", 1_000_000, 20_000, Blind},
		{"icmp-errors", "guessed and nonsensical ICMP errors", "none passes but by a right guess; genuine ones do", 1_000_000, 50_000, Errors},
		{"fragments", "overlapping and tiny fragments, floods", "at most 4 MiB, honest datagrams get through", 1_000_000, 50_000, Fragments},
		{"week", "a week of connections with every ending", "heap flat within 2 %, nothing left, counters add up", 10_000_000, 100_000, Week},
	}
}

// Result is what an attack has come to. The zero value is ready.
type Result struct {
	Checks   []Check
	Figures  []Figure // for information
	Failures []string // what should not have happened in the packets themselves; none: it has held
}

// Check is a figure beside its target, or a proof that the attack happened.
type Check struct {
	What, Unit string
	Got, Limit float64
	Most       bool // Limit is the most, not the least
	Proof      bool
}

// OK says whether the target is met.
func (c *Check) OK() bool { return c.Got >= c.Limit && !c.Most || c.Got <= c.Limit && c.Most }

// Failed says whether a target is missed or something has happened that should not.
func (r *Result) Failed() bool {
	for i := range r.Checks {
		if !r.Checks[i].OK() {
			return true
		}
	}
	return len(r.Failures) > 0
}

func (r *Result) atMost(what string, got, limit float64, unit string) {
	r.Checks = append(r.Checks, Check{What: what, Unit: unit, Got: got, Limit: limit, Most: true})
}

func (r *Result) atLeast(what string, got, limit float64, unit string) {
	r.Checks = append(r.Checks, Check{What: what, Unit: unit, Got: got, Limit: limit})
}

func (r *Result) prove(what string, got, limit float64, unit string) {
	r.Checks = append(r.Checks, Check{What: what, Unit: unit, Got: got, Limit: limit, Proof: true})
}

// Figure is one measured value.
type Figure struct {
	Name  string
	Value float64
	Unit  string
}

func (r *Result) figure(name string, value float64, unit string) {
	r.Figures = append(r.Figures, Figure{name, value, unit})
}

// maxFailures are told of; more are like them.
const maxFailures = 20

func (r *Result) failf(format string, args ...any) {
	if len(r.Failures) < maxFailures {
		r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
	}
}

// want fails unless the condition holds.
func (r *Result) want(holds bool, format string, args ...any) {
	if !holds {
		r.failf(format, args...)
	}
}

// drops adds the reasons for drops that happened.
func (r *Result) drops(site string, of map[string]uint64) {
	for _, name := range sortedKeys(of) {
		r.figure(site+" dropped "+name, float64(of[name]), "packets")
	}
}

// String is a line each.
func (r *Result) String() string {
	var b strings.Builder
	for i := range r.Checks {
		c := &r.Checks[i]
		bound := "least"
		if c.Most {
			bound = "most"
		}
		fmt.Fprintf(&b, "%-48s %14.6g %s, wants %s %g\n", c.What, c.Got, c.Unit, bound, c.Limit)
	}
	for _, f := range r.Figures {
		fmt.Fprintf(&b, "%-48s %14.6g %s\n", f.Name, f.Value, f.Unit)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "FAILED: %s\n", f)
	}
	return b.String()
}
