package policy

import "net/netip"

// Explanation is which server a new connection would get, and why. A plain value.
type Explanation struct {
	Service   string         `json:"service"`
	Scheduler string         `json:"scheduler"`
	Server    string         `json:"server,omitempty"` // name; "" iff there is none to be had
	Address   netip.AddrPort `json:"address,omitzero"`
	Template  bool           `json:"template,omitempty"` // persistence decides, not the scheduler
	Why       string         `json:"why"`                // one line: what decided
	State     string         `json:"state,omitempty"`    // the scheduler's: its cursor, the hash and the bucket
	// Servers are all of the service's, in their order.
	Servers []Candidate `json:"servers,omitempty"`
}

// Candidate is a server as the scheduler sees it.
type Candidate struct {
	Server   string         `json:"server"`
	Address  netip.AddrPort `json:"address"`
	Weight   int            `json:"weight"` // in force
	Active   int            `json:"active"`
	Inactive int            `json:"inactive"`
	Score    string         `json:"score,omitempty"`    // what the scheduler compares
	Excluded string         `json:"excluded,omitempty"` // why it is no candidate; "" iff it is one
}
