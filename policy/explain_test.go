package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// twins are two directors with the same past. One of them is asked to explain all the time.
type twins [2]*director

// director is a service with its roster, and the connections that it has.
type director struct {
	roster *Roster
	spec   Spec
	table  *Table
	flows  []openFlow
	now    time.Duration
}

type openFlow struct {
	client Client
	server *Server
	active bool
}

func (d *director) service() *Service { return d.table.Services()[0] }

func (d *director) build(t *rapid.T) {
	table, err := Build(d.roster.Compose(d.now), d.table)
	if err != nil {
		t.Fatal(err)
	}
	d.roster.Mark(table)
	d.table = table
}

func (d *director) configure(t *rapid.T) {
	if err := d.roster.Configure([]Spec{d.spec}, d.now); err != nil {
		t.Fatal(err)
	}
	d.build(t)
}

// connect picks as the engine does, and keeps the flow if it is to be kept.
func (d *director) connect(c Client, active bool) string {
	server := d.service().Pick(c)
	if server == nil {
		return ""
	}
	server.Add(active)
	server.Opened(c)
	d.flows = append(d.flows, openFlow{c, server, active})
	return server.Name
}

func (d *director) end(i int) {
	f := d.flows[i]
	f.client.Now = d.now
	f.server.Closed(f.client)
	f.server.Remove(f.active)
	d.flows = slices.Delete(d.flows, i, i+1)
}

// state is all that the next picks depend on, in words.
func (d *director) state() string {
	var b strings.Builder
	svc := d.service()
	switch k := svc.scheduler.(type) {
	case *roundRobin:
		fmt.Fprintln(&b, k.last, k.up)
	case *weightedRoundRobin:
		fmt.Fprintln(&b, k.last, k.threshold, k.step, k.top, k.up)
	case *leastLoad:
		fmt.Fprintln(&b, k.tree)
	case *destinationHash:
		fmt.Fprintln(&b, k.buckets)
	case *sourceHash:
		fmt.Fprintln(&b, k.buckets, k.open, k.up)
	case *maglev:
		sum := int32(0)
		for _, at := range k.ring {
			sum = 31*sum + at
		}
		fmt.Fprintln(&b, sum, k.up)
	case *twoChoices:
		fmt.Fprintln(&b, k.random, k.up)
	case *twoWeighted:
		fmt.Fprintln(&b, k.random, k.sums)
	case *locality:
		fmt.Fprintln(&b, k.wlc.tree, k.spare, k.swept)
		for _, addr := range slices.SortedFunc(maps.Keys(k.cache), func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) }) {
			fmt.Fprintln(&b, addr, k.cache[addr].used, k.cache[addr].modified, texts(k.cache[addr].servers))
		}
	}
	for _, s := range d.table.registry.servers {
		if s != nil {
			fmt.Fprintln(&b, s.text(), s.ID, s.holds, s.at, s.lastWeight, s.persistent, s.epoch, s.overloaded, s.down, s.drained)
		}
	}
	var kept []string
	d.table.Templates(d.now, 0, 1<<20, func(e Template) { kept = append(kept, fmt.Sprintln(e.Client, e.VIP, e.Server.Name, e.Left, e.Flows)) })
	slices.Sort(kept)
	states, _ := json.Marshal(d.roster.States(d.now))
	fmt.Fprintln(&b, kept, d.table.TemplateCount(), d.table.registry.templates.epoch, string(states), d.roster.Dirty())
	return b.String()
}

