package policy

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// again is what the next process makes of what JSON has kept.
func again[T any](t *testing.T, v T) (out T) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(out, v) {
		t.Errorf("JSON makes %+v of %+v", out, v)
	}
	return out
}

func recallSpecs() []Spec {
	server := func(name, at string, weight int) ServerSpec {
		return ServerSpec{Name: name, Address: netip.MustParseAddrPort(at), Weight: weight}
	}
	web, _ := ParseListen("203.0.113.22:80-90/tcp")
	dns, _ := ParseListen("[2001:db8::22]:53/udp")
	return []Spec{
		{
			Name: "web", Listen: []Listen{web}, Scheduler: "wrr", Persistence: Persistence{Timeout: time.Minute, HostBits: 8},
			Health:  Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 2, Fall: 3},
			Servers: []ServerSpec{server("rs1", "192.168.0.10:80", 1), server("rs2", "192.168.0.11:80", 3), server("rs3", "192.168.0.12:80", 2)},
		},
		{Name: "dns", Listen: []Listen{dns}, Servers: []ServerSpec{server("rs1", "[2001:db8:c0::10]:53", 1), server("rs2", "[2001:db8:c0::11]:53", 1)}},
	}
}

// TestRecall: servers keep their IDs, also those that have gone or come; what was said of them holds.
func TestRecall(t *testing.T) {
	specs := recallSpecs()
	before, now := NewRoster(), 5*time.Second
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	build := func(r *Roster, prev *Table) *Table {
		t.Helper()
		table, err := Build(r.Compose(now), prev)
		must(err)
		r.Mark(table)
		return table
	}
	must(before.Configure(specs, now))
	old := build(before, nil)
	// The first of dns is deleted, and lives on for a connection; its ID is none of the first in a new table.
	lost := old.Services()[1].Servers[0]
	lost.Add(true)
	specs[1].Servers = specs[1].Servers[1:]
	specs[0], specs[1] = specs[1], specs[0]
	must(before.Configure(specs, now))
	old = build(before, old)
	before.Observe(Result{Service: "web", Server: specs[1].Servers[0].Address, OK: true}, now)
	for range 3 {
		before.Observe(Result{Service: "web", Server: specs[1].Servers[1].Address, Cause: "refused"}, now)
	}
	_, err := before.Drain("dns", "rs2", now)
	must(err)
	_, err = before.SetWeight("web", "rs1", 17, now)
	must(err)
	old = build(before, old)

	known, said := again(t, old.Known()), again(t, before.Said())
	after := NewRoster()
	must(after.Configure(again(t, specs), now))
	after.Recall(said)
	prev := Recall(known)
	if s := prev.Server(lost.ID); s == nil || !s.Deleted || s.Address != lost.Address {
		t.Errorf("the deleted server is %+v", s)
	}
	table := build(after, prev)
	for i, svc := range old.Services() {
		for k, want := range svc.Servers {
			got := table.Services()[i].Servers[k]
			if got.ID != want.ID || got.Deleted || got.ServerSpec != want.ServerSpec || got.Down() != want.Down() || got.drained != want.drained {
				t.Errorf("%s of %s is %+v, was %+v", want.Name, svc.Name, got, want)
			}
		}
	}
	for i, want := range before.States(now) {
		got := after.States(now)[i]
		for k := range want.Servers { // how often in a row is not worth knowing
			want.Servers[k].Successes, want.Servers[k].Failures, want.Servers[k].Since = 0, 0, 0
			got.Servers[k].Successes, got.Servers[k].Failures, got.Servers[k].Since = 0, 0, 0
			want.Servers[k].Rising, got.Servers[k].Rising = false, false
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("state %+v, was %+v", got, want)
		}
	}
	if events := after.Events(); len(events) > 0 {
		t.Errorf("nothing has happened, but %v", events)
	}
	// Its connection keeps the deleted one; without any it goes, and its ID is free.
	s := table.Server(lost.ID)
	s.Add(true)
	table.Settle()
	if table.Server(lost.ID) != s {
		t.Error("a server was forgotten that has a connection")
	}
	s.Remove(true)
	if table.Server(lost.ID) != nil {
		t.Error("a deleted server without connections is still there")
	}
}

