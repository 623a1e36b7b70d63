package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// TestExplainWords: what each scheduler says, after a past that is written down.
func TestExplainWords(t *testing.T) {
	for _, test := range []struct {
		scheduler string
		flags     policy.Flags
		past      []int // active connections of each server, opened after one pick
		server    string
		why       string
		state     string
		scores    string // of rs1 to rs3, whose weights are 1 to 3
	}{
		{"rr", 0, []int{0, 0, 0}, "rs2", "rs2 is next in turn after rs1", "cursor at rs1", "turn 3|turn 1|turn 2"},
		{"wrr", 0, []int{0, 0, 0}, "rs2", "rs2 is the next after rs1 whose weight of 2 reaches the current 1", "cursor at rs1, current weight 1 of max 3, gcd 1", "weight 1 >= 1|weight 2 >= 1|weight 3 >= 1"},
		{"lc", 0, []int{2, 1, 3}, "rs2", "rs2 has the fewest connections: active*256+inactive=257", "", "active*256+inactive=513|active*256+inactive=257|active*256+inactive=769"},
		{"wlc", 0, []int{2, 3, 3}, "rs3", "rs3 has the fewest connections for its weight: active*256+inactive=769 / weight 3", "", "active*256+inactive=513 / weight 1|active*256+inactive=769 / weight 2|active*256+inactive=769 / weight 3"},
		{"sed", 0, []int{0, 1, 2}, "rs1", "rs1 has the least expected delay: (active+1)=1 / weight 1; it is the first of 3 such in the list", "", "(active+1)=1 / weight 1|(active+1)=2 / weight 2|(active+1)=3 / weight 3"},
		{"nq", 0, []int{1, 0, 1}, "rs2", "rs2 has the least expected delay: idle", "", "(active+1)=2 / weight 1|idle|(active+1)=2 / weight 3"},
		{"fo", 0, []int{0, 0, 9}, "rs3", "rs3 has the highest weight: weight 3", "", "weight 1|weight 2|weight 3"},
		{"ovf", 0, []int{0, 0, 4}, "rs2", "rs2 has the highest weight: weight 2, 0 active", "", "weight 1, 0 active|weight 2, 0 active|full: 4 active > weight 3"},
		{"sh", 0, []int{0, 0, 0}, "rs1", "the hash of 10.0.0.7 leads to rs1's bucket", "hash 0x727babf1, bucket 114 of 256 -> rs1", "43 of 256 buckets|86 of 256 buckets|127 of 256 buckets"},
		{"dh", 0, []int{0, 0, 0}, "rs2", "the hash of 10.0.0.10 leads to rs2's bucket", "hash 0x97d53ec6, bucket 151 of 256 -> rs2", "86 of 256 buckets|85 of 256 buckets|85 of 256 buckets"},
		{"mh", 0, []int{0, 0, 0}, "rs3", "the hash of 10.0.0.7 leads to rs3's slot", "hash 0xc3a4cd2a, slot 754 of 4093 -> rs3", "683 of 4093 slots|1364 of 4093 slots|2046 of 4093 slots"},
		{"mh", policy.HashPort, []int{0, 0, 0}, "rs1", "the hash of 10.0.0.7:4000 leads to rs1's slot", "", ""},
		{"lblc", 0, []int{0, 0, 0}, "rs1", "rs1 has had 10.0.0.10 before", "10.0.0.10 was last with rs1, 3s ago", ""},
		{"lblc", 0, []int{2, 0, 0}, "rs2", "rs1 has more active connections than its weight, and others have less than half of theirs, so wlc decides: rs2 has the fewest connections for its weight: active*256+inactive=0 / weight 2; it is the first of 2 such in the list", "10.0.0.10 was last with rs1, 3s ago", ""},
	} {
		t.Run(fmt.Sprint(test.scheduler, test.flags, test.past), func(t *testing.T) {
			spec := web(test.scheduler, 1, 2, 3)
			for i := range spec.Servers {
				spec.Servers[i].Name = fmt.Sprintf("rs%d", i+1)
			}
			spec.Flags = test.flags
			svc := build(t, nil, spec).Services()[0]
			c := from(spec, "10.0.0.7", 80, 0)
			c.SrcPort = 4000
			svc.Pick(c)
			for i, n := range test.past {
				for range n {
					svc.Servers[i].Add(true)
				}
				svc.Servers[i].Add(false)
				if n == 0 || test.scheduler == "sed" || test.scheduler == "nq" || test.scheduler == "ovf" {
					svc.Servers[i].Remove(false)
				}
			}
			c.Now = 3 * time.Second
			x := svc.Explain(c)
			var scores []string
			for _, s := range x.Servers {
				scores = append(scores, s.Score)
			}
			if x.Server != test.server || x.Why != test.why || test.state != "" && x.State != test.state || test.scores != "" && strings.Join(scores, "|") != test.scores {
				t.Errorf("%s\nwhy   %s\nstate %s\n%s", x.Server, x.Why, x.State, strings.Join(scores, "|"))
			}
		})
	}
}

// TestExplainNames: what may go wrong with a supposition is said with the names that there are.
func TestExplainNames(t *testing.T) {
	spec := web("rr")
	for i := range 30 {
		spec.Servers = append(spec.Servers, policy.ServerSpec{Name: fmt.Sprintf("rs%d", i), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}), 80), Weight: 1})
	}
	roster := policy.NewRoster()
	if err := roster.Configure([]policy.Spec{spec}, 0); err != nil {
		t.Fatal(err)
	}
	table := build(t, nil, roster.Compose(0)...)
	for _, test := range []struct {
		without string
		weight  map[string]int
		want    error
		text    string
	}{
		{"RS27x", nil, policy.ErrNoSuchServer, "it has rs27 ("},
		{"", map[string]int{"rs99": 1}, policy.ErrNoSuchServer, "it has rs9 ("},
		{"", map[string]int{"rs1": -1}, policy.ErrWeight, "-1"},
		{"rs1", map[string]int{"rs1": 2}, policy.ErrNoSuchServer, "left out"},
	} {
		var without []string
		if test.without != "" {
			without = []string{test.without}
		}
		p, err := roster.Snapshot(table, table.Services()[0], from(spec, "10.0.0.7", 80, 0))
		if err != nil {
			t.Fatal(err)
		}
		err = p.Suppose(without, test.weight)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q %v: %v, want %v with %q", test.without, test.weight, err, test.want, test.text)
		}
	}
}

func BenchmarkExplain(b *testing.B) {
	for _, name := range []string{"rr", "wlc", "sh", "mh", "p2c", "lblc"} {
		for _, n := range []int{10, 100, 1000} {
			svc := build(b, nil, many(name, n)).Services()[0]
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if svc.Explain(client(i)).Server == "" {
						b.Fatal("picked none")
					}
				}
			})
			b.Run(fmt.Sprintf("%s/%d/reason", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if svc.Reason(client(i)).Server == "" {
						b.Fatal("picked none")
					}
				}
			})
		}
	}
}
