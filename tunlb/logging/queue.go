package logging

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// queue is a bounded queue of lines in front of a writer. Lines that find it full are lost, and the log says later how many.
type queue struct {
	out    io.Writer
	line   bytes.Buffer // one line as it is to be written; the goroutine's
	format io.Writer    // nil, or what writes into line
	torn   bool         // the output has a part of a line; the goroutine's

	wake  chan struct{} // has one while there is something to do
	ended chan struct{} // closed when the goroutine has

	mu      sync.Mutex
	most    int
	waiting []byte // whole lines
	flushed []chan struct{}
	lost    uint64
	told    uint64 // of the lost, those that the log knows of
	closing bool
}

func newQueue(out io.Writer, format func(io.Writer) io.Writer, most int) *queue {
	q := &queue{out: out, most: most, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if format != nil {
		q.format = format(&q.line)
	}
	go q.write()
	return q
}

// Write takes a line, or counts it as lost. It never waits and never fails: zerolog would complain on the error output.
func (q *queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	if q.closing || len(q.waiting)+len(line) > q.most {
		q.lost++
	} else {
		q.waiting = append(q.waiting, line...)
	}
	q.mu.Unlock()
	q.rouse()
	return len(line), nil
}

func (q *queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// write empties the queue again and again until close.
func (q *queue) write() {
	defer close(q.ended)
	var lines []byte
	for closing := false; !closing; {
		<-q.wake
		q.mu.Lock()
		lines, q.waiting = q.waiting, lines[:0]
		flushed := q.flushed
		q.flushed, closing = nil, q.closing
		q.mu.Unlock()
		for line := range bytes.Lines(lines) {
			if !q.put(line) {
				q.lose(1)
			}
		}
		q.confess()
		for _, f := range flushed {
			close(f)
		}
	}
}

// put writes one line, and says whether the output has all of it.
func (q *queue) put(line []byte) bool {
	q.line.Reset()
	if q.torn {
		q.line.WriteByte('\n')
	}
	if q.format == nil {
		q.line.Write(line)
	} else if _, err := q.format.Write(line); err != nil {
		return true // it was no line of JSON, which is no fault of the output's
	}
	n, err := q.out.Write(q.line.Bytes())
	switch {
	case err == nil:
		q.torn = false
	case n > 0:
		q.torn = true
	}
	return err == nil
}

func (q *queue) lose(n uint64) {
	q.mu.Lock()
	q.lost += n
	q.mu.Unlock()
}

func (q *queue) lostCount() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// confess tells of lines that were lost. While the output refuses that, too, it is tried again with the next lines.
func (q *queue) confess() {
	q.mu.Lock()
	lost := q.lost
	n := lost - q.told
	q.mu.Unlock()
	if n == 0 {
		return
	}
	ok := false
	log := zerolog.New(writerFunc(func(line []byte) (int, error) {
		ok = q.put(line)
		return len(line), nil
	}))
	log.Warn().Timestamp().Uint64("lost", n).Msg("lines of this log are lost: its output was too slow, or refused them")
	if ok {
		q.mu.Lock()
		q.told = lost
		q.mu.Unlock()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (q *queue) flush(patience time.Duration) bool {
	done := make(chan struct{})
	q.mu.Lock()
	q.flushed = append(q.flushed, done)
	q.mu.Unlock()
	q.rouse()
	return q.await(done, patience)
}

func (q *queue) close(patience time.Duration) bool {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.rouse()
	return q.await(q.ended, patience)
}

// await waits for done, or for the end, or for patience.
func (q *queue) await(done <-chan struct{}, patience time.Duration) bool {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	select {
	case <-done:
	case <-q.ended:
	case <-enough.C:
		return false
	}
	return true
}
