//go:build !linux

package port

import (
	"errors"

	"github.com/tunlb/tunlb/stack/packet"
)

// fits: only Linux has devices that outlive who made them.
func fits(int, string, string, packet.Link) error {
	return errors.New("only Linux has devices that can be inherited")
}
