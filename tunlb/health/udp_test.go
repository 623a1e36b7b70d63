package health

import (
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

func TestUDP(t *testing.T) {
	echoes := func(got []byte) [][]byte { return [][]byte{got} }
	mute := func([]byte) [][]byte { return nil }
	empty := func([]byte) [][]byte { return [][]byte{{}} }
	for _, test := range []struct {
		name   string
		answer func([]byte) [][]byte // nil: nothing listens
		health policy.Health
		want   string
	}{
		{"any answer", echoes, policy.Health{Send: "ping"}, ""},
		{"an empty answer", empty, policy.Health{Send: "ping"}, ""},
		{"right answer", echoes, policy.Health{Send: "ping", Reply: "^ping$"}, ""},
		{"wrong answer", echoes, policy.Health{Send: "ping", Reply: "^pong$"}, `reply "ping" does not match /^pong$/`},
		{"mute", mute, policy.Health{Send: "ping", Timeout: short}, "no answer in 50ms"},
		{"mute, reply wanted", mute, policy.Health{Reply: ".", Timeout: short}, "no answer in 50ms"},
		{"mute, nothing sent", mute, policy.Health{Timeout: short}, ""},
		{"answers, nothing sent", empty, policy.Health{}, ""},
		{"closed", nil, policy.Health{Send: "ping"}, "port unreachable"},
		{"closed, nothing sent", nil, policy.Health{}, "port unreachable"},
		{"bad pattern", mute, policy.Health{Reply: "("}, "reply: error parsing regexp: missing closing ): `(`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, loopback netip.Addr) {
				at := closed(t, loopback)
				if test.answer != nil {
					at = serveUDP(t, loopback, test.answer)
				}
				test.health.Type = "udp"
				if got := once(at, test.health); got != test.want {
					t.Errorf("cause: got %q, want %q", got, test.want)
				}
			})
		})
	}
}