// newTwins draws a service.
func newTwins(t *rapid.T, scheduler string) (twins, *rig) {
	r := &rig{six: rapid.Bool().Draw(t, "IPv6"), light: rapid.Bool().Draw(t, "light")}
	vip := netip.MustParseAddrPort("203.0.113.22:80")
	if r.six {
		vip = netip.MustParseAddrPort("[2001:db8::22]:80")
	}
	r.spec = Spec{Name: "web", Listen: On(vip, TCP), Scheduler: scheduler, Flags: Flags(rapid.IntRange(0, 3).Draw(t, "flags"))}
	for range rapid.IntRange(0, 7).Draw(t, "servers") {
		r.add(t)
	}
	r.spec.Listen[0].Last += uint16(rapid.IntRange(0, 1).Draw(t, "ports"))
	if rapid.Bool().Draw(t, "persistence") {
		r.spec.Persistence = Persistence{Timeout: time.Minute, HostBits: rapid.SampledFrom([]int{0, 2}).Draw(t, "mask")}
	}
	if rapid.Bool().Draw(t, "health") {
		r.spec.Health = Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1, Remove: rapid.Bool().Draw(t, "remove")}
		r.spec.SlowStart = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "slow start")
	}
	if rapid.Bool().Draw(t, "sorry") {
		r.spec.Quorum = rapid.IntRange(1, 4).Draw(t, "quorum")
		r.spec.Sorry = &ServerSpec{Name: "sorry", Address: netip.AddrPortFrom(r.address(1<<19), 9000)}
	}
	var both twins
	for i := range both {
		both[i] = &director{roster: NewRoster(), spec: r.spec}
		both[i].configure(t)
	}
	return both, r
}

// draw gives a client out of few.
func (d *director) draw(t *rapid.T, r *rig) Client {
	return Client{
		Src: r.address(1<<20 + rapid.IntRange(0, 12).Draw(t, "src")).As16(), SrcPort: uint16(rapid.IntRange(1, 9).Draw(t, "port")),
		Dst: r.address(rapid.IntRange(1, 3).Draw(t, "dst")).As16(), DstPort: r.spec.Listen[0].First, Proto: TCP, Now: d.now,
	}
}

// TestExplainIsPick: over all schedulers and random pasts Explain names the server that the next Pick returns, asking
// changes nothing, and what would be without a server or with another weight is what then is.
func TestExplainIsPick(t *testing.T) {
	for _, name := range Schedulers() {
		t.Run(name, func(t *testing.T) { rapid.Check(t, func(t *rapid.T) { testExplain(t, name) }) })
	}
}

