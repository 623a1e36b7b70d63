package labnet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestDRIsValid(t *testing.T) {
	for _, shape := range []Shape{"", OneArm, Inline} {
		for _, packet := range []bool{false, true} {
			for _, o := range []DROptions{{}, {Clients: 4, Servers: 8, Gateway: true, VIPOn: "eth0", Quiet: true, DAD: true, NoOffload: true}} {
				o.Shape, o.Packet = shape, packet
				a, b := DR(o), DR(o)
				if err := a.Validate(); err != nil {
					t.Errorf("%+v: %v", o, err)
				}
				if !reflect.DeepEqual(a, b) {
					t.Errorf("%+v: two networks", o)
				}
			}
		}
	}
}

// TestNoKernelIsTunlb: tunlb's own addresses are nobody's, and the VIPs the servers' only.
func TestNoKernelIsTunlb(t *testing.T) {
	for _, on := range []string{"lo", "eth0", "none"} {
		topology := DR(DROptions{Gateway: true, VIPOn: on})
		for _, n := range topology.Nodes {
			has := fmt.Sprint(topology.addresses(n))
			if strings.Contains(has, TunlbAddr+"/") || strings.Contains(has, TunlbAddr6+"/") {
				t.Errorf("%s has tunlb's address: %s", n.Name, has)
			}
			want := len(n.Services) > 0 && on != "none"
			if strings.Contains(has, VIP+"/32") != want || strings.Contains(has, VIP6+"/128") != want {
				t.Errorf("VIP on %s: %s has %s", on, n.Name, has)
			}
		}
	}
}

func TestValidateBridges(t *testing.T) {
	topology := Topology{
		Nodes: []Node{
			{Name: "a", Sysctls: map[string]string{"../kernel/hostname": "x"}, Bridges: []Bridge{
				{"", nil}, {"eth0", nil}, {"br0", []string{"eth0", "p1"}}, {"br1", []string{"p1", "p9"}},
			}},
			{Name: "s", Switch: true, Loopback: segment113(1)},
		},
		Links: []Link{
			{A: End{"a", "eth0", segment113(2)}, B: End{"s", "p0", nil}},
			{A: End{"a", "p1", nil}, B: End{"s", "p1", nil}},
		},
	}
	err := topology.Validate()
	for _, want := range []string{
		`bridge ""`, `bridge "eth0"`, `bridge "br0": "eth0"`, `bridge "br1": "p1"`, `bridge "br1": "p9"`, "below /proc/sys/net", "neither routes",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q isn't in %v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), `bridge "br0": "p1"`) {
		t.Errorf("p1 was free: %v", err)
	}
}

