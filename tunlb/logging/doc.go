// Package logging is between those who have something to say and where it is written: nobody waits for a disk, and
// nobody fills one.
//
// It owns the bound on lines of one kind and the queue in front of the output. It does not own what is said, nor how it
// looks (zerolog).
package logging

import (
	"io"
	"time"

	"github.com/rs/zerolog"
)

// Options say how lines are written. The zero value is useful.
type Options struct {
	Level zerolog.Level // and above; the zero value is debug
	// Format makes lines of JSON something else, such as a zerolog.ConsoleWriter on out does; nil leaves them as they are.
	Format func(out io.Writer) io.Writer
	Queue  int // bytes that may wait for the output; 0 means DefaultQueue
	Rate   int // lines of one reason in a second; 0 means DefaultRate
}

// Defaults of Options.
const (
	DefaultQueue = 512 << 10
	DefaultRate  = 10
)

// Log is a log. Make it with New; Close it at the end, or its last words are lost. Safe for concurrent use.
type Log struct {
	zerolog.Logger
	limit *limit
	queue *queue
}

// New logs to out, which is used by one goroutine at a time and may block for as long as it likes.
func New(out io.Writer, o Options) *Log {
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	if o.Rate <= 0 {
		o.Rate = DefaultRate
	}
	q := newQueue(out, o.Format, o.Queue)
	plain := zerolog.New(q).Level(o.Level).With().Timestamp().Logger()
	l := &limit{rate: o.Rate, log: plain, reasons: map[string]*reason{}}
	return &Log{Logger: plain.Hook(l), limit: l, queue: q}
}

// Flush waits until what has been said is written, no longer than patience, and says whether it is.
func (l *Log) Flush(patience time.Duration) bool {
	l.limit.tell()
	return l.queue.flush(patience)
}

// Close is Flush, and the end of the log. An output that blocks keeps a goroutine for as long as it does. Idempotent.
func (l *Log) Close(patience time.Duration) bool {
	l.limit.close()
	return l.queue.close(patience)
}

// Counts are of lines that nobody will read. A plain value.
type Counts struct {
	Lost       uint64 `json:"lost"`       // the output was too slow for them, or refused them
	Suppressed uint64 `json:"suppressed"` // there were too many of their kind
}

// Counts says how much was not written until now.
func (l *Log) Counts() Counts {
	return Counts{Lost: l.queue.lostCount(), Suppressed: l.limit.suppressed()}
}
