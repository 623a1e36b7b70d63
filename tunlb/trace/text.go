package trace

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tunlb/tunlb/policy"
)

// WideFrom is the least width at which a packet and its answer have room side by side.
const WideFrom = 120

// Printer writes rows for people. The zero value writes one column without colours, and never breaks a line. A plain
// value.
type Printer struct {
	Colour bool
	Width  int  // of the terminal, in characters; 0: unbounded
	Wide   bool // requests left, answers right
}

// Print writes a row, and an empty line behind it.
func (p Printer) Print(w io.Writer, r Row) error {
	var lines []line
	if p.Wide {
		lines = p.columns(r)
	} else {
		lines = p.stack(r)
	}
	var b strings.Builder
	for _, l := range lines {
		l.write(&b, p.Colour)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// stack puts the answer below, indented.
func (p Printer) stack(r Row) (lines []line) {
	const indent = "    "
	if r.Request != nil {
		lines = append(lines, p.fit(append([]line{title(r.Request, nil)}, body(r.Request)...), p.Width)...)
	}
	if r.Answer != nil {
		answer := append([]line{title(r.Answer, r.Request)}, body(r.Answer)...)
		for _, l := range p.fit(answer, p.Width-len(indent)) {
			lines = append(lines, l.shift(span{plain, indent}))
		}
	}
	return lines
}

func (p Printer) fit(lines []line, width int) (out []line) {
	if p.Width <= 0 {
		return lines
	}
	for _, l := range lines {
		out = append(out, l.wrap(max(width, 20))...)
	}
	return out
}

// columns puts the answer to the right: who is who on top, requests left, answers right.
func (p Printer) columns(r Row) []line {
	const between = " │ "
	width := p.Width
	if width <= 0 {
		width = WideFrom
	}
	column := (width - utf8.RuneCountInString(between)) / 2
	var left, right []line
	if j := r.Request; j != nil {
		left = append(left, lineOf(span{toServer, fmt.Sprintf("#%d ──▶ ", j.Seq)}, span{plain, textOf(j)}))
		left = append(left, outdent(body(j))...)
	}
	if j := r.Answer; j != nil {
		right = append(right, lineOf(span{toClient, fmt.Sprintf("◀── #%d ", j.Seq)}, span{label, after(j, r.Request)}, span{plain, textOf(j)}))
		right = append(right, outdent(body(j))...)
	}
	left, right = fitColumn(left, column), fitColumn(right, column)
	first := r.first()
	lines := lineOf(span{plain, clock(first.Time) + "  "}, span{plain, first.Protocol + "  "}, span{plain, ends(first, "  ")}, span{label, "  " + connection(first)}).wrap(width)
	for i := range max(len(left), len(right)) {
		l := lineOf()
		if i < len(left) {
			l = left[i]
		}
		l = l.pad(column)
		l.spans = append(l.spans, span{label, between})
		if i < len(right) {
			l.spans = append(l.spans, right[i].spans...)
		}
		lines = append(lines, l)
	}
	return lines
}

// outdent takes the margin from a body's lines: in a column every character counts.
func outdent(lines []line) []line {
	for i := range lines {
		first := &lines[i].spans[0]
		first.text = strings.TrimPrefix(first.text, margin)
		lines[i].indent -= len(margin)
	}
	return lines
}

func fitColumn(lines []line, width int) (out []line) {
	for _, l := range lines {
		out = append(out, l.wrap(width)...)
	}
	return out
}

// title is a packet's first line; an answer to a request tells how long it took.
func title(j, request *Journey) line {
	arrow, way := " -> ", toServer
	if isBack(j) {
		way = toClient
	}
	if j.Reply {
		arrow = " <- "
	}
	l := lineOf(
		span{plain, clock(j.Time) + "  "}, span{way, fmt.Sprintf("#%d  ", j.Seq)}, span{label, after(j, request)}, span{plain, j.Protocol + "  "})
	if ends := ends(j, arrow); ends != "" {
		l.spans = append(l.spans, span{way, ends + "  "})
	}
	if id := connection(j); id != "" {
		l.spans = append(l.spans, span{label, id + "  "})
	}
	l.spans = append(l.spans, span{plain, textOf(j)})
	l.indent = 4
	return l
}

func clock(t time.Time) string { return t.Format("15:04:05.000000") }

// after is how much later than its request an answer came.
func after(j, request *Journey) string {
	if request == nil {
		return ""
	}
	return fmt.Sprintf("+%.3f ms  ", float64(j.At-request.At)/float64(time.Millisecond))
}

// ends are client and VIP, or source and destination of what is of no connection.
func ends(j *Journey, arrow string) string {
	if j.Protocol == "arp" { // its text says who asks for whom
		return ""
	}
	if j.Flow != 0 || j.Service != "" {
		return "client " + j.Client.String() + arrow + "vip " + j.VIP.String()
	}
	if p := j.shown(); p != nil && p.Src != "" {
		return p.Src + " -> " + p.Dst
	}
	return ""
}

func connection(j *Journey) string {
	if j.Flow == 0 {
		return ""
	}
	return fmt.Sprintf("flow %08x", j.Flow)
}

func textOf(j *Journey) string {
	p := j.shown()
	switch {
	case p == nil:
		return ""
	case p.Quote != nil && j.Protocol != "icmp": // an error of the connection's
		return "icmp " + p.Text
	}
	return p.Text
}

const (
	// margin is in front of every line of a body, and labelWidth the width of the steps' names with it.
	margin     = "  "
	labelWidth = 9
)

// body are a packet's steps.
func body(j *Journey) (lines []line) {
	names := fieldWidth(j)
	previous := ""
	for i := range j.Steps {
		s := &j.Steps[i]
		name := s.Kind
		if name == previous && (name == StepEdit || name == StepNote) {
			name = ""
		}
		previous = s.Kind
		add := func(spans ...span) {
			look := label
			if s.Kind == StepDrop || s.Kind == StepNote {
				look = lost
			}
			l := lineOf(append([]span{{look, fmt.Sprintf("%s%-*s", margin, labelWidth-len(margin), name)}}, spans...)...)
			l.indent = labelWidth + 2
			lines, name = append(lines, l), ""
		}
		switch s.Kind {
		case StepIn:
			add(span{plain, fmt.Sprintf("%s  %d B", s.Port, s.Length)}, span{label, stations(s.Packet)})
		case StepNote:
			add(span{lost, s.Text})
		case StepEdit:
			add(edit(s.Change, names)...)
		case StepOut:
			add(span{plain, fmt.Sprintf("%s  %d B", s.Port, s.Length)}, span{label, stations(s.Packet)})
		case StepAnswer, StepSent:
			add(span{plain, fmt.Sprintf("%s  %d B  %s %s -> %s  %s", s.Port, s.Length, s.Packet.Protocol, s.Packet.Src, s.Packet.Dst, s.Packet.Text)})
		case StepDrop:
			add(span{lost, s.Reason}, span{plain, ": " + s.Text})
			add(span{label, "what next: "}, span{plain, s.Next})
		default:
			add(span{plain, s.Text})
		}
		if s.Kind == StepWhy {
			lines = append(lines, candidates(j)...)
		}
	}
	return lines
}

// stations are the MACs of a frame.
func stations(p *Packet) string {
	if p.SrcMAC == "" {
		return ""
	}
	return "  " + p.SrcMAC + " -> " + p.DstMAC
}

func fieldWidth(j *Journey) (n int) {
	for _, s := range j.Steps {
		if s.Change != nil {
			n = max(n, len(s.Change.Field))
		}
	}
	return n
}

// edit is a change in one line.
func edit(c *Change, names int) []span {
	spans := []span{{plain, fmt.Sprintf("%-*s  ", names, c.Field)}, {plain, c.From}, {label, " -> "}, {changed, c.To}}
	if c.Delta != "" {
		spans = append(spans, span{label, "  delta " + c.Delta})
	}
	if c.Partial {
		spans = append(spans, span{label, "  (left to the device)"})
	}
	if c.Wanted != "" {
		spans = append(spans, span{lost, "  but what it covers changed by " + c.Wanted})
	}
	return spans
}

// candidates are the servers that the scheduler has chosen from, a line each.
func candidates(j *Journey) (lines []line) {
	servers, more := j.Why.Servers, 0
	if len(servers) > maxCandidates {
		picked := slices.IndexFunc(servers, func(s policy.Candidate) bool { return isPick(j, s) })
		first := max(0, min(picked-maxCandidates/2, len(servers)-maxCandidates))
		servers, more = servers[first:first+maxCandidates], len(servers)-maxCandidates
	}
	names, places, scores := 0, 0, 0
	for _, s := range servers {
		names, places, scores = max(names, len(s.Server)), max(places, len(s.Address.String())), max(scores, len(s.Score))
	}
	for _, s := range servers {
		look, mark := plain, "  "
		if isPick(j, s) {
			look, mark = changed, "* "
		}
		text := fmt.Sprintf("%s%-*s  %-*s  weight %d  active %d  inactive %d", mark, names, s.Server, places, s.Address, s.Weight, s.Active, s.Inactive)
		if scores > 0 && s.Excluded == "" {
			text += fmt.Sprintf("  (%s)", s.Score)
		}
		spans := []span{{plain, strings.Repeat(" ", labelWidth)}, {look, text}}
		if s.Excluded != "" {
			spans = append(spans, span{lost, "  no: " + s.Excluded})
		}
		lines = append(lines, line{spans: spans, indent: labelWidth + 4})
	}
	if more > 0 {
		lines = append(lines, lineOf(span{label, strings.Repeat(" ", labelWidth) + fmt.Sprintf("  and %d more; tunlb explain lists them all", more)}))
	}
	return lines
}

// maxCandidates bounds the servers that are listed around the one that was picked.
const maxCandidates = 8

func isPick(j *Journey, s policy.Candidate) bool {
	return s.Server == j.Why.Server && s.Address == j.Why.Address && j.Why.Server != ""
}
