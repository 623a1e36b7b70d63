//go:build unix

package main

import "syscall"

// noFollow has an open fail on a symbolic link.
const noFollow = syscall.O_NOFOLLOW
