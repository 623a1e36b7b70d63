package policy

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Roster is what operators and health checks have said about servers, on top of the configured specs: who is
// drained, has another weight, is up or down, has come up lately, and whether the sorry server serves. Compose
// makes the specs of it that Build is to have.
//
// Make it with NewRoster; it needs no closing. Not safe for concurrent use. Times are those of one monotonic
// clock of the caller's.
type Roster struct {
	services []*roll // in the order of the specs
	byName   map[string]*roll
	events   []Event
	dirty    bool
	urgent   bool
}

// roll is a service in the roster.
type roll struct {
	spec      Spec      // as configured
	plain     Spec      // with its defaults and addresses unmapped: what identity goes by
	members   []*member // parallel to Servers of both
	byAddress map[netip.AddrPort]*member
	upWeight  int  // of those that would take connections, were there no sorry server
	below     bool // the quorum is lost
	composed  Spec // valid unless stale
	stale     bool
	scale     int           // of the composed weights
	rampStep  time.Duration // when composed changes by itself; valid iff ramping
	ramping   bool
}

// member is a server of a service in the roster.
type member struct {
	name       string
	address    netip.AddrPort // unmapped
	configured int            // weight
	ordered    int            // weight by an operator's word; valid iff hasOrdered
	hasOrdered bool
	drained    bool
	health     healthState
	// joins says that others were up when the first check of the server began.
	joins     bool
	since     time.Duration // of health
	cause     string        // of the last failure
	successes int           // in a row, until now
	failures  int           // likewise
	rises     bool          // has come up, and its weight may still be on its way
	risesFrom time.Duration
}

// healthState is what is known of a server.
type healthState uint8

const (
	unchecked healthState = iota // nobody checks: taken as up
	checking                     // no check was decisive yet: taken as down
	up
	down
)

var healthNames = [...]string{unchecked: "", checking: "checking", up: "up", down: "down"}

// Result is how a check of a server went.
type Result struct {
	Service string         // its name
	Server  netip.AddrPort // its address, as configured
	OK      bool
	Cause   string // of the failure, for people
}

// What operators are told; the errors wrap one of these.
var (
	ErrNoSuchService   = errors.New("no such service")
	ErrNoSuchServer    = errors.New("no such server")
	ErrAmbiguousServer = errors.New("several servers have that name")
	ErrWeight          = errors.New("weight is out of range")
)

// NewRoster makes an empty one.
func NewRoster() *Roster { return &Roster{byName: make(map[string]*roll)} }

// Configure begins with specs or goes over to others. Services stay the same by where they listen, servers by
// their address, as in Build: what is known of them is kept. A weight that an operator has ordered is kept
// until the configured one changes. Health is kept; where the check asks for something else now, or there was none,
// what has served goes on until the check has failed. A new server that nobody has checked yet counts as down, one
// whose service checks nothing as up. It fails as Normalize does, and nothing has changed then.
func (r *Roster) Configure(specs []Spec, now time.Duration) error {
	plain, err := Normalize(specs)
	if err != nil {
		return err
	}
	before := make([]Spec, len(r.services))
	for i, s := range r.services {
		before[i] = s.plain
	}
	services, byName := make([]*roll, len(specs)), make(map[string]*roll, len(specs))
	for i, k := range match(plain, before) {
		s := &roll{spec: specs[i], plain: plain[i], stale: true, byAddress: make(map[netip.AddrPort]*member)}
		s.spec.Servers = slices.Clone(s.spec.Servers)
		old := &roll{}
		if k >= 0 {
			old = r.services[k]
		}
		s.enlist(old, now)
		s.upWeight = s.weigh()
		s.below = s.upWeight < s.quorum()
		services[i] = s
		if byName[s.spec.Name] == nil {
			byName[s.spec.Name] = s
		}
		if k >= 0 {
			r.tellQuorum(s, old.below, old.sorry(), now, "another configuration")
		}
	}
	r.services, r.byName, r.dirty = services, byName, true
	return nil
}

// enlist makes the members, and takes over what is known of them.
func (s *roll) enlist(old *roll, now time.Duration) {
	enabled := s.plain.Health.Enabled()
	same := enabled && reflect.DeepEqual(asked(s.plain.Health), asked(old.plain.Health))
	others := false // whether one is up that the new ones join
	for i, server := range s.plain.Servers {
		m, was := &member{since: now}, old.byAddress[server.Address]
		if was != nil {
			*m = *was
			m.hasOrdered = m.hasOrdered && m.configured == server.Weight
			m.rises = m.rises && now-m.risesFrom < old.spec.SlowStart
		}
		if !enabled || !same {
			m.health, m.since, m.cause, m.successes, m.failures, m.rises = unchecked, now, "", 0, 0, false
			if enabled && was != nil && !was.isDown() {
				m.health = up // what serves goes on until the new check has failed
			}
		}
		m.name, m.address, m.configured = s.spec.Servers[i].Name, server.Address, server.Weight
		others = others || m.health == up
		s.members = append(s.members, m)
		s.byAddress[server.Address] = m
	}
	for _, m := range s.members {
		if enabled && m.health == unchecked {
			m.health, m.joins = checking, others
		}
	}
}

