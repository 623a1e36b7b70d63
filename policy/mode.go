package policy

import "fmt"

// Mode is how packets reach a real server. The zero value leaves it to somebody else to say.
type Mode uint8

const (
	// NAT rewrites the destination to the server and the answers back; the client's address is kept.
	NAT Mode = iota + 1
	// FullNAT translates the source as well, so that the server may answer without the director as its gateway.
	FullNAT
	// DR, direct routing, sends the packet as it is to the server's link-layer address. The server has the VIP, too, and
	// answers the client past the director.
	DR
	// Tunnelled wraps the packet as it is into one to the server's address. Held, not served.
	Tunnelled
)

var modeNames = [...]string{NAT: "nat", FullNAT: "fullnat", DR: "dr", Tunnelled: "tunnel"}

// String gives the name as in the configuration.
func (m Mode) String() string {
	if m > 0 && int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, bool) {
	for m, name := range modeNames {
		if s == name && m > 0 {
			return Mode(m), true
		}
	}
	return 0, false
}

// MarshalText is String.
func (m Mode) MarshalText() ([]byte, error) {
	if m == 0 {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText is the inverse of MarshalText.
func (m *Mode) UnmarshalText(text []byte) error {
	mode, ok := ParseMode(string(text))
	if !ok && len(text) > 0 {
		return fmt.Errorf("mode %q: want nat, fullnat, dr or tunnel", text)
	}
	*m = mode
	return nil
}

// Flags are options of schedulers. The kernel has the same two for sh and mh, and hands a third on unused.
type Flags uint8

const (
	// Fallback has sh and mh take another server where the one that the hash says is unavailable.
	Fallback Flags = 1 << iota
	// HashPort has sh and mh hash the client's port as well as its address.
	HashPort
	// FlagThree is known to no scheduler.
	FlagThree
)
