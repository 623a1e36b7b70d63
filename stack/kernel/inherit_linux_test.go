package kernel

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestSuccession: a state that is handed on is not touched on the way, and the last of the line puts everything back as it was before the
// first, without a step too many or too few.
func TestSuccession(t *testing.T) {
	virtual := State{Device: "tunlb0", Addresses: prefixes("10.255.0.1/30", "fd00:255::1/126"), Routes: prefixes("10.0.0.0/8", "fd01::/16")}
	for _, c := range []struct {
		name    string
		state   State
		prepare func(n *network)
	}{
		{"a box", full(), nil},
		{"VIPs of the box", full(), func(n *network) { n.box.addr("lo", "203.0.113.22/32"); n.box.addr("outer", "2001:db8:22::22/128") }},
		{"forwarding here and there", full(), func(n *network) {
			n.box.setSysctl("ipv4/conf/outer/forwarding", "1")
			n.box.setSysctl("ipv6/conf/inner/forwarding", "1")
			n.box.setSysctl("ipv4/conf/all/accept_redirects", "0")
		}},
		{"virtual router", virtual, func(n *network) { n.box.must(n.box.links.LinkSetDown(n.box.link("lo"))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			if c.prepare != nil {
				c.prepare(n)
			}
			before := n.box.snapshot()
			k := open(t, n.box)
			apply(t, k, c.state)
			applied := n.box.snapshot()
			events := n.box.hear()
			descriptors := openDescriptors(t)
			for range 50 {
				k = succeed(t, n.box, k)
				apply(t, k, c.state)
			}
			if after := openDescriptors(t); after > descriptors {
				t.Errorf("%d descriptors, at first %d", after, descriptors)
			}
			if got := events.since(n.box); len(got) > 0 {
				t.Errorf("on the way the kernel was told:\n%s", strings.Join(got, "\n"))
			}
			same(t, "to be handed on", applied, n.box.snapshot())
			if err := k.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			same(t, "Close", before, n.box.snapshot())
		})
	}
}

// succeed leaves k and opens its successor.
func succeed(t *testing.T, l *lab, k *Kernel) *Kernel {
	t.Helper()
	remembered := k.Remember()
	k.Leave()
	next := open(t, l)
	if err := next.Recall(remembered); err != nil {
		t.Fatal(err)
	}
	if again := next.Remember(); string(again) != string(remembered) {
		t.Errorf("recalled %s\nas %s", remembered, again)
	}
	return next
}

// TestSuccessorWantsAnother: of a state that is another one, what both have is not touched; and what is new comes before
// anything old goes.
func TestSuccessorWantsAnother(t *testing.T) {
	n := newNetwork(t)
	n.box.addr("lo", "203.0.113.22/32")
	before := n.box.snapshot()
	k := open(t, n.box)
	first, second := full(), full()
	second.Servers = append(first.Servers[1:], Server{prefixes("192.168.0.11/32")[0].Addr(), tcp, 8080, 8080})
	second.VIPs[0].Ports = []PortProto{{tcp, 80, 80}, {tcp, 443, 443}}
	apply(t, k, first)
	events := n.box.hear()
	k = succeed(t, n.box, k)
	apply(t, k, second)
	gone := false
	for _, e := range events.since(n.box) {
		switch {
		case strings.HasPrefix(e, "del"):
			gone = true
			if !strings.Contains(e, "192.168.0.10") && !strings.Contains(e, "203.0.113.22") {
				t.Errorf("what both have has gone: %s", e)
			}
		case gone:
			t.Errorf("this has come after something else was gone: %s", e)
		}
	}
	if !gone {
		t.Error("nothing has gone")
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	same(t, "Close", before, n.box.snapshot())
}

// TestRecall: what was remembered elsewhere counts for nothing, and nonsense is an error.
func TestRecall(t *testing.T) {
	a, b := newNetwork(t), newNetwork(t)
	k := open(t, a.box)
	apply(t, k, full())
	other := open(t, b.box)
	empty := string(other.Remember())
	if err := other.Recall(k.Remember()); err != nil || string(other.Remember()) != empty {
		t.Errorf("%v; recalled %s", err, other.Remember())
	}
	if err := other.Recall([]byte("{")); err == nil {
		t.Error("nonsense is recalled")
	}
	if len(k.Remember()) <= len(empty) {
		t.Errorf("remembered %s", k.Remember())
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// hearing is what the kernel tells of rules, routes, addresses and links from now on.
type hearing struct{ socket *nl.NetlinkSocket }

func (l *lab) hear() hearing {
	l.t.Helper()
	var h hearing
	l.must(l.inside(func() (err error) {
		h.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		return err
	}))
	l.t.Cleanup(h.socket.Close)
	return h
}

// since tells what was heard. The last thing is a rule of its own, which it adds and deletes.
func (h hearing) since(l *lab) (events []string) {
	l.t.Helper()
	last := rule{family: unix.AF_INET, pref: 31999, action: nl.FR_ACT_NOP, protocol: unix.RTPROT_STATIC}
	l.must(l.add(last))
	defer func() { l.must(l.del(last)) }()
	for {
		messages, _, err := h.socket.Receive()
		l.must(err)
		for _, m := range messages {
			verb := map[bool]string{true: "del", false: "add"}[m.Header.Type&1 == 1]
			switch m.Header.Type {
			case unix.RTM_NEWRULE, unix.RTM_DELRULE:
				r, err := decodeRule(m.Data)
				l.must(err)
				if r.pref == last.pref {
					return events
				}
				events = append(events, fmt.Sprintf("%s rule %s", verb, r.command(verb)))
			case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
				r, err := decodeRoute(m.Data)
				l.must(err)
				events = append(events, fmt.Sprintf("%s route %s", verb, r.command(verb)))
			default:
				events = append(events, fmt.Sprintf("%s type %d", verb, m.Header.Type))
			}
		}
	}
}
