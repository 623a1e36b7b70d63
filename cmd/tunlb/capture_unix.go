//go:build unix

package main

import "syscall"

// noFollow has an open fail on a symbolic link; noWait has it fail on a named pipe that nobody reads, instead of
// waiting for a reader.
const (
	noFollow = syscall.O_NOFOLLOW
	noWait   = syscall.O_NONBLOCK
)
