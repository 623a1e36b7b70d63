package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// checked is a service with health checks.
func checked(v6 bool, weights ...int) policy.Spec {
	s := web("rr", weights...)
	s.Health = policy.Health{Type: "http", Interval: time.Second, Timeout: time.Second, Rise: 2, Fall: 3}
	if v6 {
		s = twin(s)
	}
	return s
}

// office is a roster under test, at a time.
type office struct {
	*policy.Roster
	t   testing.TB
	now time.Duration
}

func newOffice(t testing.TB, specs ...policy.Spec) *office {
	o := &office{Roster: policy.NewRoster(), t: t}
	o.configure(specs...)
	return o
}

func (o *office) configure(specs ...policy.Spec) {
	o.t.Helper()
	if err := o.Configure(specs, o.now); err != nil {
		o.t.Fatal(err)
	}
}

// see observes n results of a server of the first service; with a cause they are failures.
func (o *office) see(n int, s policy.Spec, server int, cause string) {
	for range n {
		o.Observe(policy.Result{Service: s.Name, Server: s.Servers[server].Address, OK: cause == "", Cause: cause}, o.now)
	}
}

// allUp has all servers of a service pass their first check.
func (o *office) allUp(s policy.Spec) {
	for i := range s.Servers {
		o.see(1, s, i, "")
	}
	o.Events()
}

// wants compares the composed weights of the first service: a3 b0, and + for a server that keeps its flows.
func (o *office) wants(what, want string) {
	o.t.Helper()
	specs := o.Compose(o.now)
	if _, err := policy.Build(specs, nil); err != nil {
		o.t.Fatalf("%s: %v", what, err)
	}
	var got []string
	for _, s := range specs[0].Servers {
		text := fmt.Sprint(s.Name, s.Weight)
		if s.Keep {
			text += "+"
		}
		got = append(got, text)
	}
	if got := strings.Join(got, " "); got != want {
		o.t.Errorf("%s: got %s, want %s", what, got, want)
	}
	if o.Dirty() {
		o.t.Errorf("%s: dirty after Compose", what)
	}
}

// tells compares the events since the last call.
func (o *office) tells(what string, want ...string) {
	o.t.Helper()
	var got []string
	for _, e := range o.Events() {
		got = append(got, e.String())
	}
	if !slices.Equal(got, want) {
		o.t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestRosterHealth(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := checked(v6, 3, 5)
		o := newOffice(t, s)
		a := "web/a " + s.Servers[0].Address.String()
		o.wants("unchecked", "a0 b0")
		o.see(2, s, 0, "refused")
		o.tells("two failures")
		o.see(1, s, 0, "")
		o.wants("first success", "a3 b0")
		o.tells("first success", a+": up: 1 success", "web: quorum-gained: weight 3 of at least 1 is up: 1 success")
		o.see(1, s, 1, "")
		o.wants("both", "a3 b5")
		o.Events()
		o.see(2, s, 0, "refused")
		o.see(1, s, 0, "")
		o.see(2, s, 0, "timeout")
		if o.tells("not three in a row"); o.Dirty() {
			t.Error("not three in a row: dirty")
		}
		o.see(1, s, 0, "status 500")
		o.wants("down", "a0 b5")
		o.tells("down", a+": down: 3 failures in a row: status 500")
		o.see(1, s, 0, "status 500")
		o.see(1, s, 0, "")
		o.wants("one success", "a0 b5")
		o.see(1, s, 0, "")
		o.wants("up again", "a3 b5")
		o.tells("up again", a+": up: 2 successes in a row")

		fresh := newOffice(t, s)
		fresh.see(3, s, 0, "refused")
		fresh.see(1, s, 0, "")
		fresh.wants("down before it was up: it needs two", "a0 b0")
		fresh.see(1, s, 0, "")
		fresh.wants("two", "a3 b0")

		for _, r := range []policy.Result{
			{Service: "other", Server: s.Servers[0].Address},
			{Service: "web", Server: netip.MustParseAddrPort("192.168.9.9:80")},
			{Service: "web"},
		} {
			for range 3 {
				if o.Observe(r, 0) {
					t.Errorf("observed %+v", r)
				}
			}
		}
	})
}

func TestRosterRemove(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := checked(v6, 3, 5)
		s.Health.Remove = true
		o := newOffice(t, s)
		o.wants("unchecked", "")
		o.allUp(s)
		o.wants("up", "a3 b5")
		o.see(3, s, 0, "refused")
		o.wants("down", "b5")
		o.see(2, s, 0, "")
		o.wants("up again", "a3 b5")
		if _, err := o.Drain("", "a", 0); err != nil {
			t.Error(err)
		}
		o.wants("drained, not removed", "a0 b5")
	})
}

