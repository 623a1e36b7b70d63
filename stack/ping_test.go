package stack

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// TestPingOther: an answer ends it, silence lasts until the context ends, and a host does not mistake another's
// answers for its own.
func TestPingOther(t *testing.T) {
	for _, wire := range []struct {
		name  string
		carry func(frame []byte, to *Host) error
	}{{"offload", deliverTo}, {"segmented", segmented}} {
		t.Run(wire.name, func(t *testing.T) {
			p := newPair(t, wire.carry)
			for _, f := range families {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				for _, from := range []netip.Addr{{}, f.client} {
					if err := p.client.Ping(ctx, f.vip, from); err != nil {
						t.Errorf("%s from %v: %v", f.name, from, err)
					}
				}
				if err := p.client.Ping(ctx, f.vip, f.vip); err == nil {
					t.Errorf("%s: pinged from an address that is not its own", f.name)
				}
				short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer stop()
				if err := p.client.Ping(short, f.other, netip.Addr{}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: nobody there: %v", f.name, err)
				}
			}
			if err := p.client.Ping(t.Context(), families[0].vip, families[1].client); err == nil {
				t.Error("a source of the other family was taken")
			}
		})
	}
}
