//go:build !linux

package main

import (
	"fmt"
	"os"
)

// main says why it is of no use: the networks are made of Linux's namespaces.
func main() {
	fmt.Fprintln(os.Stderr, "torture: cannot here: it needs the network namespaces of Linux")
	os.Exit(77)
}
