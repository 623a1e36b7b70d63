package trace_test

import (
	"bytes"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/trace"
	"github.com/tunlb/tunlb/tunlb/watch"
)

func printed(t *testing.T, p trace.Printer, r trace.Row) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Print(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// edited is a packet to a server, with long IPv6 addresses.
func edited(t *testing.T) *trace.Journey {
	in := pt.TCP(t, at(client6, 40000), at(vip6, 80), pt.PayloadLen(10))
	out := slices.Clone(in)
	var v packet.View
	v.Parse(out)
	to := v.Tuple
	to.Dst = rs6.As16()
	edit := packet.NewEdit(v.Tuple, to)
	edit.Apply(&v)
	r := &watch.Record{Seq: 1, Exit: "port", Flow: 7, Opened: true, Protocol: "tcp", Client: at(client6, 40000), VIP: at(vip6, 80), Server: at(rs6, 80), Service: "web", ServerName: "rs1", Mode: "nat", State: "SYN_RECV"}
	r.SetIn("in", false, in, 192)
	r.AddOut("out", false, out, 192)
	r.Why = &policy.Explanation{Service: "web", Scheduler: "rr", Server: "rs30", Why: strings.Repeat("because ", 20), Address: netip.AddrPortFrom(rs6, 30)}
	for i := range 100 {
		r.Why.Servers = append(r.Why.Servers, policy.Candidate{Server: "rs" + string(rune('0'+i/10)) + string(rune('0'+i%10)), Address: netip.AddrPortFrom(rs6, uint16(i))})
	}
	return trace.Of(r, 0)
}

// TestColours: they say nothing that the text does not, and mark what was changed.
func TestColours(t *testing.T) {
	j := edited(t)
	row := trace.Row{Request: j, Answer: j}
	for _, p := range []trace.Printer{{}, {Width: 80}, {Wide: true, Width: 140}} {
		bare := printed(t, p, row)
		p.Colour = true
		colour := printed(t, p, row)
		if strings.Contains(bare, "\x1b") {
			t.Errorf("escapes: %q", bare)
		}
		if got := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(colour, ""); got != bare {
			t.Errorf("%+v: without its colours\n%s\nis not\n%s", p, got, bare)
		}
		if want := "\x1b[1;33m[2001:db8:c0::10]:80\x1b[0m"; !strings.Contains(colour, want) {
			t.Errorf("%+v: what was changed is not marked: %q", p, colour)
		}
	}
	drop := trace.Of(&watch.Record{Drop: "no-server"}, 0)
	if text := printed(t, trace.Printer{Colour: true}, trace.Row{Request: drop}); !strings.Contains(text, "\x1b[1;31mno-server\x1b[0m") {
		t.Errorf("a drop is not red: %q", text)
	}
}

// TestWidth: no line is wider than the terminal, and nothing is lost by breaking it.
func TestWidth(t *testing.T) {
	j := edited(t)
	words := func(s string) []string {
		list := strings.Fields(strings.ReplaceAll(s, "│", " "))
		slices.Sort(list)
		return list
	}
	want := words(printed(t, trace.Printer{}, trace.Row{Request: j}))
	for width := 60; width < 200; width++ {
		got := printed(t, trace.Printer{Width: width}, trace.Row{Request: j})
		if !slices.Equal(words(got), want) {
			t.Errorf("%d: words are lost:\n%s", width, got)
		}
		for _, p := range []trace.Printer{{Width: width}, {Width: max(width, trace.WideFrom), Wide: true}} {
			for _, l := range strings.Split(printed(t, p, trace.Row{Request: j, Answer: j}), "\n") {
				if n := utf8.RuneCountInString(l); n > p.Width || strings.HasSuffix(l, " ") && !strings.HasSuffix(l, "│ ") {
					t.Errorf("%+v: %d columns: %q", p, n, l)
				}
			}
		}
	}
}

// TestManyServers: the one that was picked is listed, and not all others.
func TestManyServers(t *testing.T) {
	text := printed(t, trace.Printer{}, trace.Row{Request: edited(t)})
	if n := strings.Count(text, "weight 0"); n != 8 || !strings.Contains(text, "* rs30") || !strings.Contains(text, "and 92 more") {
		t.Errorf("%d servers:\n%s", n, text)
	}
}
