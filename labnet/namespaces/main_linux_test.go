package namespaces

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
)

func TestMain(m *testing.M) {
	if slices.Equal(os.Args[1:], InitArgs()) {
		Init()
	}
	os.Exit(netns.Main(m.Run))
}

// endurance bounds every wait for something that has to happen; nothing is waited out.
const endurance = 15 * time.Second

// twoHosts is a network of a client and a server, with an idle box beside them. The director is not started: it is
// another program, and tried with that.
func twoHosts() *scenario.File {
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	service := func(kind labnet.Kind, port uint16) scenario.Service {
		return scenario.Service{Service: labnet.Service{Kind: kind, Port: port}}
	}
	return &scenario.File{
		Name:     "two",
		Networks: []scenario.Network{{Name: "lan"}},
		Director: scenario.Director{Name: "lb", Port: "tun", Attachments: []scenario.Attachment{{Network: "lan", Addresses: prefixes("10.0.0.1/24")}}},
		Hosts: []scenario.Host{
			{Name: "client", Attachments: []scenario.Attachment{{Network: "lan", Addresses: prefixes("10.0.0.7/24", "fd00::7/64")}}},
			{
				Name: "rs1", Attachments: []scenario.Attachment{{Network: "lan", Addresses: prefixes("10.0.0.10/24", "fd00::10/64")}},
				Services: []scenario.Service{service(labnet.HTTP, 80), service(labnet.TCPEcho, 7), service(labnet.UDPEcho, 7)},
			},
		},
	}
}

func openTwo(t *testing.T) *lab {
	t.Helper()
	for _, check := range []func() error{netns.Check, netns.CheckTUN} {
		var cannot *netns.Unsupported
		if err := check(); errors.As(err, &cannot) {
			t.Skip(cannot)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	l, err := open(twoHosts())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}
