package logging

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// maxReasons bounds what is remembered of kinds of lines. There are some fifty messages; all that are beyond the bound within
// a second count as one kind.
const maxReasons = 256

// window is the time in which lines are counted.
const window = time.Second

// reasonKey is under which an event's context has its reason, if that is not its message.
type reasonKey struct{}

// always is the reason of lines that are never held back. No message is like it.
const always = "\x00always"

// Reason has a line counted as one of this kind, instead of by its message.
func Reason(e *zerolog.Event, reason string) *zerolog.Event {
	return e.Ctx(context.WithValue(context.Background(), reasonKey{}, reason))
}

// Always has a line never held back. It is for what an operator has changed: who wants to hide one change behind many
// others must not get that by this log's bound.
func Always(e *zerolog.Event) *zerolog.Event { return Reason(e, always) }

// limit holds lines back of which there are too many. It is a zerolog.Hook.
type limit struct {
	rate int
	log  zerolog.Logger // without this hook

	mu      sync.Mutex
	reasons map[string]*reason
	swept   time.Time // when reasons whose time was over were last forgotten
	others  reason    // all for which there is no room in reasons
	timer   *time.Timer
	closed  bool
	total   uint64
}

// reason is a kind of lines.
type reason struct {
	since time.Time // of the window
	lines int       // in it
	held  uint64    // lines held back that the log does not know of yet
}

// Run implements zerolog.Hook.
func (l *limit) Run(e *zerolog.Event, _ zerolog.Level, message string) {
	why, named := e.GetCtx().Value(reasonKey{}).(string)
	switch {
	case !named:
		why = message
	case why == always:
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.reasonLocked(why, now)
	if now.Sub(r.since) >= window {
		r.since, r.lines = now, 0
	}
	if r.lines++; r.lines > l.rate {
		r.held++
		l.total++
		if l.timer == nil && !l.closed {
			l.timer = time.AfterFunc(window, l.tell)
		}
		e.Discard()
		return
	}
	if r.held > 0 {
		e.Uint64("suppressed", r.held)
		r.held = 0
	}
}

// reasonLocked finds a reason, or makes room for it.
func (l *limit) reasonLocked(why string, now time.Time) *reason {
	if r := l.reasons[why]; r != nil {
		return r
	}
	if len(l.reasons) >= maxReasons && now.Sub(l.swept) >= window {
		l.swept = now
		for name, r := range l.reasons {
			if r.held == 0 && now.Sub(r.since) >= window {
				delete(l.reasons, name)
			}
		}
	}
	if len(l.reasons) >= maxReasons {
		return &l.others
	}
	r := &reason{}
	l.reasons[why] = r
	return r
}

// tell says how many lines were held back of those kinds of which none has come since.
func (l *limit) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	for why, r := range l.reasons {
		l.tellLocked(why, r)
	}
	l.tellLocked("others", &l.others)
}

func (l *limit) tellLocked(why string, r *reason) {
	if r.held == 0 {
		return
	}
	l.log.Warn().Str("line", why).Uint64("suppressed", r.held).Msg("there were more lines like this than are written")
	r.held = 0
}

// close tells what is left to tell, and tells nothing from then on.
func (l *limit) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.tell()
}

func (l *limit) suppressed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
