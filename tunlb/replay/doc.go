// Package replay runs an engine offline over a file of packets: what came in comes in again, at the times that the
// file says, and what tunlb makes of it is written down. Same file, configuration and seed: same bytes.
//
// It owns the ports in memory, the clock, and the question which port a packet of a foreign capture came in by. It
// does not own what happens to packets (package tunlb) nor what files look like (tunlb/capture). Nothing of the machine
// is touched; health checks do not run: every server is up.
package replay
