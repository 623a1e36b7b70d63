// Package keep is memory that outlives the process: a file without a name (memfd_create(2)), whose descriptor a
// successor inherits. It has the records of the connection table, in slabs that are written where they lie, and words, which
// are put in place of others as a whole.
//
// It owns the layout of the file, what makes it safe to be killed at any moment, and a count of those who have died of what is in it. It does not know what records and
// words mean (tunlb/flow and the engine), nor how a descriptor gets to the successor (tunlb/fdstore).
package keep

import "errors"

var (
	// ErrForeign says that the memory was not written by this version: its records can't be read.
	ErrForeign = errors.New("the memory kept is of another format")
	// ErrUnavailable says that this system has no such memory.
	ErrUnavailable = errors.New("no memory outlives a process here")
)

// SlabSize is the size of a slab in bytes, MaxWords that of words.
const (
	SlabSize = 2 << 20
	MaxWords = 64 << 20
)
