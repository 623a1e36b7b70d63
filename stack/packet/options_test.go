package packet_test

import (
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestOptionsInside: options of which a receiver would read beyond their header are refused; each was let through once, and
// another implementation was not of that opinion.
func TestOptionsInside(t *testing.T) {
	for name, c := range map[string]struct {
		option pt.Option
		is6    bool
		want   packet.Reason
	}{
		"record route":                           {pt.IPOptions(7, 7, 4, 0, 0, 0, 0), false, packet.None},
		"record route, full":                     {pt.IPOptions(7, 7, 8, 1, 2, 3, 4), false, packet.None},
		"record route before its slots":          {pt.IPOptions(7, 7, 0, 0, 0, 0, 0), false, packet.BadOptions},
		"record route with half a slot":          {pt.IPOptions(7, 6, 4, 0, 0, 0), false, packet.BadOptions},
		"record route without a pointer":         {pt.IPOptions(7, 2), false, packet.BadOptions},
		"timestamp":                              {pt.IPOptions(68, 8, 5, 0, 0, 0, 0, 0), false, packet.None},
		"timestamp and address, too short":       {pt.IPOptions(68, 8, 5, 1, 0, 0, 0, 0), false, packet.BadOptions},
		"padding":                                {pt.Extension(0, 1, 4, 0, 0, 0, 0), true, packet.None},
		"router alert":                           {pt.Extension(0, 5, 2, 0, 0, 1, 0), true, packet.None},
		"router alert without a value":           {pt.Extension(0, 5, 0, 0, 0, 1, 0), true, packet.BadExtension},
		"an option longer than its header":       {pt.Extension(60, 0x1e, 200, 0, 0, 0, 0), true, packet.BadExtension},
		"an option's first byte at the very end": {pt.Extension(60, 1, 3, 0, 0, 0, 0x1e), true, packet.BadExtension},
	} {
		client, vip := client4, vip4
		if c.is6 {
			client, vip = client6, vip6
		}
		var v packet.View
		if got := v.Parse(pt.UDP(t, client, vip, c.option, pt.PayloadLen(9))); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
