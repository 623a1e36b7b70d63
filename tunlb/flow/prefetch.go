//go:build amd64 || arm64

package flow

import "unsafe"

// prefetch has the cache lines loaded, and waits for none. A function in assembly cannot be inlined, so
// it takes many at once.
//
//go:noescape
func prefetch(lines []unsafe.Pointer)
