package neigh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// EventKind is what has happened.
type EventKind uint8

const (
	ServerUp        EventKind = iota // a server has answered, for the first time or again
	ServerDown                       // a server does not answer
	ServerMoved                      // a server has another MAC, and the old one doesn't answer
	PinnedClaim                      // somebody claims a server's address whose MAC is pinned
	AddressConflict                  // somebody claims a VIP or an own address
)

func (k EventKind) String() string {
	switch k {
	case ServerUp:
		return "server-up"
	case ServerDown:
		return "server-down"
	case ServerMoved:
		return "server-moved"
	case PinnedClaim:
		return "pinned-claim"
	case AddressConflict:
		return "address-conflict"
	}
	return "unknown"
}

// Event is what a person should know. It is a plain value.
type Event struct {
	Kind     EventKind
	Addr     netip.Addr
	MAC      packet.MAC // the server's, or that of who claims
	Name     string     // the server's, "" if none is concerned
	Conflict Conflict   // valid iff Kind is AddressConflict
}

// event queues one. When nobody fetches them the new ones are lost: the first tells most.
func (t *Table) event(e Event) {
	if len(t.events) == maxEvents {
		t.counters.Events++
		return
	}
	t.events = append(t.events, e)
}

// Events hands over what has happened since the last call.
func (t *Table) Events() []Event {
	out := t.events
	t.events = nil
	return out
}

// pinnedClaim counts a claim to a static neighbour, and reports it now and then.
func (t *Table) pinnedClaim(e *entry, mac packet.MAC, now time.Duration) {
	t.counters.Pinned++
	if now-e.pinned >= reportAgain {
		e.pinned = now
		t.event(Event{Kind: PinnedClaim, Addr: packet.Addr(e.addr), MAC: mac, Name: e.name})
	}
}

// Counters counts what no reason does.
type Counters struct {
	Asked     uint64 // requests sent, ARP and neighbour discovery
	Answered  uint64 // answers sent
	Announced uint64 // addresses announced unasked
	Foreign   uint64 // claims to a neighbour's address by another MAC
	Pinned    uint64 // the same, where the MAC is pinned
	Overflow  uint64 // messages that the outbox had no room for
	Events    uint64 // that nobody has fetched
}

// Counters returns them.
func (t *Table) Counters() Counters { return t.counters }

// Suppressed counts the servers' claims to VIPs, by form.
func (t *Table) Suppressed() map[string]uint64 {
	out := make(map[string]uint64, forms)
	for f, n := range t.suppressed {
		out[Form(f).String()] = n
	}
	return out
}

// Neighbour is one as people see it. It is a plain value.
type Neighbour struct {
	Addr   netip.Addr
	MAC    packet.MAC // zero if it is not known
	State  State
	Server string        // its name, "" if it is none
	Age    time.Duration // since it was last confirmed; -1 if it has never been
}

// Neighbours lists them, servers first, then by address.
func (t *Table) Neighbours(now time.Duration) []Neighbour {
	out := make([]Neighbour, 0, len(t.list))
	for _, e := range t.list {
		n := Neighbour{Addr: packet.Addr(e.addr), MAC: e.mac, State: e.state, Server: e.name, Age: -1}
		if e.confirmed != never {
			n.Age = now - e.confirmed
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Neighbour) int {
		if (a.Server == "") != (b.Server == "") {
			if a.Server != "" {
				return -1
			}
			return 1
		}
		return a.Addr.Compare(b.Addr)
	})
	return out
}
