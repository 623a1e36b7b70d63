package labnet

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestStoryIsValid(t *testing.T) {
	for _, o := range []StoryOptions{{}, {Clients: 4, Servers: 8, OwnVIP: true, Router: true, ClientMTU: 1400, NoOffload: true}} {
		a, b := Story(o), Story(o)
		if err := a.Validate(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%+v: two stories", o)
		}
	}
}

func TestAddress(t *testing.T) {
	s := Story(StoryOptions{OwnVIP: true})
	for _, c := range []struct {
		node, iface string
		is6         bool
		want        string
	}{
		{"client", "eth0", false, "198.51.100.7"},
		{"client", "eth0", true, "2001:db8:1::7"},
		{"lb", "eth0", false, "198.51.100.1"},
		{"lb", "eth1", false, "192.168.0.100"},
		{"lb", "eth1", true, "2001:db8:c0::100"},
		{"rs1", "eth0", false, "192.168.0.10"},
		{"rs3", "eth0", true, "2001:db8:c0::12"},
		{"rs4", "eth0", false, ""},
	} {
		want := netip.Addr{}
		if c.want != "" {
			want = netip.MustParseAddr(c.want)
		}
		if got := s.Address(c.node, c.iface, c.is6); got != want {
			t.Errorf("%s %s: %v, want %v", c.node, c.iface, got, want)
		}
	}
}

func TestValidateSaysAll(t *testing.T) {
	bad := Topology{
		Nodes: []Node{{Name: "a"}, {Name: "a"}, {Name: "s", Switch: true, Forward: true}, {Name: "b", Services: []Service{{"gopher", 70}}}},
		Links: []Link{
			{A: End{"a", "eth0", nil}, B: End{"c", "eth0", nil}},
			{A: End{"a", "eth0", nil}, B: End{"b", "a-name-that-is-too-long", nil}},
			{A: End{"s", "p1", []netip.Prefix{prefix("192.0.2.1/24")}}, B: End{"b", "eth0", nil}},
		},
	}
	err := bad.Validate()
	for _, want := range []string{"unique", "neither routes", "gopher", `no node "c"`, "used twice", "1 to 15", "no addresses"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q isn't in %v", want, err)
		}
	}
	if _, err := Open(bad); err == nil {
		t.Error("Open takes it")
	}
}

func TestDraw(t *testing.T) {
	for _, c := range []struct {
		name string
		o    StoryOptions
		want string
	}{
		{"as it is told", StoryOptions{}, `
                          ┌──────────────────────┐
                          │ client               │
                          │ eth0 198.51.100.7    │
                          │      2001:db8:1::7   │
                          │ gateway 198.51.100.1 │
                          └───────────┬──────────┘
                                      │ 198.51.100.0/24  2001:db8:1::/64
                          ┌───────────┴───────────┐
                          │ lb (forwards)         │
                          │ eth0 198.51.100.1     │
                          │      2001:db8:1::1    │
                          │ eth1 192.168.0.100    │
                          │      2001:db8:c0::100 │
                          │ VIP  203.0.113.22     │
                          │      2001:db8:113::22 │
                          └───────────┬───────────┘
                                      │ 192.168.0.0/24  2001:db8:c0::/64  switch lan
            ┌─────────────────────────┼─────────────────────────┐
            │                         │                         │
┌───────────┴───────────┐ ┌───────────┴───────────┐ ┌───────────┴───────────┐
│ rs1                   │ │ rs2                   │ │ rs3                   │
│ eth0 192.168.0.10     │ │ eth0 192.168.0.11     │ │ eth0 192.168.0.12     │
│      2001:db8:c0::10  │ │      2001:db8:c0::11  │ │      2001:db8:c0::12  │
│ gateway 192.168.0.100 │ │ gateway 192.168.0.100 │ │ gateway 192.168.0.100 │
└───────────────────────┘ └───────────────────────┘ └───────────────────────┘
`},
		{"two of each, a router and a narrow link", StoryOptions{Clients: 2, Servers: 2, Router: true, OwnVIP: true, ClientMTU: 1400}, `
 ┌──────────────────────┐ ┌──────────────────────┐
 │ client               │ │ client2              │
 │ eth0 198.51.100.7    │ │ eth0 198.51.100.8    │
 │      2001:db8:1::7   │ │      2001:db8:1::8   │
 │ gateway 198.51.100.1 │ │ gateway 198.51.100.1 │
 └───────────┬──────────┘ └───────────┬──────────┘
             │                        │ 198.51.100.0/24  2001:db8:1::/64  switch wan  mtu 1400
             └───────────┬────────────┘
                         │
              ┌──────────┴─────────┐
              │ router (forwards)  │
              │ eth1 192.0.2.1     │
              │      2001:db8:2::1 │
              │ eth0 198.51.100.1  │
              │      2001:db8:1::1 │
              │ gateway 192.0.2.2  │
              └──────────┬─────────┘
                         │ 192.0.2.0/24  2001:db8:2::/64
             ┌───────────┴───────────┐
             │ lb (forwards)         │
             │ eth0 192.0.2.2        │
             │      2001:db8:2::2    │
             │      203.0.113.22     │
             │      2001:db8:113::22 │
             │ eth1 192.168.0.100    │
             │      2001:db8:c0::100 │
             │ gateway 192.0.2.1     │
             └───────────┬───────────┘
                         │ 192.168.0.0/24  2001:db8:c0::/64  switch lan
            ┌────────────┴────────────┐
            │                         │
┌───────────┴───────────┐ ┌───────────┴───────────┐
│ rs1                   │ │ rs2                   │
│ eth0 192.168.0.10     │ │ eth0 192.168.0.11     │
│      2001:db8:c0::10  │ │      2001:db8:c0::11  │
│ gateway 192.168.0.100 │ │ gateway 192.168.0.100 │
└───────────────────────┘ └───────────────────────┘
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := "\n" + Draw(Story(c.o)); got != c.want {
				t.Errorf("got%s\nwant%s", got, c.want)
			}
		})
	}
}

func TestBytes(t *testing.T) {
	for _, n := range []int64{0, 1, 65521, 65522, 300_000} {
		got, err := io.ReadAll(Bytes(n))
		if err != nil || int64(len(got)) != n {
			t.Fatalf("Bytes(%d) are %d, %v", n, len(got), err)
		}
		if err := iotest.TestReader(Bytes(n), got); err != nil {
			t.Error(err)
		}
		var written bytes.Buffer
		if m, err := io.Copy(&written, Bytes(n)); m != n || err != nil || sha256.Sum256(written.Bytes()) != sha256.Sum256(got) {
			t.Errorf("Bytes(%d) differ when they write themselves: %d, %v", n, m, err)
		}
	}
}
