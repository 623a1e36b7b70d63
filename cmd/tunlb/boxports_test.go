package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// claims are the parts of boxPorts, and write down what they are told.
type claims struct {
	t                    *testing.T
	guard, socket, known packet.Claim
	steps                []string
	fail                 string // the step that fails
}

var errRefused = errors.New("refused")

func (c *claims) step(name string) error {
	c.steps = append(c.steps, name)
	if name == c.fail {
		return errRefused
	}
	return nil
}

// within wants the kernel to be kept from all that the sockets take.
func (c *claims) within() {
	c.t.Helper()
	g, s := c.guard, c.socket
	for _, pair := range [][2][]packet.Endpoints{{s.VIPs, g.VIPs}, {s.Servers, g.Servers}} {
		for _, e := range pair[0] {
			if !slices.Contains(pair[1], e) {
				c.t.Errorf("after %v the kernel has %v as well", c.steps, e)
			}
		}
	}
	for _, own := range g.Own {
		if len(s.Servers) > 0 && !slices.Contains(s.Own, own) {
			c.t.Errorf("after %v the kernel has answers to %v as well", c.steps, own)
		}
	}
}

type guardOf struct{ *claims }

func (c guardOf) Set(names []string, claim packet.Claim) error {
	if fmt.Sprint(names) != "[eth0 eth1]" {
		c.t.Errorf("of %v", names)
	}
	err := c.step("guard")
	if err == nil {
		c.guard = claim
		c.within()
	}
	return err
}

func (c guardOf) Close() error { return nil }

type socketOf struct {
	*claims
	name string
}

func (c socketOf) SetClaim(claim packet.Claim) error {
	err := c.step(c.name)
	if err == nil {
		c.socket = claim
		c.within()
	}
	return err
}

type engineOf struct{ *claims }

func (c engineOf) SetClaim(claim packet.Claim) { c.known = claim }

// TestClaimsChange: whatever changes, there is no moment at which the kernel handles what a socket takes, and
// what fails is undone.
func TestClaimsChange(t *testing.T) {
	at := func(a string, port uint16) packet.Endpoints {
		return packet.Endpoints{Addr: netip.MustParseAddr(a), Proto: packet.ProtoTCP, First: port, Last: port}
	}
	own := []netip.Addr{netip.MustParseAddr("192.168.0.100"), netip.MustParseAddr("2001:db8:c0::100")}
	web, web6 := at("203.0.113.22", 80), at("2001:db8:113::22", 80)
	rs1, rs2 := at("192.168.0.10", 8080), at("2001:db8:c0::10", 8080)
	claimList := []packet.Claim{
		{},
		{VIPs: []packet.Endpoints{web}, Servers: []packet.Endpoints{rs1}, Own: own[:1]},
		{VIPs: []packet.Endpoints{web, web6}, Servers: []packet.Endpoints{rs1, rs2}, Own: own},
		{VIPs: []packet.Endpoints{web6}, Servers: []packet.Endpoints{rs2}, Own: own[1:]},
		{VIPs: []packet.Endpoints{web6}, Own: own},
		{VIPs: []packet.Endpoints{web6}, Servers: []packet.Endpoints{rs2}, Own: own},
	}
	for i, from := range claimList {
		for j, to := range claimList {
			for _, fail := range []string{"", "eth1", "guard"} {
				c := &claims{t: t, guard: from, socket: from, known: from}
				b := &boxPorts{guard: guardOf{c}, names: []string{"eth0", "eth1"}, engine: engineOf{c}, claim: from}
				for _, name := range b.names {
					b.ports = append(b.ports, socketOf{c, name})
				}
				c.fail = fail
				err := b.follow(to)
				want := to
				switch {
				case i == j:
					if err != nil || len(c.steps) > 0 {
						t.Errorf("nothing has changed: %v %v", c.steps, err)
					}
					continue
				case fail != "":
					if want = from; !errors.Is(err, errRefused) {
						t.Errorf("%s fails: %v", fail, err)
					}
				case err != nil:
					t.Error(err)
				}
				if fail == "eth1" {
					continue // which would not take the old claim either
				}
				for what, got := range map[string]packet.Claim{"guard": c.guard, "socket": c.socket, "engine": c.known, "in force": b.claim} {
					if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%d to %d, failing %q: %s has %v, want %v", i, j, fail, what, got, want)
					}
				}
			}
		}
	}
}

var _ port.Claimer = socketOf{}
