// Package health owns the checks of real servers: it probes what it is given, each target at its own pace,
// and reports how every probe ended. How many failures in a row mean what, and what follows for a server,
// is not decided here, and neither is the way to it: probes dial by a Dialer that they are given. Kernel is
// the one that goes through the machine's own kernel.
package health
