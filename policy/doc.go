// Package policy decides which real server a new connection goes to: virtual services, their real
// servers and the schedulers, with the picks of Linux IPVS.
//
// It owns the index from VIP:port/protocol to service, the schedulers' state, the servers' stable IDs, their
// connection counts and rates, the templates of persistence, and, in a [Roster], what operators and health
// checks have said. It does not own packets, flows or health probes; it does no I/O, starts no goroutine and
// reads no clock.
//
// A [Table] is an immutable index. The [Service] and [Server] objects behind it are live and shared by
// successive tables, so that a reload keeps cursors, counts and counters. Nothing here locks: one lock of
// the caller's guards [Build] and every use of a table and its objects.
package policy
