package top

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// asFragile makes the test binary be a view that breaks by a key: only the end of its process ends all of such a one.
const asFragile = "TUNLB_TEST_FRAGILE"

func TestMain(m *testing.M) {
	if os.Getenv(asFragile) != "" {
		os.Exit(beFragile())
	}
	goleak.VerifyTestMain(m)
}

// update writes the golden files instead of comparing with them.
func update() bool { return flag.Lookup("update").Value.String() == "true" }

var _ = flag.Bool("update", false, "write testdata/*.golden anew")

// golden compares a text with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if update() {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// recorded are the statuses that an engine has given, a second apart, see TestRecord.
func recorded(t testing.TB) (statuses []control.Status) {
	t.Helper()
	b, err := os.ReadFile("testdata/status.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &statuses); err != nil {
		t.Fatal(err)
	}
	return statuses
}

// clock is the time in tests: the recorded daemon has been up for a while.
func clock(n int) time.Time {
	return time.Date(2026, 1, 2, 15, 4, 5, 250e6, time.UTC).Add(time.Duration(n) * time.Second)
}

// told is a model that has been told of the recorded statuses, one a second.
func told(t testing.TB, width, height int) *Model {
	t.Helper()
	m := New(time.Second)
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	for i, s := range recorded(t) {
		m.Update(pollMsg{at: clock(i), status: s, events: happened(i)})
	}
	return m
}

// happened are the events until the n-th status.
func happened(n int) (events []tunlb.Event) {
	for i := range min(n, 4) {
		ev := []tunlb.Event{
			{Kind: "up", Service: "web", Server: "rs1", Cause: "1 success"},
			{Kind: "down", Service: "web", Server: "rs3", Cause: "3 failures in a row: connection refused"},
			{Kind: "drained", Service: "web", Server: "rs2"},
			{Kind: "conflict", Server: "rs2", Cause: "another station claims 203.0.113.22"},
		}[i]
		ev.Seq, ev.Time = uint64(i+1), clock(i)
		events = append(events, ev)
	}
	return events
}

// text is what the terminal shows.
func text(m *Model) string { return ansi.Strip(strings.Join(m.frame(), "\n")) }

// press sends keys: "d", "enter", or a text letter by letter with typing.
func press(m *Model, keys ...string) (cmd tea.Cmd) {
	named := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown,
		"pgdown": tea.KeyPgDown, "end": tea.KeyEnd, "home": tea.KeyHome, "backspace": tea.KeyBackspace, "space": tea.KeySpace}
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: named[k]}
		switch {
		case k == "ctrl+c" || k == "ctrl+u":
			msg = tea.KeyPressMsg{Code: rune(k[5]), Mod: tea.ModCtrl}
		case k == "shift+tab":
			msg = tea.KeyPressMsg{Code: tea.KeyTab, Mod: tea.ModShift}
		case named[k] == 0:
			msg = tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		}
		_, cmd = m.Update(msg)
	}
	return cmd
}

func typing(m *Model, text string) {
	for _, r := range text {
		press(m, string(r))
	}
}

// scripted is a daemon that answers from the recording.
type scripted struct {
	statuses []control.Status
	asked    int
	err      error
	conns    []control.Conn
	events   []tunlb.Event
	orders   []tunlb.ServerOrder
	refuse   error
	since    []uint64
	filters  []tunlb.ConnFilter
	traced   watch.Options
	lines    []control.TraceLine
}

func (s *scripted) Status(context.Context) (control.Status, error) {
	s.asked++
	if s.err != nil || len(s.statuses) == 0 {
		return control.Status{}, s.err
	}
	return s.statuses[min(s.asked, len(s.statuses))-1], nil
}

func (s *scripted) Events(_ context.Context, since uint64, _ bool, visit func(tunlb.Event) error) error {
	s.since = append(s.since, since)
	for _, ev := range s.events {
		if ev.Seq > since {
			if err := visit(ev); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scripted) Conns(_ context.Context, f tunlb.ConnFilter, _ int, visit func(control.Conn) error) error {
	s.filters = append(s.filters, f)
	for _, c := range s.conns {
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *scripted) Order(_ context.Context, o tunlb.ServerOrder) ([]tunlb.Event, error) {
	s.orders = append(s.orders, o)
	if s.refuse != nil {
		return nil, s.refuse
	}
	return []tunlb.Event{{Kind: o.Do + "ed", Service: o.Service, Server: o.Server}}, nil
}

// Trace says what it has to say and waits for the end.
func (s *scripted) Trace(ctx context.Context, o watch.Options, visit func(control.TraceLine) error) error {
	s.traced = o
	for _, line := range s.lines {
		if err := visit(line); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// asking is a model that asks the daemon.
func asking(t *testing.T, d Daemon) *Model {
	m := New(time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	n := 0
	m.ask = &asker{ctx: ctx, daemon: d, interval: time.Millisecond, clock: func() time.Time { n++; return clock(n) }}
	return m
}