// TestRecallTemplates: the client of a connection stays with its server.
func TestRecallTemplates(t *testing.T) {
	table, err := Build(recallSpecs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	svc := table.Services()[0]
	for i := range 50 {
		c := Client{Src: netip.AddrFrom4([4]byte{198, 51, byte(i), 7}).As16(), Dst: svc.Listen[0].Addr.As16(), DstPort: 80, Proto: TCP, Now: time.Second}
		server := svc.Servers[i%3]
		svc.Recall(c, server)
		svc.Recall(c, svc.Servers[(i+1)%3]) // an older connection of the same client
		c.Src[15]++
		if got := svc.Pick(c); got != server {
			t.Fatalf("client %d goes to %s, its connection to %s", i, got.Name, server.Name)
		}
	}
	dns := table.Services()[1]
	dns.Recall(Client{}, dns.Servers[0])
	if dns.Servers[0].Persistent() != 0 {
		t.Error("a template without persistence")
	}
}

// TestRecallNonsense: what is kept is not to be believed.
func TestRecallNonsense(t *testing.T) {
	good := Known{ID: 3, Listen: recallSpecs()[0].Listen, Server: recallSpecs()[0].Servers[0]}
	twice, none, nowhere, beyond := good, good, good, good
	none.ID, beyond.ID, nowhere.ID, nowhere.Listen = 0, maxID+1, 5, nil
	table := Recall([]Known{beyond, twice, good, none, nowhere})
	for id := range uint32(10) {
		if got := table.Server(id); (got != nil) != (id == 3) {
			t.Errorf("server %d is %+v", id, got)
		}
	}
	r := NewRoster()
	if err := r.Configure(recallSpecs(), 0); err != nil {
		t.Fatal(err)
	}
	r.Recall([]Said{{Service: -1}, {Service: 2}, {Service: 0, Server: netip.MustParseAddrPort("192.0.2.1:1"), Drained: true}, {Service: 1, Server: recallSpecs()[1].Servers[0].Address, Health: "down"}})
	if said := r.Said(); len(said) != 0 {
		t.Errorf("%+v was believed", said)
	}
}

// TestReuse: an ID is another server's only when that has been allowed.
func TestReuse(t *testing.T) {
	specs := recallSpecs()
	servers := specs[0].Servers
	table := Recall([]Known{{ID: 4, Service: "web", Listen: specs[0].Listen, Server: servers[0]}})
	reload := func(servers ...ServerSpec) (ids []uint32) {
		t.Helper()
		specs[0].Servers = servers
		next, err := Build(specs[:1], table)
		if err != nil {
			t.Fatal(err)
		}
		table = next
		for _, s := range table.Services()[0].Servers {
			ids = append(ids, s.ID)
		}
		return ids
	}
	wants := func(what string, got []uint32, released int, want ...uint32) {
		t.Helper()
		if !reflect.DeepEqual(got, want) || table.Released() != released {
			t.Errorf("%s: IDs %v and %d given back, want %v and %d", what, got, table.Released(), want, released)
		}
	}
	wants("what is known", reload(servers[0]), 3, 4) // 1 to 3 may be of records, who knows
	wants("others", reload(servers[1], servers[2]), 4, 5, 6)
	table.Reuse(3)
	if table.Released() != 1 {
		t.Errorf("%d are left of 4", table.Released())
	}
	wants("again", reload(servers[0]), 3, 3)
	wants("and again", reload(servers[1]), 4, 2)
	wants("none", reload(), 5)
	table.Reuse(5)
	wants("all", reload(servers...), 0, 2, 3, 6)
}
