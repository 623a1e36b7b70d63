package policy

import (
	"fmt"
	"net/netip"
	"time"
)

// Kinds of events.
const (
	ServerUp        = "up"
	ServerDown      = "down"
	ServerDrained   = "drained"
	ServerUndrained = "undrained"
	ServerWeight    = "weight"
	QuorumLost      = "quorum-lost"
	QuorumGained    = "quorum-gained"
	SorryOn         = "sorry-on"  // the sorry server serves alone
	SorryOff        = "sorry-off" // it no longer does
)

// Event is a change of what the roster knows, for people and programs. A plain value.
type Event struct {
	Time    time.Duration  `json:"time"` // on the caller's clock
	Kind    string         `json:"kind"`
	Service string         `json:"service"`
	Server  string         `json:"server,omitempty"` // "" if it is about the service
	Address netip.AddrPort `json:"address,omitzero"` // likewise
	Cause   string         `json:"cause,omitempty"`  // why, for people
}

// String is for people, in a line.
func (e Event) String() string {
	text := e.Service
	if e.Address.IsValid() {
		text += "/" + e.Server + " " + e.Address.String()
	}
	text += ": " + e.Kind
	if e.Cause != "" {
		text += ": " + e.Cause
	}
	return text
}

// Events hands over what has happened since the last call, the oldest first.
func (r *Roster) Events() []Event {
	events := r.events
	r.events = nil
	return events
}

// tell makes an event about a server.
func (r *Roster) tell(s *roll, m *member, kind string, now time.Duration, cause string) {
	r.events = append(r.events, Event{now, kind, s.spec.Name, m.name, m.address, cause})
}

// tellQuorum makes the events of a service whose servers have become too few or enough, and of the sorry server
// that so takes over or goes.
func (r *Roster) tellQuorum(s *roll, below, sorry bool, now time.Duration, cause string) {
	if below != s.below && (s.spec.Health.Enabled() || s.spec.Quorum > 0 || s.spec.Sorry != nil) {
		kind := QuorumGained
		if s.below {
			kind = QuorumLost
		}
		cause := fmt.Sprintf("weight %d of at least %d is up: %s", s.upWeight, s.quorum(), cause)
		r.events = append(r.events, Event{Time: now, Kind: kind, Service: s.spec.Name, Cause: cause})
	}
	if last := s.plain.Sorry; last != nil && sorry != s.sorry() {
		kind := SorryOff
		if s.sorry() {
			kind = SorryOn
		}
		r.events = append(r.events, Event{now, kind, s.spec.Name, last.Name, last.Address, cause})
	}
}

// inARow says how many results have decided.
func inARow(n int, one, more, cause string) string {
	text := "1 " + one
	if n > 1 {
		text = fmt.Sprintf("%d %s in a row", n, more)
	}
	if cause != "" {
		text += ": " + cause
	}
	return text
}