// TestRosterReload: what is kept and what is not.
func TestRosterReload(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		for _, c := range []struct {
			name string
			edit func(s *policy.Spec)
			want string
		}{
			{"same", func(*policy.Spec) {}, "a0 b5 c0"},
			{"another interval", func(s *policy.Spec) { s.Health.Interval, s.Health.Fall = time.Hour, 9 }, "a0 b5 c0"},
			{"removal instead", func(s *policy.Spec) { s.Health.Remove = true }, "b5 c0"},
			{"another path", func(s *policy.Spec) { s.Health.Path = "/healthz" }, "a0 b5 c0"},
			{"another type", func(s *policy.Spec) { s.Health.Type = "tcp" }, "a0 b5 c0"},
			{"no check", func(s *policy.Spec) { s.Health = policy.Health{} }, "a3 b5 c0"},
			{"other names", func(s *policy.Spec) { s.Name, s.Servers[0].Name = "www", "x" }, "x0 b5 c0"},
			{"other order", func(s *policy.Spec) { slices.Reverse(s.Servers) }, "c0 b5 a0"},
			{"one more", func(s *policy.Spec) {
				more := s.Servers[0]
				more.Name, more.Address = "d", netip.AddrPortFrom(more.Address.Addr(), 81)
				s.Servers = append(s.Servers, more)
			}, "a0 b5 c0 d0"},
			{"other weights", func(s *policy.Spec) { s.Servers[1].Weight, s.Servers[2].Weight = 6, 8 }, "a0 b6 c0"},
			{"one more VIP", func(s *policy.Spec) {
				more := s.Listen[0]
				more.Addr = more.Addr.Next()
				s.Listen = append([]policy.Listen{more}, s.Listen...)
			}, "a0 b5 c0"},
			{"another VIP", func(s *policy.Spec) { s.Listen[0].Addr = s.Listen[0].Addr.Next() }, "a0 b0 c0"},
		} {
			s := checked(v6, 3, 5, 7)
			o := newOffice(t, s)
			o.allUp(s)
			o.see(3, s, 0, "refused")
			if _, err := o.Drain("web", "c", 0); err != nil {
				t.Fatal(err)
			}
			s = checked(v6, 3, 5, 7)
			c.edit(&s)
			o.configure(s)
			o.wants(c.name, c.want)
		}
	})
	// A refused configuration changes nothing.
	s := checked(false, 3, 5)
	o := newOffice(t, s)
	o.allUp(s)
	bad := checked(false, 1)
	bad.Scheduler = "random"
	if err := o.Configure([]policy.Spec{bad}, 0); !errors.Is(err, policy.ErrUnknownScheduler) {
		t.Errorf("got %v", err)
	}
	o.wants("refused configuration", "a3 b5")
	// A server that was away is new.
	less := checked(false, 3)
	o.configure(less)
	o.configure(s)
	o.wants("was away", "a3 b0")
}

