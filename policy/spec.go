package policy

import (
	"fmt"
	"net/netip"
)

// IP protocol numbers of the transports that a virtual service can have.
const (
	TCP uint8 = 6
	UDP uint8 = 17
)

// Mode is how packets reach the real server of a virtual service.
type Mode uint8

const (
	// NAT rewrites the destination to the server and the answers back; the client's address is kept.
	NAT Mode = iota
	// FullNAT translates the source as well, so that the server may answer without the director as its gateway.
	FullNAT
	// DR, direct routing, sends the packet as it is to the server's link-layer address. The server has the VIP, too, and
	// answers the client past the director.
	DR
)

var modeNames = [...]string{NAT: "nat", FullNAT: "fullnat", DR: "dr"}

// String gives the name as in the configuration.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, bool) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), true
		}
	}
	return 0, false
}

// Spec is one virtual service as configured: VIP:port/protocol, a scheduler, real servers.
// It is a plain value: equal specs mean equal services.
type Spec struct {
	Name      string         // unique; shown to people, keys nothing
	Listen    netip.AddrPort // VIP and port, unmapped
	Proto     uint8          // TCP or UDP
	Mode      Mode
	Scheduler string // a name that Schedulers lists; "" means wlc, the kernel's default
	Servers   []ServerSpec
}

// ServerSpec is one real server of a virtual service as configured.
type ServerSpec struct {
	Name    string         // unique within its service
	Address netip.AddrPort // of the same family as the VIP; in dr of the same port, too
	Weight  int            // 0 takes no new connections (quiesced); 0..65535
	MAC     [6]byte        // static link-layer address in dr; zero: resolved by ARP or neighbour discovery
}
