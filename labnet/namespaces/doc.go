// Package namespaces is the driver "netns" of labs: every host of a lab file is a network namespace of this machine's
// kernel, every network a bridge, and the director a tunlb of its own.
//
// It owns what a file becomes there: the topology (labnet makes it), the director's process, the hosts' server programs and
// commands, and links that delay and lose. It owns neither the namespaces' mechanics (labnet/netns) nor the file
// and its steps (labnet/scenario). Linux only: elsewhere Up answers with a *netns.Unsupported.
package namespaces

import (
	"io"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// Driver makes labs of network namespaces. The zero value is useful. It needs the privilege that netns.Enter
// procures, and TUN. All that a lab is made of goes with this process, however that ends.
type Driver struct {
	// Log gets what the director logs; nil is nowhere.
	Log io.Writer
	// Dir is where the director's configuration is kept as a file, for tunlb on it to name and to read again. Whoever has the
	// directory removes it. Without one tunlb reads its standard input: nothing is left however this process ends.
	Dir string
}

var _ scenario.Driver = Driver{}

// Name is how --driver calls it.
func (Driver) Name() string { return "netns" }
