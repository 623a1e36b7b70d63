// Package flow owns the connection table: flows and their two tuples, TCP states, timers, eviction at
// the cap, translated source ports, and the masquerade mappings of the gateway.
//
// It does no I/O, starts no goroutine and reads no clock: time is an argument. It knows neither
// services nor ports; what it stores of them (a server's ID, exits) is opaque. Nothing in here is safe
// for concurrent use: the engine's lock guards the table, since an uncontended lock costs 10 ns of a
// packet's microsecond. Find, Track and Edit are the hot path and allocate nothing.
//
// A flow has an outer tuple, which the client sends, and an inner one, which the server gets. The
// answers carry their reverses. Forward is client to server.
package flow
