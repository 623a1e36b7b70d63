//go:build !linux

package main

import (
	"fmt"
	"os"

	"github.com/tunlb/tunlb/labnet/netns"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench:", netns.Check())
	os.Exit(netns.ExitUnsupported)
}