func TestRosterOrders(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := web("rr", 3, 5)
		if v6 {
			s = twin(s)
		}
		a := s.Servers[0].Address
		o := newOffice(t, s)
		for _, c := range []struct{ service, server string }{
			{"", "a"}, {"web", "a"}, {s.Listen[0].String(), "a"}, {"web", a.String()}, {"", a.Addr().String()},
		} {
			targets, err := o.Drain(c.service, c.server, 0)
			if want := []policy.Target{{Service: "web", Server: "a", Address: a}}; err != nil || !slices.Equal(targets, want) {
				t.Errorf("%q %q: got %v, %v", c.service, c.server, targets, err)
			}
			o.wants("drained", "a0 b5")
			if targets, err := o.Drain(c.service, c.server, 0); err != nil || len(targets) != 1 || o.Dirty() {
				t.Errorf("drained again: %v, %v, dirty %t", targets, err, o.Dirty())
			}
			if _, err := o.Undrain(c.service, c.server, 0); err != nil {
				t.Error(err)
			}
			o.wants("undrained", "a3 b5")
			o.tells("drain and undrain", "web/a "+a.String()+": drained", "web/a "+a.String()+": undrained")
		}
		weight := func(weight int) {
			t.Helper()
			if _, err := o.SetWeight("web", "a", weight, 0); err != nil {
				t.Error(err)
			}
		}
		weight(9)
		o.wants("weight", "a9 b5")
		o.tells("weight", "web/a "+a.String()+": weight: 3 -> 9")
		s.Servers[1].Weight = 6
		o.configure(s)
		o.wants("another's weight configured", "a9 b6")
		s.Servers[0].Weight = 4
		o.configure(s)
		o.wants("another weight configured", "a4 b6")
		weight(0)
		o.wants("weight 0", "a0 b6")
		weight(4)
		o.wants("as configured", "a4 b6")
		s.Servers[0].Weight = 5
		o.configure(s)
		o.wants("an order of what was configured is none", "a5 b6")
		o.Events()

		before := o.States(0)
		for _, c := range []struct {
			service, server string
			weight          int
			want            error
			text            string
		}{
			{"nosuch", "a", 1, policy.ErrNoSuchService, `no such service: "nosuch"`},
			{"web", "nosuch", 1, policy.ErrNoSuchServer, `no such server: "nosuch" in service "web": it has a (` + a.String()},
			{"", "nosuch", 1, policy.ErrNoSuchServer, `no such server: "nosuch" in any service`},
			{"", "", 1, policy.ErrNoSuchServer, `no such server: ""`},
			{"", "192.168.9.9", 1, policy.ErrNoSuchServer, ""},
			{"", "[2001:db8::9]:1", 1, policy.ErrNoSuchServer, ""},
			{"web", "a", -1, policy.ErrWeight, "weight is out of range: -1: want 0 to 2147483647"},
			{"web", "a", policy.MaxWeight + 1, policy.ErrWeight, ""},
		} {
			if _, err := o.SetWeight(c.service, c.server, c.weight, 0); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%q %q %d: got %v, want %q", c.service, c.server, c.weight, err, c.text)
			}
		}
		if o.tells("refused orders"); !reflect.DeepEqual(before, o.States(0)) || o.Dirty() {
			t.Error("a refused order has changed something")
		}
	})
}

// TestRosterOrdersEverywhere: a machine is in several services, in both families and with several ports.
func TestRosterOrdersEverywhere(t *testing.T) {
	one, two, three := web("rr", 1, 1), twin(web("rr", 1)), web("rr", 1)
	two.Name, three.Name = "six", "other"
	three.Listen[0].First, three.Listen[0].Last = 443, 443
	one.Servers[1].Name, one.Servers[1].Address = "a-too", netip.AddrPortFrom(one.Servers[0].Address.Addr(), 81)
	o := newOffice(t, one, two, three)
	names := func(targets []policy.Target, err error) (text string) {
		if err != nil {
			return err.Error()
		}
		for _, target := range targets {
			text += target.Service + "/" + target.Server + " "
		}
		return text
	}
	if got, want := names(o.Drain("", "a", 0)), "web/a six/a other/a "; got != want {
		t.Errorf("by name: %s, want %s", got, want)
	}
	if got, want := names(o.Drain("", "192.168.0.1", 0)), "web/a web/a-too other/a "; got != want {
		t.Errorf("by address: %s, want %s", got, want)
	}
	if got, want := names(o.Drain("", "192.168.0.1:8080", 0)), "web/a other/a "; got != want {
		t.Errorf("by address and port: %s, want %s", got, want)
	}
	three.Servers[0].Address = address(7)
	o.configure(one, two, three)
	got := names(o.Undrain("", "a", 0))
	if want := `several servers have that name: "a" is 192.168.0.1:8080 in service "web" and 192.168.0.7:8080 in "other": name the service, or the address`; got != want {
		t.Errorf("ambiguous:\n got %s\nwant %s", got, want)
	}
	if o.Dirty(); o.States(0)[0].Servers[0].Drained != true {
		t.Error("an ambiguous order was carried out")
	}
	if got, want := names(o.Undrain("web", "a", 0)), "web/a "; got != want {
		t.Errorf("of one service: %s, want %s", got, want)
	}
}

