package port

import (
	"fmt"

	"github.com/tunlb/tunlb/stack/packet"
)

// PacketConfig describes a packet socket on an interface. It needs Interface.
type PacketConfig struct {
	Interface string // an existing Ethernet interface
	NetNS     string // path of a network namespace, "" is the caller's
	// Station leaves out what is for other stations, and spares us a copy of all
	// that the machine itself receives. Zero: everything comes, as a switch wants it.
	Station packet.MAC
	// Claim makes it a port on an interface that the machine itself uses: nothing comes in but frames for the interface's own
	// MAC that the claim takes, and the interface is not made promiscuous. Nil: as Station says. Both is an error.
	Claim *packet.Claim
	// Inherited is the Descriptor of a port like this one in a predecessor, 0 is none: what has come in meanwhile is read first, and what
	// comes in is what the predecessor has said until SetClaim is called. The descriptor is OpenPacket's; if it is of something else,
	// it is closed.
	Inherited int
	// Offload is for OffloadAuto: what comes in as a super-packet is decided by
	// the interface and not by the socket. All else is an error with the ethtool
	// command that does it.
	Offload Offload
}

// OpenPacket returns an Ethernet port on an existing interface: it hears all
// that the interface receives, or what is for Station and for groups, and nothing of what the
// machine itself sends there. There are packet sockets on Linux only (4.20). The
// error wraps ErrUnavailable without the right to open one.
//
// Frames are seen before the machine's own kernel gets them, which gets them all
// the same; those for a MAC that is not the interface's it ignores. Tunlb and the
// machine cannot talk with each other over the interface, since neither hears
// what the other one sends. A VLAN's frames are not for us and are left out; those
// with a mere priority tag come without it.
//
// An interface that is down brings nothing until it is set up; one that has been
// deleted, or moved to another namespace, is ErrGone. Close leaves the interface as it
// was, but for frames that a Receive has lent: the socket, which hears nothing any more, is closed by the
// reader's next call, and until then they can be read.
//
// The port is a Ring of 255 frames in 17 MiB of memory, and a Claimer.
func OpenPacket(cfg PacketConfig) (Port, error) {
	p, err := openPacket(cfg)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %q: %w", cfg.Interface, err)
	}
	return p, nil
}

// Claimer is a port whose claim can be changed.
type Claimer interface {
	// SetClaim has other packets come in from now on, without a moment in which none or all do. It may be called at any
	// time on a port that was opened with a claim; on an error the old one stays.
	//
	// What comes in may be more than the claim takes: ask packet.Taker, and leave alone what it does not take.
	// IPv6 packets with options go by their addresses alone, and so do errors that quote such. A filter
	// has room for some 1500 addresses and ranges of ports, IPv6 addresses that have little in common count
	// several times, and the kernel for two filters (net.core.optmem_max, to replace one by the other at once). Where that
	// is too little, whole addresses come in, then networks around them. ICMPv6 errors with options of their own
	// come in only if their addresses are claimed.
	SetClaim(claim packet.Claim) error
}
