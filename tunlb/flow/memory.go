package flow

import "unsafe"

// The table's memory is the collector's, in pieces of some MiB without pointers: it is counted as live
// heap, is never scanned, and goes when the table goes. Pieces are as large as that so that most of each
// can be huge pages. A random access then finds its translation where otherwise that is a cache miss of
// its own. The price is that the kernel clears 2 MiB at once when the table grows into them, once for
// 16384 flows: 0.25 ms, and some ms on a virtual machine that has to ask its host for the memory.

// more allocates the next piece for who has so many of T: as many again, but at most most.
func more[T any](have, most int) []T {
	piece := make([]T, max(1, min(have, most)))
	// Before the first use: what is in small pages already stays there for long.
	adviseHuge(unsafe.Slice((*byte)(unsafe.Pointer(&piece[0])), len(piece)*int(unsafe.Sizeof(piece[0]))))
	return piece
}