func TestDrawDR(t *testing.T) {
	for _, c := range []struct {
		name string
		o    DROptions
		want string
	}{
		{"one-arm, a TAP", DROptions{Clients: 2}, `
              ┌──────────────────────┐ ┌──────────────────────┐
              │ client               │ │ client2              │
              │ eth0 203.0.113.7     │ │ eth0 203.0.113.8     │
              │      2001:db8:113::7 │ │      2001:db8:113::8 │
              └───────────┬──────────┘ └───────────┬──────────┘
                          │                        │ 203.0.113.0/24  2001:db8:113::/64
┌─────────────────────────┴────────────────────────┴────────────────────────┐
│ lb                                                                        │
│ bridge br0: client client2 rs1 rs2 rs3                                    │
│ tunlb on a TAP in br0                                                     │
│ own  203.0.113.2                                                          │
│      2001:db8:113::2                                                      │
│ VIP  203.0.113.22                                                         │
│      2001:db8:113::22                                                     │
└───────────┬─────────────────────────┬─────────────────────────┬───────────┘
            │                         │                         │ 203.0.113.0/24  2001:db8:113::/64
┌───────────┴───────────┐ ┌───────────┴───────────┐ ┌───────────┴───────────┐
│ rs1                   │ │ rs2                   │ │ rs3                   │
│ eth0 203.0.113.10     │ │ eth0 203.0.113.11     │ │ eth0 203.0.113.12     │
│      2001:db8:113::10 │ │      2001:db8:113::11 │ │      2001:db8:113::12 │
│ lo   203.0.113.22     │ │ lo   203.0.113.22     │ │ lo   203.0.113.22     │
│      2001:db8:113::22 │ │      2001:db8:113::22 │ │      2001:db8:113::22 │
└───────────────────────┘ └───────────────────────┘ └───────────────────────┘
`},
		{"one-arm, on lb's interface, quiet", DROptions{Packet: true, Quiet: true}, `
             ┌──────────────────────┐ ┌───────────────────────┐
             │ client               │ │ lb                    │
             │ eth0 203.0.113.7     │ │ tunlb on eth0         │
             │      2001:db8:113::7 │ │ own  203.0.113.2      │
             │                      │ │      2001:db8:113::2  │
             │                      │ │ VIP  203.0.113.22     │
             │                      │ │      2001:db8:113::22 │
             └───────────┬──────────┘ └───────────┬───────────┘
                         │                        │ 203.0.113.0/24  2001:db8:113::/64  switch lan
            ┌────────────┴────────────┬───────────┴─────────────┐
            │                         │                         │
┌───────────┴───────────┐ ┌───────────┴───────────┐ ┌───────────┴───────────┐
│ rs1                   │ │ rs2                   │ │ rs3                   │
│ eth0 203.0.113.10     │ │ eth0 203.0.113.11     │ │ eth0 203.0.113.12     │
│      2001:db8:113::10 │ │      2001:db8:113::11 │ │      2001:db8:113::12 │
│ lo   203.0.113.22     │ │ lo   203.0.113.22     │ │ lo   203.0.113.22     │
│      2001:db8:113::22 │ │      2001:db8:113::22 │ │      2001:db8:113::22 │
│ arp_ignore=1          │ │ arp_ignore=1          │ │ arp_ignore=1          │
│ arp_announce=2        │ │ arp_announce=2        │ │ arp_announce=2        │
└───────────────────────┘ └───────────────────────┘ └───────────────────────┘
`},
		{"inline, two TAPs, and tunlb the servers' gateway", DROptions{Shape: Inline, Servers: 2, Gateway: true, VIPOn: "eth0"}, `
             ┌──────────────────────┐
             │ remote               │
             │ eth0 198.51.100.7    │
             │      2001:db8:1::7   │
             │ gateway 198.51.100.1 │
             └───────────┬──────────┘
                         │ 198.51.100.0/24  2001:db8:1::/64
             ┌───────────┘
             │
 ┌───────────┴──────────┐ ┌──────────────────────┐
 │ router (forwards)    │ │ client               │
 │ eth1 198.51.100.1    │ │ eth0 203.0.113.7     │
 │      2001:db8:1::1   │ │      2001:db8:113::7 │
 │ eth0 203.0.113.1     │ │ gateway 203.0.113.1  │
 │      2001:db8:113::1 │ │                      │
 └───────────┬──────────┘ └───────────┬──────────┘
             │                        │ 203.0.113.0/24  2001:db8:113::/64
┌────────────┴────────────────────────┴───────────┐
│ lb                                              │
│ bridge clients: router client                   │
│ bridge servers: rs1 rs2                         │
│ tunlb between the bridges, a TAP in each        │
│ own  203.0.113.2                                │
│      2001:db8:113::2                            │
│ VIP  203.0.113.22                               │
│      2001:db8:113::22                           │
└───────────┬─────────────────────────┬───────────┘
            │                         │ 203.0.113.0/24  2001:db8:113::/64
┌───────────┴───────────┐ ┌───────────┴───────────┐
│ rs1                   │ │ rs2                   │
│ eth0 203.0.113.10     │ │ eth0 203.0.113.11     │
│      2001:db8:113::10 │ │      2001:db8:113::11 │
│      203.0.113.22     │ │      203.0.113.22     │
│      2001:db8:113::22 │ │      2001:db8:113::22 │
│ gateway 203.0.113.2   │ │ gateway 203.0.113.2   │
└───────────────────────┘ └───────────────────────┘
`},
		{"inline, on lb's interfaces", DROptions{Shape: Inline, Packet: true, VIPOn: "none"}, `
                          ┌──────────────────────┐
                          │ client               │
                          │ eth0 203.0.113.7     │
                          │      2001:db8:113::7 │
                          └───────────┬──────────┘
                                      │ 203.0.113.0/24  2001:db8:113::/64  switch wan
                  ┌───────────────────┴──────────────────┐
                  │ lb                                   │
                  │ tunlb on eth0 and eth1, between them │
                  │ own  203.0.113.2                     │
                  │      2001:db8:113::2                 │
                  │ VIP  203.0.113.22                    │
                  │      2001:db8:113::22                │
                  └───────────────────┬──────────────────┘
                                      │ 203.0.113.0/24  2001:db8:113::/64  switch lan
            ┌─────────────────────────┼─────────────────────────┐
            │                         │                         │
┌───────────┴───────────┐ ┌───────────┴───────────┐ ┌───────────┴───────────┐
│ rs1                   │ │ rs2                   │ │ rs3                   │
│ eth0 203.0.113.10     │ │ eth0 203.0.113.11     │ │ eth0 203.0.113.12     │
│      2001:db8:113::10 │ │      2001:db8:113::11 │ │      2001:db8:113::12 │
└───────────────────────┘ └───────────────────────┘ └───────────────────────┘
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := "\n" + Draw(DR(c.o)); got != c.want {
				t.Errorf("got%s\nwant%s", got, c.want)
			}
		})
	}
}
