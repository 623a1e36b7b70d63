package trace

import (
	"slices"
	"time"
)

// Row is a packet, and the one that answers it. One of them may be nil: a packet alone stands on its direction's side.
type Row struct {
	Request, Answer *Journey
}

// first is the packet that the row was begun by.
func (r *Row) first() *Journey {
	if r.Request != nil {
		return r.Request
	}
	return r.Answer
}

// Pairer puts answers beside what they answer. A packet from a client waits for the next packet the other way of the same
// connection; one in its own direction, or the time, ends the wait. An answer waits as well: two lanes tell of two packets, and
// the later one may be told of first. Rows come out in the order in which they were begun, so nothing overtakes within
// a direction, and what waits holds up what came later, for Hold at most. The zero value pairs nothing; make it with Hold
// set. Not safe for concurrent use.
type Pairer struct {
	Hold time.Duration // on the engine's clock
	rows []*waitingRow
}

type waitingRow struct {
	Row
	ready bool
}

// maxWaiting bounds the rows that wait; a busy trace moves on before its time.
const maxWaiting = 1024

// Add takes the next packet of a stream, and returns the rows that are complete with it.
func (p *Pairer) Add(j *Journey) []Row {
	p.expire(j.At)
	row := p.waitsFor(j)
	switch {
	case row == nil:
		p.begin(j)
	case row.Request == nil:
		row.Request, row.ready = j, true
	case isAnswerTo(j, row.Request):
		row.Answer, row.ready = j, true
	default: // the next one of its own direction
		row.ready = true
		p.begin(j)
	}
	if len(p.rows) > maxWaiting {
		p.rows[0].ready = true
	}
	return p.take()
}

// begin makes a row of a packet, which waits unless it was dropped: then it gets no answer.
func (p *Pairer) begin(j *Journey) {
	row := &waitingRow{Row: Row{Request: j}, ready: p.Hold <= 0}
	if isBack(j) {
		row.Row = Row{Answer: j}
	} else if j.Drop != "" {
		row.ready = true
	}
	p.rows = append(p.rows, row)
}

// waitsFor is the row whose wait a packet ends, nil if there is none.
func (p *Pairer) waitsFor(j *Journey) *waitingRow {
	i := slices.IndexFunc(p.rows, func(r *waitingRow) bool {
		switch {
		case r.ready:
			return false
		case r.Request == nil:
			return !isBack(j) && j.Seq < r.Answer.Seq && isAnswerTo(r.Answer, j)
		}
		return isAnswerTo(j, r.Request) || sameWay(j, r.Request)
	})
	if i < 0 {
		return nil
	}
	return p.rows[i]
}

// Waiting says whether a row waits for its answer: then Flush is to be called when nothing has come for Hold.
func (p *Pairer) Waiting() bool { return len(p.rows) > 0 }

// Flush returns all rows as they are.
func (p *Pairer) Flush() []Row {
	for _, r := range p.rows {
		r.ready = true
	}
	return p.take()
}

func (p *Pairer) expire(now time.Duration) {
	for _, r := range p.rows {
		if now-r.first().At > p.Hold {
			r.ready = true
		}
	}
}

// take gives the rows that are ready up to the first that is not.
func (p *Pairer) take() (out []Row) {
	for len(p.rows) > 0 && p.rows[0].ready {
		out = append(out, p.rows[0].Row)
		p.rows = p.rows[1:]
	}
	return out
}

// isBack says whether a packet goes to the client. Of one that no flow stands for, such as an answer of tunlb's own stack,
// it is that it has come in by no port; one that has only waited did so before.
func isBack(j *Journey) bool { return j.Reply || j.Flow == 0 && j.In == nil && !j.Waited }

// isAnswerTo says whether a packet goes the other way between the same endpoints.
func isAnswerTo(j, request *Journey) bool {
	if !isBack(j) || j.Protocol != request.Protocol {
		return false
	}
	if j.Flow != 0 || request.Flow != 0 {
		return j.Flow == request.Flow && j.Client == request.Client && j.VIP == request.VIP
	}
	return j.Client.IsValid() && j.Client == request.VIP && j.VIP == request.Client
}

// sameWay says whether a packet goes the same way between the same endpoints.
func sameWay(j, request *Journey) bool {
	return !isBack(j) && j.Protocol == request.Protocol && j.Client == request.Client && j.VIP == request.VIP
}
