//go:build !amd64 && !arm64

package flow

import "unsafe"

// prefetch reads from the cache lines. That waits for all of them, but once.
//
//go:noinline
func prefetch(lines []unsafe.Pointer) (read byte) {
	for _, line := range lines {
		read ^= *(*byte)(line)
	}
	return read
}
