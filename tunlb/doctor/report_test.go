package doctor

import (
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
)

// TestLooked: ok is said of what has been looked at, and of nothing else.
func TestLooked(t *testing.T) {
	looked := func(f *facts) map[string]bool {
		checks := map[string]bool{}
		for _, got := range f.judge().Findings {
			if got.Severity == OK {
				checks[got.Check] = true
			}
		}
		return checks
	}
	watching := []string{"neighbour", "gateway", "arp", "loop", "passing", "mtu", "offload"}
	heard := segment(tunlb.SegmentStatus{Ports: []string{"tap0"}, Neighbours: []tunlb.NeighbourStatus{{Address: v4, State: "reachable", Server: "rs1"}}})
	for _, test := range []struct {
		name, file string
		spoil      func(*facts)
		want       []string // of watching
	}{
		{"nat", natFile, func(*facts) {}, []string{"neighbour", "gateway", "mtu", "offload"}},
		{"nat, before the start", natFile, edits(stopped, func(f *facts) { f.servers = nil }), nil},
		{"nat, device missing", natFile, func(f *facts) { f.box().links[3].name = "x" }, []string{"neighbour"}}, // by the box's own connections
		{"nat, nobody has asked", natFile, edits(traffic(0, 0, 0), traffic(1, 0, 0)), []string{"neighbour", "mtu", "offload"}},
		{"direct", drFile, heard, []string{"neighbour", "arp", "loop", "passing", "mtu", "offload"}},
		{"direct, before the start", drFile, stopped, nil},
		{"direct, device missing", drFile, edits(heard, func(f *facts) { f.box().links[4].name = "x" }), nil},
		{"direct, namespace gone", drFile, edits(heard, func(f *facts) { f.box().err = errNotNetNS }), nil},
		{"direct, nobody has asked", drFile, edits(heard, traffic(0, 0, 0), traffic(1, 0, 0)), []string{"neighbour", "arp", "loop", "mtu", "offload"}},
		{"direct, no neighbours", drFile, segment(tunlb.SegmentStatus{Ports: []string{"tap0"}}), []string{"arp", "loop", "passing", "mtu", "offload"}},
		{"the box's interfaces", boxFile, func(*facts) {}, []string{"neighbour", "gateway", "offload"}},
		{"one port, nothing to compare", oneArmFile, heard, []string{"neighbour", "arp", "loop", "passing", "offload"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := healthy(t, test.file)
			test.spoil(f)
			got := looked(f)
			for _, check := range watching {
				if want := slices.Contains(test.want, check); got[check] != want {
					t.Errorf("%s says ok: %t, want %t", check, got[check], want)
				}
			}
		})
	}
}

// TestOnce: an address of the switch is one finding, though both of its ports are in one namespace.
func TestOnce(t *testing.T) {
	for _, prefix := range []string{"203.0.113.2/24", "203.0.113.22/24"} {
		f := healthy(t, switchFile)
		has(prefix, "eth1")(f)
		if n := f.judge().Count(Fail); n != 1 {
			t.Errorf("%s: %d findings, want 1", prefix, n)
		}
	}
}

// TestChoose: a host of many devices names a few.
func TestChoose(t *testing.T) {
	f := healthy(t, switchFile)
	stopped(f)
	f.box().links = f.box().links[:0]
	for i := range 20 {
		f.box().links = append(f.box().links, link{name: fmt.Sprintf("veth%d", i), ethernet: true})
	}
	want := "write the name of a free Ethernet interface (veth0, veth1, veth2, veth3, veth4, veth5, veth6, veth7, ...) for port eth0 into tunlb.yaml, then: tunlb check tunlb.yaml"
	if got := checkPorts(f)[0].Fix; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNetNS: fixes and places of another namespace.
func TestNetNS(t *testing.T) {
	f := &facts{config: &config.Config{}, spaces: map[string]*space{"": {}}}
	for path, err := range map[string]error{"/run/netns/inside": fs.ErrNotExist, "/tmp/it's here": fs.ErrNotExist, "/etc/passwd": errNotNetNS, "/run/netns/other": fs.ErrPermission} {
		f.config.Ports = append(f.config.Ports, config.Port{Name: "tun0", Type: config.TUN, NetNS: path})
		f.spaces[path] = &space{err: err}
	}
	want := map[string]string{
		"/run/netns/inside": "ip netns add inside",
		"/tmp/it's here":    `touch '/tmp/it'\''s here' && unshare --net='/tmp/it'\''s here' true`,
		"/etc/passwd":       "rm /etc/passwd && touch /etc/passwd && unshare --net=/etc/passwd true",
		"/run/netns/other":  "sudo tunlb doctor -f FILE",
	}
	for _, got := range checkNetNS(f) {
		if want[got.Subject] != got.Fix {
			t.Errorf("%s: fix %q, want %q", got.Subject, got.Fix, want[got.Subject])
		}
		delete(want, got.Subject)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
	for _, test := range [][3]string{
		{"", "ip link", "ip link"},
		{"/run/netns/in", "ip link", "ip netns exec in ip link"},
		{"/run/netns/in", "a && b", "ip netns exec in sh -c 'a && b'"},
		{"/proc/7/ns/net", "ip link", "nsenter --net=/proc/7/ns/net ip link"},
	} {
		if got := in(test[0], test[1]); got != test[2] {
			t.Errorf("in(%q, %q) = %q, want %q", test[0], test[1], got, test[2])
		}
	}
	if got := sysctl("ipv4/conf/eth0.5/rp_filter", 2); got != "sysctl -w net/ipv4/conf/eth0.5/rp_filter=2" {
		t.Error(got)
	}
}
