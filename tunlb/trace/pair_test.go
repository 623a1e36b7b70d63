package trace_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/tunlb/trace"
	"github.com/tunlb/tunlb/tunlb/watch"
)

const hold = 5 * time.Millisecond

// told is a packet of a connection, or with flow 0 of none. at counts milliseconds.
func told(seq uint64, flow uint32, reply bool, at time.Duration) *trace.Journey {
	return &trace.Journey{Record: watch.Record{
		Seq: seq, Flow: flow, Reply: reply, At: at * time.Millisecond, Protocol: "tcp", Exit: "port",
		Client: netip.AddrPortFrom(client4, uint16(flow)), VIP: netip.AddrPortFrom(vip4, 80), In: &watch.Frame{Port: "p"},
	}}
}

// rows writes rows as "1/2" for a pair, "1/" and "/2" for those alone.
func rows(list []trace.Row) string {
	var all []string
	for _, r := range list {
		text := "/"
		if r.Request != nil {
			text = fmt.Sprint(r.Request.Seq) + text
		}
		if r.Answer != nil {
			text += fmt.Sprint(r.Answer.Seq)
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func TestPairs(t *testing.T) {
	dropped := told(1, 1, false, 0)
	dropped.Drop = "no-server"
	own := func(seq uint64, in bool) *trace.Journey { // of no connection: a question and tunlb's own answer
		j := told(seq, 0, false, 0)
		if !in {
			j.In, j.Client, j.VIP = nil, j.VIP, j.Client
		}
		return j
	}
	waited := func(seq uint64, flow uint32) *trace.Journey { // what was held goes on
		j := told(seq, flow, false, 0)
		j.In, j.Waited = nil, true
		return j
	}
	for name, test := range map[string]struct {
		packets   []*trace.Journey
		now, last string // rows at once, and those that had to be flushed
	}{
		"a pair":                  {[]*trace.Journey{told(1, 1, false, 0), told(2, 1, true, 1)}, "1/2", ""},
		"told of too early":       {[]*trace.Journey{told(2, 1, true, 0), told(1, 1, false, 0)}, "1/2", ""},
		"an answer comes first":   {[]*trace.Journey{told(1, 1, true, 0), told(2, 1, false, 0)}, "", "/1 2/"},
		"too late":                {[]*trace.Journey{told(1, 1, false, 0), told(2, 1, true, 6)}, "1/", "/2"},
		"another connection's":    {[]*trace.Journey{told(1, 1, false, 0), told(2, 2, true, 1)}, "", "1/ /2"},
		"its own direction's":     {[]*trace.Journey{told(1, 1, false, 0), told(2, 1, false, 1), told(3, 1, true, 2)}, "1/ 2/3", ""},
		"two answers":             {[]*trace.Journey{told(1, 1, false, 0), told(2, 1, true, 1), told(3, 1, true, 1)}, "1/2", "/3"},
		"in their order":          {[]*trace.Journey{told(1, 1, false, 0), told(2, 2, false, 1), told(3, 2, true, 2), told(4, 1, true, 3)}, "1/4 2/3", ""},
		"dropped":                 {[]*trace.Journey{dropped, told(2, 1, true, 1)}, "1/", "/2"},
		"tunlb's own":             {[]*trace.Journey{own(1, true), own(2, false)}, "1/2", ""},
		"waited":                  {[]*trace.Journey{told(1, 1, false, 0), waited(2, 1), told(3, 1, true, 1)}, "1/ 2/3", ""},
		"waited, of nobody":       {[]*trace.Journey{told(1, 0, false, 0), waited(2, 0)}, "1/", "2/"},
		"tunlb's own to somebody": {[]*trace.Journey{told(1, 1, false, 0), own(2, false)}, "", "1/ /2"},
	} {
		p := trace.Pairer{Hold: hold}
		var now []trace.Row
		for _, j := range test.packets {
			now = append(now, p.Add(j)...)
		}
		if waits := p.Waiting(); waits != (test.last != "") {
			t.Errorf("%s: waiting %v", name, waits)
		}
		if last := p.Flush(); rows(now) != test.now || rows(last) != test.last {
			t.Errorf("%s: %q and then %q, want %q and %q", name, rows(now), rows(last), test.now, test.last)
		}
	}
	p := trace.Pairer{}
	if got := rows(append(p.Add(told(1, 1, false, 0)), p.Add(told(2, 1, true, 0))...)); got != "1/ /2" {
		t.Errorf("without patience: %q", got)
	}
}

// TestPairsKeepOrder: nothing is lost, doubled, or overtakes in its connection's direction, whatever comes.
func TestPairsKeepOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := trace.Pairer{Hold: hold}
		var out []trace.Row
		n := rapid.IntRange(0, 40).Draw(t, "packets")
		at := time.Duration(0)
		for seq := 1; seq <= n; seq++ {
			at += time.Duration(rapid.IntRange(0, 3).Draw(t, "pause"))
			flow, reply := rapid.Uint32Range(0, 3).Draw(t, "flow"), rapid.Bool().Draw(t, "reply")
			out = append(out, p.Add(told(uint64(seq), flow, reply && flow > 0, at))...)
		}
		out = append(out, p.Flush()...)
		last, count := map[string]uint64{}, 0
		for _, r := range out {
			for _, j := range []*trace.Journey{r.Request, r.Answer} {
				if j == nil {
					continue
				}
				count++
				way := fmt.Sprint(j.Flow, j.Reply)
				if j.Seq <= last[way] {
					t.Fatalf("%d comes after %d: %s", j.Seq, last[way], rows(out))
				}
				last[way] = j.Seq
			}
			if r.Request != nil && r.Answer != nil && (r.Request.Flow != r.Answer.Flow || r.Answer.At-r.Request.At > hold || r.Answer.Seq < r.Request.Seq) {
				t.Fatalf("no pair: %s", rows(out))
			}
		}
		if count != n {
			t.Fatalf("%d of %d packets: %s", count, n, rows(out))
		}
	})
}
