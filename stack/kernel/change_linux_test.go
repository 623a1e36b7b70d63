package kernel

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestMinimalDiff checks that a changed state touches nothing but what has changed.
func TestMinimalDiff(t *testing.T) {
	n := newNetwork(t)
	k := open(t, n.box)
	s := full()
	apply(t, k, s)
	before := n.box.snapshot()
	log := n.box.record()

	s.Servers = append(slices.Clone(s.Servers[1:]), Server{netip.MustParseAddr("192.168.0.11"), tcp, 8080, 8080})
	s.VIPs = append(slices.Clone(s.VIPs), VIP{netip.MustParseAddr("203.0.113.23"), []PortProto{{tcp, 443, 443}}})
	s.Addresses = prefixes("10.255.0.1/30", "fd00:255::1/126", "10.255.0.5/30")
	apply(t, k, s)

	got := log()
	want := []string{
		"ip addr add 10.255.0.5/30 dev tunlb0",
		"ip rule add pref 7441 from 192.168.0.11 ipproto tcp sport 8080 lookup 7474 protocol 174",
		"ip rule add pref 7430 to 203.0.113.23 lookup 7474 protocol 174",
		"ip rule del pref 7441 from 192.168.0.10 ipproto tcp sport 8080 lookup 7474 protocol 174",
	}
	if slices.Sort(got); !slices.Equal(got, sorted(want)) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(sorted(want), "\n"))
	}
	apply(t, k, full())
	same(t, "the first state again", before, n.box.snapshot())
	apply(t, k, State{})
	if rest, err := k.ours(); err != nil || len(rest) > 0 {
		t.Errorf("the zero state: got %v, %v, want nothing of ours", rest, err)
	}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// record listens to changes of rules and addresses from now on; the function returned ends that and says
// which commands they were.
func (l *lab) record() func() []string {
	l.t.Helper()
	w := watcher{k: l.Kernel}
	l.must(w.subscribe())
	l.must(w.socket.SetReceiveBufferSize(1<<20, false))
	return func() []string {
		l.t.Helper()
		defer w.socket.Close()
		last := rule{family: unix.AF_INET, pref: 1, action: nl.FR_ACT_NOP, protocol: protocol + 1} // ends the record
		l.must(l.add(last))
		defer l.del(last)
		var list []string
		for {
			messages, _, err := w.socket.Receive()
			l.must(err)
			for _, m := range messages {
				var o object
				verb := "add"
				switch m.Header.Type {
				case unix.RTM_NEWRULE, unix.RTM_DELRULE:
					r, err := decodeRule(m.Data)
					l.must(err)
					if r == last {
						return list
					}
					o = r
				case unix.RTM_NEWADDR, unix.RTM_DELADDR:
					h := nl.DeserializeIfAddrmsg(m.Data)
					attrs, err := nl.ParseRouteAttr(m.Data[h.Len():])
					l.must(err)
					o = address{prefix(attrs[0].Value, h.Prefixlen), "tunlb0", int(h.Index)}
				default:
					continue
				}
				if slices.Contains([]uint16{unix.RTM_DELRULE, unix.RTM_DELADDR}, m.Header.Type) {
					verb = "del"
				}
				list = append(list, o.command(verb))
			}
		}
	}
}

// TestUndo checks that an Apply which fails half way leaves what was, and says what failed.
func TestUndo(t *testing.T) {
	own := []string{"203.0.113.22/32", "2001:db8:22::22/128"}
	for _, c := range []struct {
		name    string
		prepare func(n *network, s *State)
		want    string
	}{
		{"no device", func(_ *network, s *State) { s.Device = "tunlb9" }, "ip link show dev tunlb9: "},
		{"ports the wrong way round", func(_ *network, s *State) { s.VIPs[0].Ports[0].Last = 79 }, "203.0.113.22: ports 80 to 79: want 1 to 65535, the lower one first, or 0 to 0 for all"},
		{"port 0", func(_ *network, s *State) { s.Servers[2].First = 0 }, "fd00::10: ports 0 to 8080: want 1 to 65535"},
		{"gateway cannot be on a rule", func(_ *network, s *State) { s.Gateways[0].LastPort = 65535 }, "198.51.100.1: ports 32768 to 65535: the kernel's rules know ports 1 to 65534"},
		{"unknown protocol", func(_ *network, s *State) { s.Servers[0].Proto = 132 }, "192.168.0.10: protocol 132 is neither TCP (6) nor UDP (17)"},
		{"bad address", func(_ *network, s *State) { s.Addresses = append(s.Addresses, prefixes("ff02::1/128")...) }, "ip -6 addr add ff02::1/128 dev tunlb0: "},
		{"foreign default in our table", func(n *network, _ *State) {
			n.box.foreignDefault("inner", table)
		}, "ip -6 route add ::/0 dev tunlb0 table 7474 protocol 174: file exists"},
		{"obstacle", func(n *network, _ *State) {
			n.box.addr("lo", own...)
			n.box.moveLocalAway(7000)
		}, "another one stands before: ip rule del pref 7000 lookup 255 protocol 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, s := newNetwork(t), full()
			c.prepare(n, &s)
			before := n.box.snapshot()
			k := open(t, n.box)
			err := k.Apply(s)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Apply: got %v, want %q in it", err, c.want)
			}
			same(t, "a failed Apply", before, n.box.snapshot())
			if s.Device != "tunlb0" || len(s.Addresses) == len(full().Addresses) {
				return
			}
			apply(t, k, full())
			before = n.box.snapshot()
			if err := k.Apply(s); err == nil {
				t.Error("Apply of a state that failed before: no error")
			}
			same(t, "a failed change", before, n.box.snapshot())
		})
	}
}

