//go:build !linux

package doctor

import (
	"context"
	"net/netip"
)

var everywhere4 = netip.MustParseAddr("1.1.1.1")

func (f *facts) gather(context.Context) error { return ErrUnsupported }

func sameFile(a, b string) bool { return a == b }
