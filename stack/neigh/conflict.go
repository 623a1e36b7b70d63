package neigh

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// Conflict is a station that claims an address of ours. It is a plain value.
type Conflict struct {
	VIP    netip.Addr
	Own    bool // it is tunlb's own address, no VIP
	MAC    packet.MAC
	Server string // whose MAC it is, "" if no server's
	Form   Form   // of its last claim
	Port   uint8
	Side   Side

	Count       uint64
	First, Last time.Duration
	reported    time.Duration
}

// conflict notes a claim, and reports it unless that has been done a short while ago.
func (t *Table) conflict(l *local, m *Message, port uint8, side Side, now time.Duration) {
	vip, mac := packet.Addr(l.addr), m.station()
	i := slices.IndexFunc(t.conflicts, func(c Conflict) bool { return c.MAC == mac && c.VIP == vip })
	if i < 0 {
		if len(t.conflicts) == maxConflicts { // the one silent for longest gives way
			i = 0
			for j := range t.conflicts {
				if t.conflicts[j].Last < t.conflicts[i].Last {
					i = j
				}
			}
		} else {
			i = len(t.conflicts)
			t.conflicts = append(t.conflicts, Conflict{})
		}
		t.conflicts[i] = Conflict{VIP: vip, MAC: mac, First: now, reported: never}
	}
	c := &t.conflicts[i]
	c.Own, c.Form, c.Port, c.Side, c.Last = !l.vip, m.Form, port, side, now
	c.Count++
	c.Server = ""
	for _, is6 := range [2]bool{m.Is6, !m.Is6} {
		if e := t.stations[stationKey{mac, is6}]; e != nil && e.server {
			c.Server = e.name
			break
		}
	}
	if now-c.reported >= reportAgain && t.reports.take(now, time.Second, reportBurst) {
		c.reported = now
		t.event(Event{Kind: AddressConflict, Addr: vip, MAC: mac, Name: c.Server, Conflict: *c})
	}
}

// Conflicts lists them, the latest first.
func (t *Table) Conflicts() []Conflict {
	out := slices.Clone(t.conflicts)
	slices.SortFunc(out, func(a, b Conflict) int { return int(b.Last - a.Last) })
	return out
}

// Fix says what to do about it: the commands, and where.
func (c Conflict) Fix() string {
	take := fmt.Sprintf("ip addr del %s/PREFIX dev IFACE (both as \"ip addr show to %[1]s\" has them)", c.VIP)
	where, noServer := "on "+c.Server, c.Own || c.Side == Clients
	switch {
	case c.Server == "" && noServer:
		return fmt.Sprintf("on the host with MAC %s: this address is tunlb's, take it off (%s); if that is another load balancer, "+
			"give one of the two another address", c.MAC, take)
	case c.Server == "":
		return fmt.Sprintf("on the host with MAC %s: if it is a real server, %s; if it is another load balancer, "+
			"give one of the two another address; else take it off: %s", c.MAC, c.onServer(take), take)
	case noServer:
		return fmt.Sprintf("%s: this address is tunlb's, take it off: %s", where, take)
	}
	return fmt.Sprintf("%s: %s", where, c.onServer(take))
}

// onServer is the LVS way.
func (c Conflict) onServer(take string) string {
	move := fmt.Sprintf("%s, then ip addr add %s dev lo", take, host(c.VIP))
	if !c.VIP.Is4() {
		// Linux answers neighbour discovery for the addresses of the interface it comes in by, and asks
		// with no others: on lo the VIP is silent without a sysctl.
		return "have the VIP on lo: " + move
	}
	return "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2; " +
		"and if the VIP is not on lo: " + move
}

// host is an address as ip(8) wants a single one.
func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