func TestRosterQuorum(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := web("rr", 3, 5)
		s.Health = checked(false).Health
		s.Quorum, s.Sorry = 5, &policy.ServerSpec{Name: "sorry", Address: address(99)}
		sorry := s.Sorry.Address
		if v6 {
			s = twin(s)
			sorry = netip.AddrPortFrom(sixth(sorry.Addr()), sorry.Port())
			s.Sorry = &policy.ServerSpec{Name: "sorry", Address: sorry}
		}
		o := newOffice(t, s)
		o.wants("at the start", "a0 b0 sorry1+")
		o.see(1, s, 0, "")
		o.wants("3 of 5", "a0 b0 sorry1+")
		o.Events()
		o.see(1, s, 1, "")
		o.wants("8 of 5", "a3 b5")
		o.tells("8 of 5", "web/b "+s.Servers[1].Address.String()+": up: 1 success",
			"web: quorum-gained: weight 8 of at least 5 is up: 1 success", "web/sorry "+sorry.String()+": sorry-off: 1 success")
		o.see(3, s, 0, "refused")
		o.wants("5 of 5", "a0 b5")
		o.Events()
		if _, err := o.Drain("", "b", 0); err != nil {
			t.Error(err)
		}
		o.wants("0 of 5", "a0 b0 sorry1+")
		o.tells("0 of 5", "web/b "+s.Servers[1].Address.String()+": drained",
			"web: quorum-lost: weight 0 of at least 5 is up: server is drained", "web/sorry "+sorry.String()+": sorry-on: server is drained")
		s.Quorum = 0
		o.configure(s)
		o.wants("0 of 1", "a0 b0 sorry1+")
		s.Sorry = nil
		o.configure(s)
		o.wants("without a sorry server", "a0 b0")

		// Nobody checks, but no weight is left; the sorry server is one of the others.
		s = web("rr", 3, 0)
		s.Sorry = &policy.ServerSpec{Name: "sorry", Address: address(2)}
		if v6 {
			s = twin(s)
			s.Sorry = &policy.ServerSpec{Name: "sorry", Address: s.Servers[1].Address}
		}
		o = newOffice(t, s)
		o.wants("unchecked", "a3 b0")
		if _, err := o.SetWeight("", "a", 0, 0); err != nil {
			t.Error(err)
		}
		o.wants("unchecked, without weight", "a0 b1")
	})
}

func TestRosterSlowStart(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := checked(v6, 1, 1, 3)
		s.SlowStart = 100 * time.Second
		o := newOffice(t, s)
		for i := range s.Servers { // a second apart
			o.see(1, s, i, "")
			o.now += time.Second
		}
		o.wants("at the start nobody rises", "a1 b1 c3")
		o.now = 1000 * time.Second
		o.see(3, s, 0, "refused")
		o.see(2, s, 0, "")
		if next, ok := o.Next(o.now); !ok || next != 1010*time.Second { // before Compose has seen it
			t.Errorf("next step at %s, %t", next, ok)
		}
		steps := 0
		for _, c := range []struct {
			at   time.Duration
			want string
		}{
			{0, "a1 b20 c60"}, {9 * time.Second, "a1 b20 c60"}, {10 * time.Second, "a3 b20 c60"}, {50 * time.Second, "a11 b20 c60"},
			{99 * time.Second, "a19 b20 c60"}, {100 * time.Second, "a1 b1 c3"},
		} {
			for {
				at, ok := o.Next(o.now)
				if !ok || at > 1000*time.Second+c.at {
					break
				}
				o.now = at
				steps++
				o.Compose(o.now)
			}
			o.now = 1000*time.Second + c.at
			o.wants(c.at.String(), c.want)
		}
		if _, ok := o.Next(o.now); ok || steps != 10 {
			t.Errorf("%d steps, and more to come %t", steps, ok)
		}
		// Down amid its rise, and up again: from the beginning. All down: who is up first is there at once, who comes
		// later starts in relation to the first.
		o.see(3, s, 0, "refused")
		o.see(2, s, 0, "")
		o.now += 50 * time.Second
		o.wants("half", "a11 b20 c60")
		o.see(3, s, 0, "refused")
		o.wants("down", "a0 b1 c3")
		o.see(2, s, 0, "")
		o.wants("again", "a1 b20 c60")
		if _, err := o.SetWeight("", "c", 2, o.now); err != nil {
			t.Error(err)
		}
		o.wants("another's weight", "a1 b20 c40")
		s.Servers[0].Weight = 2
		o.configure(s)
		o.wants("over a reload", "a2 b20 c40")
		for i := range s.Servers {
			o.see(3, s, i, "refused")
		}
		o.see(2, s, 2, "")
		o.wants("first", "a0 b0 c2")
		o.see(2, s, 1, "")
		o.wants("at once", "a0 b1 c2")
		o.now += 20 * time.Second
		o.see(2, s, 0, "")
		o.wants("later", "a2 b5 c10") // 1 to 5, like 1/20 to 5/20
		o.now += 80 * time.Second
		o.wants("two are there", "a34 b20 c40")
	})
	// A server that is new in a service others of which are up rises; if all checks are new, none does.
	s := checked(false, 1, 1)
	s.SlowStart = time.Minute
	o := newOffice(t, s)
	o.allUp(s)
	more := checked(false, 1, 1, 1)
	more.SlowStart = time.Minute
	o.configure(more)
	o.see(1, more, 2, "")
	o.wants("joins", "a20 b20 c1")
	o.now += time.Hour
	more.SlowStart = 2 * time.Hour
	o.configure(more)
	o.wants("longer than before: who has risen stays", "a1 b1 c1")
	more.Health.Path = "/other"
	o.configure(more)
	o.allUp(more)
	o.wants("all checks are new", "a1 b1 c1")

	for _, c := range []struct {
		scheduler string
		weights   []int
		want      string
	}{
		{"wlc", []int{1, 100}, "a1 b2000"},
		{"wlc", []int{1, policy.MaxWeight}, "a1 b2147483647"},
		{"fo", []int{1, 100}, "a1 b100"},
		{"ovf", []int{100, 100}, "a5 b100"},
		{"lblc", []int{30, 1}, "a2 b1"}, // 1.5 of it
		{"lblcr", []int{0, 1}, "a0 b1"},
		{"sh", []int{10, 10}, "a1 b10"},
		{"dh", []int{10, 10}, "a1 b10"},
		{"mh", []int{10, 10}, "a10 b200"},
	} {
		if !slices.Contains(policy.Schedulers(), c.scheduler) {
			continue
		}
		s := checked(false, c.weights...)
		s.Scheduler, s.SlowStart = c.scheduler, time.Minute
		o := newOffice(t, s)
		o.allUp(s)
		o.see(3, s, 0, "refused")
		o.see(2, s, 0, "")
		o.wants(c.scheduler, c.want)
	}
}