// asked is what of a check decides whether earlier results are still worth something.
func asked(h Health) Health {
	h.Interval, h.Timeout, h.Rise, h.Fall, h.Remove = 0, 0, 0, 0, false
	return h
}

// Observe counts a result and says whether the server is now up or down, when it was not before. The first
// success of all is enough to be up, and a server that has been down needs Rise of them in a row; Fall failures
// in a row make it down. Results of servers that the roster does not check are ignored.
func (r *Roster) Observe(res Result, now time.Duration) (changed bool) {
	s := r.byName[res.Service]
	if s == nil {
		return false
	}
	address, err := plain(res.Server)
	m := s.byAddress[address]
	if err != nil || m == nil || m.health == unchecked {
		return false
	}
	before := m.health
	if res.OK {
		m.successes, m.failures = m.successes+1, 0
		if m.health == checking || m.health == down && m.successes >= s.plain.Health.Rise {
			m.rises = m.health == down || m.joins
			m.health, m.risesFrom = up, now
		}
	} else {
		m.successes, m.failures, m.cause = 0, m.failures+1, res.Cause
		if m.health != down && m.failures >= s.plain.Health.Fall {
			m.health, m.rises = down, false
		}
	}
	if m.health == before {
		return false
	}
	m.since = now
	kind, cause := ServerDown, inARow(m.failures, "failure", "failures", res.Cause)
	if m.health == up {
		kind, cause = ServerUp, inARow(m.successes, "success", "successes", "")
	}
	r.tell(s, m, kind, now, cause)
	if before != checking || m.health != down { // else it goes on taking none
		r.changed(s, now, cause)
	}
	return true
}

// quorum is the least weight that has to be up.
func (s *roll) quorum() int { return max(1, s.plain.Quorum) }

// weight is what the server has when it is up for long and the sorry server does not serve.
func (m *member) weight() int {
	switch {
	case m.drained || m.isDown():
		return 0
	case m.hasOrdered:
		return m.ordered
	}
	return m.configured
}

func (m *member) isDown() bool { return m.health == down || m.health == checking }

func (s *roll) weigh() (sum int) {
	for _, m := range s.members {
		sum += m.weight()
	}
	return sum
}

// changed notes that a server of the service has another weight.
func (r *Roster) changed(s *roll, now time.Duration, cause string) {
	s.stale, r.dirty = true, true
	below, sorry, none := s.below, s.sorry(), s.upWeight == 0
	s.upWeight = s.weigh()
	r.urgent = r.urgent || none && s.upWeight > 0
	s.below = s.upWeight < s.quorum()
	r.tellQuorum(s, below, sorry, now, cause)
}

// sorry says whether the sorry server serves alone.
func (s *roll) sorry() bool { return s.below && s.spec.Sorry != nil }

// ServiceState is how a service stands, for listings. A plain value.
type ServiceState struct {
	Service  string        `json:"service"`
	UpWeight int           `json:"up_weight"` // the sum of those that are up and not drained
	Quorum   int           `json:"quorum"`    // what it should be at least
	Below    bool          `json:"below,omitempty"`
	Sorry    bool          `json:"sorry,omitempty"` // the sorry server serves alone
	Scale    int           `json:"scale"`           // effective weights are multiplied by it, for slow start
	Servers  []ServerState `json:"servers"`
}

// ServerState is how a server stands, for listings. A plain value.
type ServerState struct {
	Server     string         `json:"server"`
	Address    netip.AddrPort `json:"address"`
	Health     string         `json:"health,omitempty"` // "up", "down", "checking", or "" if nobody checks
	Since      time.Duration  `json:"since"`            // of Health, on the caller's clock
	Cause      string         `json:"cause,omitempty"`  // of the last failure
	Successes  int            `json:"successes"`        // in a row, until now
	Failures   int            `json:"failures"`         // likewise
	Drained    bool           `json:"drained,omitempty"`
	Configured int            `json:"configured"`        // weight
	Ordered    *int           `json:"ordered,omitempty"` // weight by an operator's word
	Effective  int            `json:"effective"`         // weight as Compose has it at the time
	Rising     bool           `json:"rising,omitempty"`  // slow start is under way
}

// States lists all services and their servers as configured.
func (r *Roster) States(now time.Duration) []ServiceState {
	states := make([]ServiceState, len(r.services))
	for i := range states {
		states[i] = r.State(i, now)
	}
	return states
}

// State is that of the service with this number among those configured.
func (r *Roster) State(i int, now time.Duration) ServiceState {
	s := r.services[i]
	weights, scale := s.weights(now)
	out := ServiceState{s.spec.Name, s.upWeight, s.quorum(), s.below, s.sorry(), scale, make([]ServerState, len(s.members))}
	for k, m := range s.members {
		state := ServerState{
			Server: m.name, Address: m.address,
			Health: healthNames[m.health], Since: m.since, Cause: m.cause, Successes: m.successes, Failures: m.failures,
			Drained: m.drained, Configured: m.configured, Effective: weights[k],
			Rising: m.weight() > 0 && m.share(s.spec.SlowStart, now) < rampParts,
		}
		if m.hasOrdered {
			ordered := m.ordered
			state.Ordered = &ordered
		}
		out.Servers[k] = state
	}
	return out
}
