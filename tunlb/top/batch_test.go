package top

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// TestBatch: n frames with rates, complete however many rows there are, without escapes; events once.
func TestBatch(t *testing.T) {
	d := &scripted{statuses: recorded(t)[3:], events: happened(4)}
	var out bytes.Buffer
	if err := Batch(t.Context(), d, MinInterval, 2, 120, &out); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	for want, n := range map[string]int{"tunlb v0.5.0": 2, "conn/s ": 2, "conn/s -": 0, "\nDROPPED": 2, "192.168.0.99": 2 * 2, "\x1b": 0, "waiting": 0, " \n": 0, "\n\n": 2, "\nTIME": 0} {
		if strings.Count(got, want) != n {
			t.Errorf("%q %d times, want %d, in\n%s", want, strings.Count(got, want), n, got)
		}
	}
	if d.asked != 3 {
		t.Errorf("%d looks for two frames, want 3", d.asked)
	}

	d = &scripted{statuses: []control.Status{many(200)}}
	out.Reset()
	if err := Batch(t.Context(), d, MinInterval, 1, 80, &out); err != nil || !strings.Contains(out.String(), " rs199 ") {
		t.Errorf("%v, the last of 200 servers is missing in\n%s", err, &out)
	}
	m := told(t, 100, 5)
	m.focus = panes
	golden(t, "batch-100", m.plain(2))

	gone := errors.New("no tunlb is running here")
	if err := Batch(t.Context(), &scripted{err: gone}, MinInterval, 1, 80, &out); !errors.Is(err, gone) {
		t.Errorf("without a daemon: %v", err)
	}
	killed := fmt.Errorf("%w: connect: a long story", control.ErrNoDaemon)
	err := Batch(t.Context(), &dying{scripted{statuses: recorded(t)}, 2, killed}, MinInterval, 5, 80, &out)
	if !errors.Is(err, control.ErrNoDaemon) || strings.Contains(err.Error(), "story") || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("a daemon that ends: %v", err)
	}
	full := errors.New("disk full")
	if err := Batch(t.Context(), &scripted{statuses: recorded(t)}, MinInterval, 1, 80, failing{full}); !errors.Is(err, full) {
		t.Errorf("an output that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Batch(ctx, &scripted{statuses: recorded(t)}, MinInterval, 0, 80, ending{cancel}); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

// dying answers some questions, and then no more.
type dying struct {
	scripted
	looks int
	end   error
}

func (d *dying) Status(ctx context.Context) (control.Status, error) {
	if d.looks--; d.looks < 0 {
		return control.Status{}, d.end
	}
	return d.scripted.Status(ctx)
}

// TestBatchEvents: those that were there before are not news.
func TestBatchEvents(t *testing.T) {
	d := &late{scripted: scripted{statuses: recorded(t)}}
	var out bytes.Buffer
	if err := Batch(t.Context(), d, MinInterval, 2, 120, &out); err != nil || strings.Count(out.String(), "somebody drained it") != 1 {
		t.Errorf("%v:\n%s", err, &out)
	}
}

// late has an event from the second look on.
type late struct{ scripted }

func (d *late) Events(_ context.Context, since uint64, _ bool, visit func(tunlb.Event) error) error {
	if d.asked < 2 || since > 0 {
		return nil
	}
	return visit(tunlb.Event{Seq: 1, Kind: "drained", Server: "rs1", Cause: "somebody drained it"})
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

type ending struct{ end func() }

func (e ending) Write(b []byte) (int, error) {
	e.end()
	return len(b), nil
}

// TestNoTerminal: a file is none, and nothing is written to it.
func TestNoTerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Run(t.Context(), &scripted{}, time.Second, f, f); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("got %v", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() > 0 {
		t.Errorf("%v, %v", info, err)
	}
}
