package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is where a log is written to. It blocks while held, and fails while full.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	full  bool
	room  int // bytes that a full one takes of a line
	calls int
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.calls++; o.full {
		n := min(o.room, len(b))
		o.text.Write(b[:n])
		return n, errors.New("no space left on device")
	}
	return o.text.Write(b)
}

func (o *output) fill(full bool, room int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.full, o.room = full, room
}

// lines are those that are there, decoded.
func (o *output) lines(t *testing.T) (all []map[string]any) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for line := range strings.Lines(o.text.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, fields)
	}
	return all
}

// TestLimit: ten of a kind in a second, and how many there were beyond that; others are not concerned.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		l := New(out, Options{})
		for n := range 1000 {
			l.Warn().Int("n", n).Msg("flood")
			if n%100 == 0 {
				l.Info().Int("n", n).Msg("rare")
			}
			Always(l.Info()).Msg("change")
		}
		time.Sleep(2 * time.Second) // of the bubble
		l.Warn().Msg("flood")
		for n := range 25 {
			Reason(l.Warn(), "named").Msgf("%d", n)
		}
		if !l.Close(time.Second) {
			t.Error("not flushed")
		}
		count, suppressed := map[string]int{}, map[string]float64{}
		for _, line := range out.lines(t) {
			message := line["message"].(string)
			if named, ok := line["line"].(string); ok {
				suppressed[named] += line["suppressed"].(float64)
			} else if line["suppressed"] != nil {
				suppressed[message] += line["suppressed"].(float64)
			}
			count[message]++
		}
		if count["flood"] != 11 || count["rare"] != 10 || count["change"] != 1000 || count["0"] != 1 || count["9"] != 1 || count["10"] != 0 {
			t.Errorf("lines: %v", count)
		}
		if suppressed["flood"] != 990 || suppressed["named"] != 15 || suppressed["rare"] != 0 {
			t.Errorf("suppressed: %v", suppressed)
		}
		if n := l.Counts(); n != (Counts{Suppressed: 990 + 15}) {
			t.Errorf("%+v", n)
		}
	})
}

// TestLimitNext: where the flood goes on, its next line says what is missing.
func TestLimitNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		l := New(out, Options{Rate: 2})
		told := 0.0
		for range 1000 {
			l.Warn().Msg("flood")
			time.Sleep(10 * time.Millisecond)
		}
		l.Close(time.Second)
		lines := out.lines(t)
		for _, line := range lines {
			if n, ok := line["suppressed"].(float64); ok {
				told += n
			}
		}
		if len(lines) < 20 || len(lines) > 31 || told != 1000-20 {
			t.Errorf("%d lines, which tell of %v", len(lines), told)
		}
	})
}

// TestReasonsBounded: who makes kinds of lines up fills neither memory nor the log.
func TestReasonsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		l := New(out, Options{})
		for n := range 100 * maxReasons {
			l.Warn().Msg(fmt.Sprint("made up ", n))
		}
		if n := len(l.limit.reasons); n > maxReasons {
			t.Errorf("%d reasons", n)
		}
		time.Sleep(2 * time.Second)
		l.Warn().Msg("another one")
		if n := len(l.limit.reasons); n > maxReasons/2 {
			t.Errorf("%d reasons when their time is over", n)
		}
		l.Close(time.Second)
		lines := out.lines(t)
		if n := len(lines); n > maxReasons+10+2 || lines[n-1]["message"] != "another one" {
			t.Errorf("%d lines, the last %v", n, lines[n-1])
		}
		told, written := 0, 0
		for _, line := range lines {
			if n, ok := line["suppressed"].(float64); ok {
				told += int(n)
			} else {
				written++
			}
		}
		if told+written != 100*maxReasons+1 {
			t.Errorf("%d lines are written, and %d told of, of %d", written, told, 100*maxReasons+1)
		}
	})
}

// TestBlocked: an output that takes nothing holds nobody up, costs no more than the queue, and is told of when it takes lines
// again. What waits at the end is written, if it can be.
func TestBlocked(t *testing.T) {
	out := &output{}
	out.mu.Lock()
	l := New(out, Options{Queue: 4 << 10, Rate: 1 << 30})
	const lines = 10000
	longest := time.Duration(0)
	for n := range lines {
		began := time.Now()
		l.Warn().Int("n", n).Msg("line")
		longest = max(longest, time.Since(began))
	}
	if longest > time.Second {
		t.Errorf("a line took %v", longest)
	}
	if l.Flush(10 * time.Millisecond) {
		t.Error("flushed into nowhere")
	}
	if n := cap(l.queue.waiting); n > 8<<10 {
		t.Errorf("%d bytes wait", n)
	}
	out.mu.Unlock()
	if !l.Flush(10 * time.Second) {
		t.Error("not flushed")
	}
	l.Warn().Msg("the last word")
	if !l.Close(10 * time.Second) {
		t.Error("not closed")
	}
	all := out.lines(t)
	var told float64
	for _, line := range all {
		if n, ok := line["lost"].(float64); ok {
			told += n
		}
	}
	if lost := l.Counts().Lost; lost == 0 || told != float64(lost) || len(all) < lines-int(lost)+1 {
		t.Errorf("%d lost, told of %v, %d lines", lost, told, len(all))
	}
	if all[len(all)-1]["message"] != "the last word" {
		t.Errorf("the last line is %v", all[len(all)-1])
	}
}