// TestNeverWithoutLocal checks the order in which the local rule moves, back and forth and at the end.
func TestNeverWithoutLocal(t *testing.T) {
	n := newNetwork(t)
	s := full()
	s.Gateways = nil
	k := open(t, n.box)
	apply(t, k, s)
	log := n.box.record()
	n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
	apply(t, k, s)
	n.box.delAddr("lo", "203.0.113.22/32")
	n.box.delAddr("lo", "2001:db8:22::22/128")
	apply(t, k, s)
	n.box.addr("lo", "203.0.113.22/32", "2001:db8:22::22/128")
	apply(t, k, s)
	k.Close()

	there, moves := map[string]int{"ip": 1, "ip -6": 1}, 0
	for _, c := range log() {
		family, what, _ := strings.Cut(c, " rule ")
		switch verb, r, _ := strings.Cut(what, " "); {
		case !strings.HasPrefix(r, "pref 0 lookup 255 ") && !strings.HasPrefix(r, "pref 7440 lookup 255 "):
			continue
		case verb == "add":
			there[family]++
		default:
			there[family]--
		}
		moves++
		if there[family] < 1 {
			t.Errorf("no local rule after: %s", c)
		}
	}
	if moves != 2*4*2 {
		t.Errorf("%d changes of local rules, want 16", moves)
	}
}

// TestFollow checks that Watch and Apply together follow the box: a VIP that comes and goes, rules that a network
// manager has thrown away, a device that was down for a moment.
func TestFollow(t *testing.T) {
	n := newNetwork(t)
	s := full()
	s.Gateways = nil
	k := open(t, n.box)
	views := make(chan View, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- k.Watch(ctx, "tunlb0", func(v View) {
			if err := k.Apply(s); err != nil {
				t.Errorf("Apply: %v", err)
			}
			views <- v
		})
	}()
	first := <-views
	if first.DeviceUp {
		t.Error("the device is up at first")
	}
	if want := (OnLink{netip.MustParsePrefix("192.168.0.0/24"), "inner"}); !slices.Contains(first.OnLink, want) {
		t.Errorf("on-link networks: got %v, want %v among them", first.OnLink, want)
	}
	vip := netip.MustParseAddr("203.0.113.22")
	ssh := query{from: "198.51.100.2", to: vip.String(), iif: "outer", proto: tcp, sport: 40000, dport: 22}
	web := ssh
	web.dport = 80
	wait := func(what, way string) {
		t.Helper()
		n.box.until(what, func() bool { return n.box.way(ssh) == way && n.box.way(web) == "tunlb0" })
	}
	wait("the first Apply", "tunlb0")
	steady := n.box.snapshot()
	n.box.addr("lo", "203.0.113.22/32")
	wait("the VIP to be the box's own", "local")
	for v := range views { // it is not the last state any more once it is changed
		if v.Local(vip, "lo") {
			t.Error("Local with the exception of lo finds an address of lo")
		}
		if v.Local(vip, "tunlb0") {
			break
		}
	}
	n.box.delAddr("lo", "203.0.113.22/32")
	wait("the VIP to be tunlb's again", "tunlb0")
	n.box.must(n.box.del(rule{family: unix.AF_INET, pref: prefVIP, action: nl.FR_ACT_TO_TBL, table: table, to: single(vip), protocol: protocol}))
	wait("the rule to come back", "tunlb0")
	n.box.must(n.box.links.LinkSetDown(n.box.link("tunlb0")))
	wait("the device to come back", "tunlb0")
	n.box.until("everything to be as before", func() bool { return diff(steady, n.box.snapshot()) == "" })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch: %v", err)
	}
}

// TestOverflow checks that Watch looks again after the kernel had to drop messages.
func TestOverflow(t *testing.T) {
	n := newNetwork(t)
	w := watcher{k: n.box.Kernel, device: "tunlb0", events: make(chan bool, 1), failed: make(chan error, 1)}
	n.box.must(w.subscribe())
	n.box.must(w.socket.SetReceiveBufferSize(1, false))
	for range 100 {
		n.box.addr("lo", "203.0.113.22/32")
		n.box.delAddr("lo", "203.0.113.22/32")
	}
	go w.listen()
	for touched := false; !touched; touched = <-w.events {
	}
	w.stop()
	for ended := false; !ended; {
		select {
		case <-w.events:
		case err := <-w.failed:
			if err != nil {
				t.Errorf("listen: %v", err)
			}
			ended = true
		}
	}
}