func testExplain(t *rapid.T, scheduler string) {
	both, r := newTwins(t, scheduler)
	asked, plain := both[0], both[1]
	member := func(t *rapid.T) int {
		return rapid.IntRange(min(0, len(r.spec.Servers)-1), len(r.spec.Servers)-1).Draw(t, "server")
	}
	// each does the same to both; with at -1 there is nobody to do it to.
	each := func(at int, do func(d *director, address netip.AddrPort)) {
		for _, d := range both {
			if at >= 0 {
				do(d, d.spec.Servers[at].Address)
			}
			d.build(t)
		}
	}
	reconfigure := func() {
		for _, d := range both {
			d.spec = r.spec
			d.configure(t)
		}
	}
	connect := func(t *rapid.T) {
		before := asked.state()
		for i := range rapid.IntRange(1, 8).Draw(t, "connections") {
			c := asked.draw(t, r)
			var x Explanation
			for range rapid.IntRange(1, 3).Draw(t, "questions") {
				x = asked.roster.Explain(asked.table, asked.service(), c)
			}
			if i == 0 { // it takes too long to look every time
				if after := asked.state(); after != before {
					t.Fatalf("asking has changed something:\n%s\nto:\n%s", before, after)
				}
			}
			checkExplanation(t, asked, &x)
			active := rapid.Bool().Draw(t, "active")
			got, want := asked.connect(c, active), plain.connect(c, active)
			if x.Server != got || got != want {
				t.Fatalf("explained %q, picked %q; without asking %q\n%+v", x.Server, got, want, x)
			}
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"connect":       connect,
		"connect again": connect,
		"end": func(t *rapid.T) {
			for range min(len(asked.flows), rapid.IntRange(1, 8).Draw(t, "flows")) {
				i := rapid.IntRange(0, len(asked.flows)-1).Draw(t, "flow")
				asked.end(i)
				plain.end(i)
			}
		},
		"time": func(t *rapid.T) {
			by := rapid.SampledFrom([]time.Duration{time.Second, 30 * time.Second, 2 * time.Minute, 24 * time.Hour}).Draw(t, "time")
			for _, d := range both {
				d.now += by
				d.table.Expire(d.now, 1<<20)
				d.build(t)
			}
		},
		"health": func(t *rapid.T) {
			ok, at := rapid.Bool().Draw(t, "ok"), member(t)
			each(at, func(d *director, a netip.AddrPort) {
				d.roster.Observe(Result{Service: "web", Server: a, OK: ok, Cause: "refused"}, d.now)
			})
		},
		"drain": func(t *rapid.T) {
			drain, at := rapid.Bool().Draw(t, "drain"), member(t)
			each(at, func(d *director, a netip.AddrPort) {
				order := d.roster.Undrain
				if drain {
					order = d.roster.Drain
				}
				if _, err := order("web", a.String(), d.now); err != nil {
					t.Fatal(err)
				}
			})
		},
		"weight": func(t *rapid.T) {
			weight, at := r.weight(t), member(t)
			each(at, func(d *director, a netip.AddrPort) {
				if _, err := d.roster.SetWeight("web", a.String(), weight, d.now); err != nil {
					t.Fatal(err)
				}
			})
		},
		"reachability": func(t *rapid.T) {
			is, at := rapid.Bool().Draw(t, "unreachable"), member(t)
			each(at, func(d *director, a netip.AddrPort) {
				for _, s := range d.service().Servers {
					if s.Address == a {
						s.SetUnreachable(is)
					}
				}
			})
		},
		"thresholds": func(t *rapid.T) {
			if at := member(t); at >= 0 {
				r.spec.Servers = slices.Clone(r.spec.Servers)
				r.spec.Servers[at].Upper = rapid.IntRange(0, 4).Draw(t, "upper")
				r.spec.Servers[at].Lower = rapid.IntRange(0, r.spec.Servers[at].Upper).Draw(t, "lower")
				reconfigure()
			}
		},
		"add": func(t *rapid.T) {
			r.spec.Servers = slices.Clone(r.spec.Servers)
			r.add(t)
			reconfigure()
		},
		"remove": func(t *rapid.T) {
			if at := member(t); at >= 0 {
				r.spec.Servers = slices.Delete(slices.Clone(r.spec.Servers), at, at+1)
				reconfigure()
			}
		},
		"suppose": func(t *rapid.T) { suppose(t, both, r) },
	})
}

// suppose asks one what would be, and makes it so with the other. In the end both are so.
func suppose(t *rapid.T, both twins, r *rig) {
	asked, real := both[0], both[1]
	c, before := asked.draw(t, r), asked.state()
	var without []string
	weights := map[string]int{}
	r.spec.Servers = slices.Clone(r.spec.Servers)
	for at := len(r.spec.Servers) - 1; at >= 0; at-- {
		switch name := r.spec.Servers[at].Name; rapid.IntRange(0, 4).Draw(t, "suppose") {
		case 0:
			without = append(without, name)
			r.spec.Servers = slices.Delete(r.spec.Servers, at, at+1)
		case 1:
			weights[name] = r.weight(t)
		}
	}
	p, err := asked.roster.Snapshot(asked.table, asked.service(), c)
	if err != nil {
		t.Fatal(err)
	}
	if is, copied := asked.roster.Explain(asked.table, asked.service(), c), p.Explain(); !reflect.DeepEqual(is, copied) {
		t.Fatalf("the copy says %+v\nwant %+v", copied, is)
	}
	if err := p.Suppose(without, weights); err != nil {
		t.Fatal(err)
	}
	x := p.Explain()
	if after := asked.state(); after != before {
		t.Fatalf("supposing has changed something:\n%s\nto:\n%s", before, after)
	}
	for _, d := range []*director{real, asked} {
		d.spec = r.spec
		if err := d.roster.Configure([]Spec{d.spec}, d.now); err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(weights)) {
			if _, err := d.roster.SetWeight("", name, weights[name], d.now); err != nil {
				t.Fatal(err)
			}
		}
		d.build(t)
		if got := d.connect(c, true); got != x.Server {
			t.Fatalf("without %v and with %v: explained %q, picked %q\n%+v", without, weights, x.Server, got, x)
		}
	}
}