func TestRosterStates(t *testing.T) {
	s := checked(false, 3, 5)
	s.SlowStart = time.Minute
	o := newOffice(t, s)
	o.allUp(s)
	o.now = time.Hour
	o.see(3, s, 0, "refused")
	o.see(2, s, 0, "")
	o.see(1, s, 1, "timeout")
	if _, err := o.SetWeight("", "b", 6, o.now); err != nil {
		t.Fatal(err)
	}
	six := 6
	want := []policy.ServiceState{{Service: "web", UpWeight: 9, Quorum: 1, Scale: 20, Servers: []policy.ServerState{
		{Server: "a", Address: address(1), Health: "up", Since: time.Hour, Cause: "refused", Successes: 2, Configured: 3, Effective: 3, Rising: true},
		{Server: "b", Address: address(2), Health: "up", Cause: "timeout", Failures: 1, Configured: 5, Ordered: &six, Effective: 120},
	}}}
	if got := o.States(o.now); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestRosterMark: persistence sends nobody to a server that is drained or down; those of one with weight 0 stay.
func TestRosterMark(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := checked(v6, 1, 1)
		s.Persistence.Timeout = time.Minute
		o := newOffice(t, s)
		o.allUp(s)
		var table *policy.Table
		pick := func() string {
			table = build(t, table, o.Compose(0)...)
			o.Mark(table)
			return names(table.Services()[0], from(s, "10.0.1.1", 80, 0))
		}
		got := pick()
		do := func(_ []policy.Target, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			got += pick()
		}
		do(o.SetWeight("", "a", 0, 0))
		do(o.SetWeight("", "a", 1, 0))
		do(o.Drain("", "a", 0))
		do(o.Undrain("", "a", 0))
		o.see(3, s, 1, "refused")
		do(nil, nil)
		o.see(2, s, 1, "")
		do(nil, nil)
		if got != "aaabbaa" {
			t.Errorf("picked %s, want aaabbaa", got)
		}
	})
}

// netipNext is another address for a server like s.
func netipNext(s policy.ServerSpec) netip.AddrPort {
	return netip.AddrPortFrom(s.Address.Addr(), s.Address.Port()+1)
}

// TestRosterUrgent: until Compose a service is waiting that had no server, and no other.
func TestRosterUrgent(t *testing.T) {
	twins(t, func(t *testing.T, v6 bool) {
		s := checked(v6, 3, 5)
		o := newOffice(t, s)
		wants := func(what string, want bool) {
			t.Helper()
			if o.Urgent() != want {
				t.Errorf("%s: urgent %t", what, o.Urgent())
			}
		}
		wants("unchecked", false)
		o.see(1, s, 0, "")
		wants("the first", true)
		o.Compose(o.now)
		wants("composed", false)
		o.see(1, s, 1, "")
		wants("the second", false)
		o.see(3, s, 0, "refused")
		o.see(3, s, 1, "refused")
		wants("none", false)
		o.see(3, s, 1, "")
		wants("one again", true)
	})
}
