// Package neigh owns what tunlb says and believes on an Ethernet segment about which address is at
// which MAC: it parses and writes ARP (RFC 826, 5227) and IPv6 neighbour discovery (RFC 4861, 4862),
// answers for VIPs and tunlb's own addresses and announces them, resolves neighbours, and keeps the
// servers' claims to a VIP from the clients.
//
// It does no I/O, starts no goroutine and reads no clock: time is an argument, and what it wants sent
// waits in an outbox. It is not safe for concurrent use: the engine's lock guards it. It knows neither
// flows nor ports; a port is a number that comes back with the answer.
//
// The way of a message, for which answer.go has the steps:
//
//	Is ──▶ Parse ──▶ Handle ──▶ Verdict: forward (as it is or rewritten), or not, with a reason
//	                   │
//	                   ├─▶ Drain     frames to send: answers, requests, announcements
//	                   ├─▶ Released  packets that have waited for a MAC
//	                   └─▶ Events    what a person should know
//
// Lookup is the way of a packet: it gives the next hop's MAC. Tick drives everything that takes time.
package neigh

import "time"

// What is sent when, and believed how long.
const (
	// TickInterval is how often the engine calls Tick. All times below are multiples of it.
	TickInterval = 250 * time.Millisecond

	requests      = 3                      // sent before the next step: RFC 4861, 10, MAX_MULTICAST_SOLICIT
	retransmit    = time.Second            // between them: RETRANS_TIMER
	verify        = 250 * time.Millisecond // between those that verify a neighbour somebody else claims to be
	verifyAgain   = 3 * time.Second        // before the next claim makes us verify again
	serverFresh   = 5 * time.Second        // a server is asked again after this silence
	dynamicFresh  = 30 * time.Second       // other neighbours turn stale then: REACHABLE_TIME
	byTraffic     = time.Minute            // traffic alone confirms that long: the station lives, but is the address still its?
	failedRetry   = 2 * time.Second        // between broadcasts for who doesn't answer
	forget        = time.Minute            // a neighbour nobody uses
	answerWindow  = 3 * time.Second        // an answer later than this was not asked for
	announcements = 3                      // of an address, one a second
	defendAgain   = time.Second            // between two defences of one address (RFC 5227, 2.4 has 10 s for hosts)
	askFirst      = 750 * time.Millisecond // and at first: by then the servers are known by their MACs
	askAgain      = 30 * time.Second       // who else has the VIP?
	askConflict   = 5 * time.Second        // the same while somebody does
	reportGroup   = time.Minute            // between two reports of a group: bridges forget it after 260 s (RFC 3810, 9.4)
	reportAgain   = time.Minute            // between two events about one conflict
)

// Bounds.
const (
	maxDynamic   = 1024    // neighbours besides the servers
	maxHeld      = 3       // packets that wait for one neighbour (RFC 4861, 7.2.2 wants a small queue)
	maxHeldBytes = 1 << 20 // and for all
	maxConflicts = 64
	maxEvents    = 64
)

// never is a time before any other, with room for arithmetic.
const never = time.Duration(-1 << 62)
