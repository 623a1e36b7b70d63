package neigh

import (
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
)

// split counts what was sent: announcements of addr, and questions for it.
func split(t *testing.T, out []Frame, f family) (announced, asked int) {
	t.Helper()
	for _, frame := range out {
		switch m := parse(t, frame.Bytes()); {
		case m.Target != f.vip.As16():
		case m.Form == Announcement:
			announced++
		case m.Solicits():
			asked++
			if m.Sender == f.vip.As16() {
				t.Errorf("asked for the VIP from the VIP: %+v", m)
			}
		}
	}
	return announced, asked
}

// Start: three announcements, a second apart; on a shared segment a question now and every 30 s.
func TestAnnounceAndAsk(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, inline := range []bool{false, true} {
			table, now := New(config(inline), 0), -TickInterval
			announced, asked := split(t, tick(table, &now, 2*time.Second), f)
			if announced != 2 {
				t.Errorf("%d announcements in 2 s", announced)
			}
			a, q := split(t, tick(table, &now, 88*time.Second), f)
			if announced+a != announcements {
				t.Errorf("%d announcements", announced+a)
			}
			want := 3
			if inline {
				want = 0
			}
			if asked+q != want {
				t.Errorf("inline %v: asked %d times in 90 s, want %d", inline, asked+q, want)
			}
		}
	})
}

// A storm of claims is one conflict, one event a minute, one defence a second, and few questions.
func TestDefence(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		table.Events()
		claim := announces(rs1MAC, f.vip)
		m := parse(t, claim)
		announced, asked, reported := 0, 0, 0
		const seconds = 70
		for range seconds * 4 {
			for range 100 {
				if v := table.Handle(m, claim, 3, Shared, now); v != (Verdict{}) {
					t.Fatal(v)
				}
			}
			for _, e := range table.Events() {
				if e.Kind == AddressConflict {
					reported++
				}
			}
			a, q := split(t, append(drain(table), tick(table, &now, TickInterval)...), f)
			announced, asked = announced+a, asked+q
		}
		if announced != seconds || asked < seconds/6 || asked > seconds/5+1 || reported != 2 {
			t.Errorf("%d announcements, %d questions, %d events in %d s", announced, asked, reported, seconds)
		}
		c := table.Conflicts()
		if len(c) != 1 || c[0].Count != seconds*4*100 || c[0].Server != "rs1" || c[0].VIP != f.vip || c[0].Port != 3 {
			t.Errorf("%+v", c)
		}
	})
}

// The list is bounded, and so are the events when every claim has another MAC.
func TestConflictsBounded(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		table, now := quiet(t, config(false))
		table.Events()
		n := 0
		for i := range 1000 {
			mac := packet.MAC{2, 0, 0, 1, byte(i >> 8), byte(i)}
			now += time.Millisecond
			handle(t, table, announces(mac, f.vip), Shared, now)
			n += len(table.Events())
			drain(table)
		}
		checkTable(t, table)
		c := table.Conflicts()
		if len(c) != maxConflicts || c[0].MAC != (packet.MAC{2, 0, 0, 1, 3, 231}) || c[maxConflicts-1].First != now-(maxConflicts-1)*time.Millisecond {
			t.Errorf("%d conflicts, first %+v", len(c), c[0])
		}
		if n > reportBurst+1 {
			t.Errorf("%d events", n)
		}
	})
}

func TestFix(t *testing.T) {
	sysctl := "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
	v4, v6 := families[0].vip, families[1].vip
	for _, tt := range []struct {
		c        Conflict
		want, no []string
	}{
		{Conflict{VIP: v4, Server: "rs1", Form: Reply}, []string{"on rs1: " + sysctl, "ip addr add 203.0.113.22/32 dev lo", "ip addr del 203.0.113.22/PREFIX dev IFACE"}, nil},
		{Conflict{VIP: v4, Server: "rs1", Form: Request}, []string{"on rs1: " + sysctl}, nil},
		{Conflict{VIP: v4, Server: "rs1", Form: Announcement}, []string{"on rs1: " + sysctl, "if the VIP is not on lo"}, nil},
		{Conflict{VIP: v4, MAC: foreign, Form: Reply}, []string{"on the host with MAC 02:00:00:00:00:66: ", sysctl, "another load balancer"}, nil},
		{Conflict{VIP: v4, MAC: foreign, Form: Reply, Side: Clients}, []string{"take it off"}, []string{"sysctl"}},
		{Conflict{VIP: v4, Server: "rs1", Form: Reply, Own: true}, []string{"on rs1: this address is tunlb's, take it off"}, []string{"sysctl"}},
		{Conflict{VIP: v6, Server: "rs1", Form: Reply}, []string{"on rs1: have the VIP on lo: ip addr del 2001:db8::22/PREFIX dev IFACE", "then ip addr add 2001:db8::22/128 dev lo"}, []string{"sysctl"}},
	} {
		got := tt.c.Fix()
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%+v: %q lacks %q", tt.c, got, w)
			}
		}
		for _, w := range tt.no {
			if strings.Contains(got, w) {
				t.Errorf("%+v: %q has %q", tt.c, got, w)
			}
		}
	}
}
