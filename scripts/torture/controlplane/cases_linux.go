// Package controlplane attacks a running tunlb by its control socket, its log and its file, while connections are forwarded,
// and says what these have noticed of it. Each case is a function that both the torture command and the tests call, long
// there and short here.
//
// It owns the attacks and their verdicts. tunlb is the real program, in a network in namespaces.
package controlplane

import (
	"context"

	"github.com/tunlb/tunlb/scripts/torture/packets"
)

// Case is one attack.
type Case struct {
	Name, What  string
	Target      string // in words
	Long, Short int    // how much of it; the unit is What's
	// Run attacks the tunlb that binary is, with n of what there is. An error says that the case could not be run; what the
	// attack has achieved is in the result.
	Run func(ctx context.Context, binary string, n int) (*packets.Result, error)
}

// Cases lists all of them.
func Cases() []Case {
	return []Case{
		{"request-line", "MiB that clients try to send as request lines, headers and bodies", untouched, 4 << 10, 64, RequestLine},
		{"idle-clients", "clients that connect and ask nothing", untouched, 1000, 1000, IdleClients},
		{"slow-headers", "clients that send a byte of their headers at a time, or half a body", untouched, 1000, 200, SlowRequests},
		{"slow-readers", "seconds for which a trace and a capture of everything are not read", untouched, 120, 15, SlowReaders},
		{"reloads", "reloads, a hundred at a time", untouched, 2000, 200, Reloads},
		{"hostile-file", "reloads of files that are none", untouched, 100, 10, HostileFile},
		{"costly-file", "reloads of files that are none and take as much memory as the largest good one", untouched, 24, 6, CostlyFile},
		{"log-fifo", "changes that are logged to a pipe that nobody reads", untouched, 20000, 3000, LogFIFO},
		{"log-disk-full", "changes that are logged to a disk that is full", untouched, 20000, 3000, LogDiskFull},
	}
}

const untouched = "echoes and new connections as without it, at most 16 MiB more memory"

// What has to hold whatever is done.
const (
	leastRatio = 0.95     // of echoes while attacked to echoes without
	mostMemory = 16 << 20 // bytes of resident memory above those before
	longest    = 1000.0   // ms of an echo
)