// TestClosedWhileBlocked: the end does not wait for an output for ever.
func TestClosedWhileBlocked(t *testing.T) {
	r, w := io.Pipe()
	l := New(w, Options{})
	l.Info().Msg("never read")
	began := time.Now()
	if l.Close(50 * time.Millisecond) {
		t.Error("closed, with a line left")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	r.Close() // so that the goroutine ends
	<-l.queue.ended
}

// TestFull: a disk that is full costs lines, which are counted; when it has room again the log goes on with a whole line, and
// says what is missing.
func TestFull(t *testing.T) {
	for _, room := range []int{0, 7} {
		out := &output{}
		l := New(out, Options{})
		l.Info().Msg("before")
		l.Flush(10 * time.Second)
		out.fill(true, room)
		for range 3 {
			l.Info().Msg("meanwhile")
		}
		l.Flush(10 * time.Second)
		if n := l.Counts().Lost; n != 3 {
			t.Errorf("%d lost, want 3", n)
		}
		out.mu.Lock()
		calls := out.calls
		out.mu.Unlock()
		if calls > 10 {
			t.Errorf("%d tries: it spins", calls)
		}
		out.fill(false, 0)
		l.Info().Msg("after")
		l.Close(10 * time.Second)
		text := out.text.String()
		after := text[strings.Index(text, "\n")+1:]
		if room > 0 { // what there was room for is a line by itself
			_, after, _ = strings.Cut(after, "\n")
		}
		var got []string
		for line := range strings.Lines(after) {
			var fields struct {
				Message string
				Lost    int
			}
			if err := json.Unmarshal([]byte(line), &fields); err != nil && room == 0 {
				t.Errorf("%q: %v", line, err)
			}
			got = append(got, fmt.Sprint(fields.Message, fields.Lost))
		}
		if len(got) < 2 || got[len(got)-2] != "after0" || !strings.HasSuffix(got[len(got)-1], "3") {
			t.Errorf("room for %d: %q, in\n%s", room, got, text)
		}
	}
}

// TestFormat: people get a line of text, and nobody's words begin another line.
func TestFormat(t *testing.T) {
	out := &output{}
	l := New(out, Options{Level: zerolog.InfoLevel, Format: func(w io.Writer) io.Writer { return zerolog.ConsoleWriter{Out: w, NoColor: true} }})
	l.Debug().Msg("not said")
	l.Info().Str("name", "x\n\x1b[2J INF forged").Msg("said")
	l.Close(10 * time.Second)
	if text := out.text.String(); strings.Count(text, "\n") != 1 || strings.Contains(text, "\x1b") || !strings.Contains(text, `INF said name="x\n\x1b[2J INF forged"`) {
		t.Errorf("%q", text)
	}
}

// TestClosed: what is said after the end is counted and nothing else; the end may come twice.
func TestClosed(t *testing.T) {
	out := &output{}
	l := New(out, Options{})
	l.Close(time.Second)
	l.Info().Msg("late")
	if !l.Close(time.Second) || !l.Flush(time.Second) || out.text.Len() != 0 || l.Counts().Lost != 1 {
		t.Errorf("%q, %+v", out.text.String(), l.Counts())
	}
}

// TestConcurrent: lines of many come whole.
func TestConcurrent(t *testing.T) {
	out := &output{}
	l := New(out, Options{Queue: 1 << 20, Rate: 1 << 30})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 500 {
				l.Info().Int("g", g).Int("n", n).Msg("line")
			}
			l.Flush(10 * time.Second)
		})
	}
	wg.Wait()
	l.Close(10 * time.Second)
	if n := len(out.lines(t)); n != 8*500 {
		t.Errorf("%d lines", n)
	}
}

// BenchmarkLine is what one costs who says it.
func BenchmarkLine(b *testing.B) {
	l := New(io.Discard, Options{Rate: 1 << 30})
	defer l.Close(time.Second)
	b.ReportAllocs()
	for b.Loop() {
		l.Info().Int("n", 1).Msg("line")
	}
}