// checkExplanation wants an explanation to agree with itself.
func checkExplanation(t *rapid.T, d *director, x *Explanation) {
	if x.Why == "" || x.Service != "web" || x.Scheduler != d.service().Scheduler {
		t.Fatalf("%+v", x)
	}
	picked := 0
	for _, c := range x.Servers {
		i := slices.IndexFunc(d.service().Servers, func(s *Server) bool { return s.Address == c.Address })
		takes := i >= 0 && d.service().Servers[i].available()
		if takes != (c.Excluded == "") {
			t.Fatalf("%s takes new connections: %v, explained: %q", c.Server, takes, c.Excluded)
		}
		if c.Server == x.Server {
			picked++
			if !takes && !x.Template {
				t.Fatalf("%s is picked and excluded: %+v", c.Server, x)
			}
		}
	}
	if len(x.Servers) < len(d.spec.Servers) || picked != cmp.Compare(len(x.Server), 0) {
		t.Fatalf("%d servers of %d, %d times the picked one: %+v", len(x.Servers), len(d.spec.Servers), picked, x)
	}
}

// TestSnapshotApart: a snapshot may be asked while its original goes on; the race detector looks on.
func TestSnapshotApart(t *testing.T) {
	for _, name := range Schedulers() {
		t.Run(name, func(t *testing.T) {
			spec := Spec{Name: "web", Listen: On(netip.MustParseAddrPort("203.0.113.22:80"), TCP), Scheduler: name, Flags: Fallback,
				Persistence: Persistence{Timeout: time.Minute}}
			for i := range 9 {
				spec.Servers = append(spec.Servers, ServerSpec{Name: fmt.Sprint("rs", i), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Weight: 1 + i, Upper: 9})
			}
			roster := NewRoster()
			if err := roster.Configure([]Spec{spec}, 0); err != nil {
				t.Fatal(err)
			}
			table, err := Build(roster.Compose(0), nil)
			if err != nil {
				t.Fatal(err)
			}
			svc := table.Services()[0]
			client := func(i int) Client {
				return Client{Src: netip.AddrFrom4([4]byte{172, 16, 0, byte(i)}).As16(), Dst: netip.MustParseAddr("203.0.113.22").As16(), DstPort: 80, Proto: TCP}
			}
			pick := func(i int) {
				if s := svc.Pick(client(i)); s != nil {
					s.Add(i%2 == 0)
					s.Opened(client(i))
				}
			}
			for i := range 20 {
				pick(i)
			}
			p, err := roster.Snapshot(table, svc, client(3))
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan Explanation)
			go func() {
				x := p.Explain()
				if err := p.Suppose([]string{"rs1"}, map[string]int{"rs2": 7}); err != nil {
					t.Error(err)
				}
				p.Explain()
				asked <- x
			}()
			for i := range 60 {
				pick(i)
				svc.Servers[i%9].SetUnreachable(i%2 == 0)
				if _, err := roster.SetWeight("", fmt.Sprint("rs", i%9), i, 0); err != nil {
					t.Fatal(err)
				}
			}
			if _, err = Build(roster.Compose(0), table); err != nil {
				t.Fatal(err)
			}
			if x := <-asked; x.Server == "" || x.Servers[2].Weight != 3 {
				t.Errorf("%+v", x)
			}
		})
	}
}
