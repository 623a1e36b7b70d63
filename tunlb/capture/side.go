package capture

import (
	"fmt"
	"strings"
)

// Side is one of the two sides of a packet's way, or both.
type Side uint8

const (
	In   Side = 1 << iota // frames as they came, before anything was done to them
	Out                   // frames as they left
	Both = In | Out
)

// ParseSide reads "in", "out", or both with a comma between them.
func ParseSide(text string) (s Side, err error) {
	for _, word := range strings.Split(text, ",") {
		switch strings.TrimSpace(word) {
		case "in":
			s |= In
		case "out":
			s |= Out
		default:
			return 0, fmt.Errorf("side %q: want in, out, or in,out", text)
		}
	}
	return s, nil
}

func (s Side) String() string {
	switch s {
	case In:
		return "in"
	case Out:
		return "out"
	case Both:
		return "in,out"
	}
	return "unknown"
}

// Directions of a packet, the lowest bits of epb_flags.
const (
	flagInbound   = 1
	flagOutbound  = 2
	flagDirection = 3
)

func (s Side) flags() uint32 {
	if s == Out {
		return flagOutbound
	}
	return flagInbound
}

func sideOf(flags uint32) Side {
	switch flags & flagDirection {
	case flagInbound:
		return In
	case flagOutbound:
		return Out
	}
	return 0
}
