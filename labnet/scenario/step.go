package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Step is one thing done and what is to come of it.
type Step struct {
	Line int // in the file
	Name string
	// Within is how long the expectation may take to come true; 0: it holds at once.
	Within time.Duration
	Do     Action
	Expect Expectation
}

// Title is the step's name, or what it does if it has none.
func (s *Step) Title() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Do.String()
}

// Action is what a step does: one of the types below.
type Action interface {
	// Key is the action's in the file.
	Key() string
	// String says in one line what is done.
	String() string
}

// Request asks for a URL, each time over a new connection.
type Request struct {
	From     string
	URL      string
	To       netip.AddrPort // of URL
	Count    int            // at least 1
	Parallel int            // at least 1: how many at once
	Timeout  time.Duration  // of each, on the lab's clock
}

// UDP sends datagrams to a udp-echo, each from a socket of its own.
type UDP struct {
	From    string
	To      netip.AddrPort
	Count   int
	Timeout time.Duration
}

// Ping sends echo requests.
type Ping struct {
	From    string
	To      netip.Addr
	Count   int
	Timeout time.Duration
}

// Hold opens a connection to a tcp-echo and keeps it under a name.
type Hold struct {
	Name    string
	From    string
	To      netip.AddrPort
	Timeout time.Duration
}

// Check sends something over a connection that is held, and waits for the echo.
type Check struct {
	Hold    string
	Timeout time.Duration
}

// End closes a connection that is held.
type End struct{ Hold string }

// Order is `tunlb drain`, `tunlb undrain` or `tunlb weight`.
type Order struct {
	Do              string // drain, undrain or weight
	Service, Server string
	Weight          int
}

// Kill is `tunlb kill`: it ends connections.
type Kill struct {
	Service, Server string
	Client          netip.Addr
}

// Behave changes a host's server program.
type Behave struct {
	Host string
	Port uint16
	Behaviour
}

// Impair changes a link.
type Impair struct {
	Host, Network string
	Impairment
}

// Status looks at tunlb's status: of a server, or of a whole service.
type Status struct {
	Service, Server string
	Health          string // "": whatever it is
	Drained         *bool
	Counts          []Count
}

// Count is a number of the status, or of drops, that is to fulfil a condition.
type Count struct {
	Name string
	Is   Condition
}

// Wait lets time pass on the lab's clock.
type Wait struct{ For time.Duration }

// Drops looks at how many packets tunlb has dropped, by reason.
type Drops struct{ Counts []Count }

// Explain asks which server a client would get.
type Explain struct {
	Client, VIP netip.AddrPort
	Protocol    string // tcp or udp
}

// The keys of actions.
func (*Request) Key() string { return "request" }
func (*UDP) Key() string     { return "udp" }
func (*Ping) Key() string    { return "ping" }
func (*Hold) Key() string    { return "hold" }
func (*Check) Key() string   { return "check" }
func (*End) Key() string     { return "end" }
func (o *Order) Key() string { return o.Do }
func (*Kill) Key() string    { return "kill" }
func (*Behave) Key() string  { return "behave" }
func (*Impair) Key() string  { return "impair" }
func (*Status) Key() string  { return "status" }
func (*Wait) Key() string    { return "wait" }
func (*Drops) Key() string   { return "drops" }
func (*Explain) Key() string { return "explain" }

func (r *Request) String() string {
	return fmt.Sprintf("%s asks for %s%s", r.From, r.URL, times(r.Count))
}
func (u *UDP) String() string {
	return fmt.Sprintf("%s sends UDP to %s%s", u.From, u.To, times(u.Count))
}
func (p *Ping) String() string  { return fmt.Sprintf("%s pings %s%s", p.From, p.To, times(p.Count)) }
func (h *Hold) String() string  { return fmt.Sprintf("%s opens %s to %s", h.From, h.Name, h.To) }
func (c *Check) String() string { return "check " + c.Hold }
func (e *End) String() string   { return "end " + e.Hold }
func (w *Wait) String() string  { return fmt.Sprintf("wait %v", w.For) }
func (d *Drops) String() string { return "drops " + countsText(d.Counts) }

func (o *Order) String() string {
	if o.Do == "weight" {
		return fmt.Sprintf("weight of %s: %d", join("/", o.Service, o.Server), o.Weight)
	}
	return o.Do + " " + join("/", o.Service, o.Server)
}

