package tunlb

import (
	"errors"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
)

// Question is what Explain is asked: which server a new packet from Client to VIP would get. A plain value.
type Question struct {
	Client   netip.AddrPort `json:"client"`
	VIP      netip.AddrPort `json:"vip"`
	Protocol string         `json:"protocol"`          // tcp or udp
	Without  []string       `json:"without,omitempty"` // servers that are taken for removed
	Weights  map[string]int `json:"weights,omitempty"` // of servers, instead of theirs
}

// Explanation is the answer.
type Explanation struct {
	policy.Explanation
	// Flow is the connection that there is already, which decides alone; nil: a new one would be opened.
	Flow *Conn `json:"flow,omitempty"`
	// Source is what the server would see as the client, if it would be translated.
	Source netip.Addr `json:"source,omitzero"`
	Mode   string     `json:"mode,omitempty"`
	// Note says what else there is to know: that nothing listens there, say.
	Note string `json:"note,omitempty"`
}

// Explain changes nothing.
func (e *Engine) Explain(q Question) (Explanation, error) {
	return Explanation{}, errors.New("explain: not yet")
}
