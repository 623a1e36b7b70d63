package neigh

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

var scopeNames = map[Scope]string{Back: "back", Unicast: "unicast", Everywhere: "everywhere", ClientSide: "clientside"}

// conversation is one case of testdata/conversations.txt.
type conversation struct {
	name, side, start, verdict string
	in, becomes                []byte
	rest                       []string // out, suppressed, conflict
}

func conversations(t testing.TB) (all []*conversation) {
	t.Helper()
	text, err := os.ReadFile("testdata/conversations.txt")
	if err != nil {
		t.Fatal(err)
	}
	var c *conversation
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "", "#":
		case "case":
			c = &conversation{name: value}
			all = append(all, c)
		case "side":
			c.side = value
		case "start":
			c.start = value
		case "in":
			c.in = unhex(t, value)
		case "verdict":
			c.verdict = value
		case "becomes":
			c.becomes = unhex(t, value)
		case "out", "suppressed", "conflict":
			c.rest = append(c.rest, line)
		default:
			t.Fatalf("testdata: %q", line)
		}
	}
	return all
}

// said is what a table has to say, in the form of the file.
func said(table *Table) (out []string) {
	for _, f := range drain(table) {
		if f.Scope == Back && f.Port != 3 {
			out = append(out, "back to the wrong port")
		}
		out = append(out, fmt.Sprintf("out %s %x", scopeNames[f.Scope], f.Bytes()[packet.VnetLen:]))
	}
	for form, n := range table.Suppressed() {
		if n > 0 {
			out = append(out, "suppressed "+form)
		}
	}
	for _, c := range table.Conflicts() {
		server := c.Server
		if server == "" {
			server = "-"
		}
		out = append(out, fmt.Sprintf("conflict %v %v %s %v", c.VIP, c.MAC, server, c.Form))
	}
	return out
}

// TestConversations plays testdata/conversations.txt, each case on a fresh table.
func TestConversations(t *testing.T) {
	for _, c := range conversations(t) {
		t.Run(c.name, func(t *testing.T) {
			if c.start != "" {
				shape, bare, _ := strings.Cut(c.start, " ")
				cfg := config(shape == "inline")
				if bare != "" {
					cfg.Own = nil
				}
				table := New(cfg, 0)
				table.Tick(0)
				table.Tick(askFirst)
				same(t, said(table), c.rest)
				return
			}
			table, now := quiet(t, config(c.side != "shared"))
			table.Events()
			side := map[string]Side{"shared": Shared, "clients": Clients, "servers": Servers}[c.side]
			frame := bytes.Clone(c.in)
			v := handle(t, table, frame, side, now)
			if got := verdictName(v); got != c.verdict {
				t.Errorf("verdict %s, want %s", got, c.verdict)
			}
			want := c.in
			if c.becomes != nil {
				want = c.becomes
			}
			if !bytes.Equal(frame, want) {
				t.Errorf("frame\n%swant\n%s", hex.Dump(frame), hex.Dump(want))
			}
			same(t, said(table), c.rest)
			checkTable(t, table)
			conflicts := len(table.Conflicts())
			if got := table.Events(); len(got) != conflicts {
				t.Errorf("%d events for %d conflicts", len(got), conflicts)
			}
		})
	}
}

func verdictName(v Verdict) string {
	switch {
	case v.Forward && v.Rewritten:
		return "rewritten"
	case v.Forward:
		return "forward"
	case v.Reason == packet.None:
		return "consumed"
	}
	return v.Reason.String()
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