func (k *Kill) String() string {
	what := []string{"kill connections"}
	if k.Service+k.Server != "" {
		what = append(what, "to", join("/", k.Service, k.Server))
	}
	if k.Client.IsValid() {
		what = append(what, "of", k.Client.String())
	}
	return strings.Join(what, " ")
}

func (b *Behave) String() string {
	return fmt.Sprintf("%s port %d is %s", b.Host, b.Port, behaviourText(b.Behaviour))
}

func (i *Impair) String() string {
	return fmt.Sprintf("link of %s to %s: %s", i.Host, i.Network, i.Impairment)
}

func (s *Status) String() string {
	var is []string
	if s.Health != "" {
		is = append(is, "is "+s.Health)
	}
	if s.Drained != nil {
		is = append(is, map[bool]string{true: "is drained", false: "is not drained"}[*s.Drained])
	}
	if len(s.Counts) > 0 {
		is = append(is, countsText(s.Counts))
	}
	return join("/", s.Service, s.Server) + " " + strings.Join(is, ", ")
}

func (e *Explain) String() string {
	return fmt.Sprintf("who would serve %s at %s/%s", e.Client, e.VIP, e.Protocol)
}

// Expectation is what is to come of a step. The zero value wants success: an answer, with HTTP a good one.
type Expectation struct {
	Status  int          // of HTTP; 0: 200, unless Errors
	Servers []ServerIs   // how often each has answered; no other server may have
	AnyOf   []string     // the servers that may have answered
	Client  []netip.Addr // the client that each server has seen is one of these
	Errors  []string     // each attempt fails with one of these
	Alive   *bool        // check: whether the connection is
	Took    *Condition   // of each attempt, in nanoseconds
	Bytes   *Condition   // of each answer's body
}

// ServerIs is how often a server is to answer.
type ServerIs struct {
	Server string
	Times  Condition
}

// Condition compares a number. It is written 3, ">=1", "<5".
type Condition struct {
	Op    string // =, <, <=, >, >= or !=
	Value int64
	text  string
}

// String is the condition as in the file.
func (c Condition) String() string { return c.text }

// Holds compares.
func (c Condition) Holds(v int64) bool {
	switch c.Op {
	case "<":
		return v < c.Value
	case "<=":
		return v <= c.Value
	case ">":
		return v > c.Value
	case ">=":
		return v >= c.Value
	case "!=":
		return v != c.Value
	}
	return v == c.Value
}

// parseCondition reads a comparison of numbers, which value reads.
func parseCondition(s string, value func(string) (int64, error)) (Condition, error) {
	c := Condition{Op: "=", text: s}
	rest := strings.TrimSpace(s)
	for _, op := range []string{"<=", ">=", "!=", "<", ">", "="} { // the longer ones first
		if after, ok := strings.CutPrefix(rest, op); ok {
			c.Op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	var err error
	c.Value, err = value(rest)
	return c, err
}

func wholeNumber(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

func nanoseconds(s string) (int64, error) {
	d, err := time.ParseDuration(s)
	return int64(d), err
}

func times(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(", %d times", n)
}

func countsText(counts []Count) string {
	words := make([]string, len(counts))
	for i, c := range counts {
		words[i] = c.Name + " " + c.Is.String()
	}
	return strings.Join(words, ", ")
}

// join joins what is not empty.
func join(sep string, words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), sep)
}

func behaviourText(b Behaviour) string {
	var words []string
	if b.Stopped {
		words = append(words, "stopped")
	}
	if b.Silent {
		words = append(words, "silent")
	}
	if b.Fail != 0 {
		words = append(words, fmt.Sprintf("failing with %d", b.Fail))
	}
	if b.Slow != 0 {
		words = append(words, "slow by "+b.Slow.String())
	}
	if words == nil {
		return "well"
	}
	return strings.Join(words, ", ")
}

// String is the impairment as people read it: "good" if it does nothing.
func (i Impairment) String() string {
	var words []string
	if i.Delay != 0 {
		words = append(words, "delay "+i.Delay.String())
	}
	if i.Loss != 0 {
		words = append(words, "loss "+percent(i.Loss))
	}
	if i.Reorder != 0 {
		words = append(words, "reorder "+percent(i.Reorder))
	}
	if words == nil {
		return "good"
	}
	return strings.Join(words, ", ")
}

func percent(v float64) string { return strconv.FormatFloat(v*100, 'f', -1, 64) + "%" }
