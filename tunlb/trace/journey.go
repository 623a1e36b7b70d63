// Package trace tells what happened to a packet, step by step: a watch.Record becomes a Journey, whose changes are
// found by comparing the bytes that came with those that left, and a Journey becomes text.
//
// It owns how headers are read from cut frames, the comparison, the words for reasons and ICMP messages, the pairing of
// answers with what they answer, and the text in one or two columns. It does not own where records come from (package
// watch and the engine), nor terminals and flags (cmd/tunlb).
package trace

import (
	"fmt"
	"strings"

	"github.com/tunlb/tunlb/tunlb/watch"
)

// Journey is a record, and what its frames say. Its JSON is for programs: the record's fields, and the steps. It
// borrows nothing of the record's frames but their Data. A plain value.
type Journey struct {
	watch.Record
	Lost  uint64 `json:"lost"` // records that were lost so far, as the line of GET /v1/trace says
	Steps []Step `json:"steps"`
}

// Kinds of steps, in the order in which they come.
const (
	StepIn     = "in"     // Port, Length, Packet
	StepNote   = "note"   // Text: what is remarkable about what came
	StepWaited = "waited" // Text: this is the second half of a journey, and nothing comes in
	StepFlow   = "flow"   // Text
	StepWhy    = "why"    // Text; the record's Why has the servers
	StepPath   = "path"   // Text: the kernel carries what follows
	StepEdit   = "edit"   // Change
	StepOut    = "out"    // Port, Length, Packet: the packet itself leaves
	StepTo     = "to"     // Text: where else it went
	StepDrop   = "drop"   // Reason, Text: what that means, Next: what to do about it
	StepAnswer = "answer" // Port, Length, Packet: tunlb answers the sender: an ICMP error, a reset, ARP
	StepSent   = "sent"   // Port, Length, Packet: tunlb sends something else because of it, such as a question for a MAC
)

// Step is one step of a journey. Which fields it has, its kind says.
type Step struct {
	Kind   string  `json:"step"`
	Port   string  `json:"port,omitempty"`
	Length int     `json:"length,omitempty"` // of the frame, in bytes
	Packet *Packet `json:"packet,omitempty"`
	Change *Change `json:"change,omitempty"`
	Reason string  `json:"reason,omitempty"`
	Text   string  `json:"text,omitempty"`
	Next   string  `json:"next,omitempty"`
}

// Of reads a record's frames. lost is what the stream says of lost records.
func Of(r *watch.Record, lost uint64) *Journey {
	j := &Journey{Record: *r, Lost: lost}
	var in *headers
	if r.In != nil {
		in = read(r.In)
		j.add(Step{Kind: StepIn, Port: r.In.Port, Length: r.In.Length, Packet: &in.Packet})
		for _, note := range in.wrong {
			j.add(Step{Kind: StepNote, Text: note})
		}
	}
	if j.Waited {
		text := "it had waited for its next hop's MAC, or for its first fragment"
		if j.Drop == "" {
			text = "sent on: " + text
		}
		j.add(Step{Kind: StepWaited, Text: text})
	}
	j.flow()
	j.out(in)
	j.end()
	return j
}

func (j *Journey) add(s Step) { j.Steps = append(j.Steps, s) }

// flow says what connection the packet is of, and how that came to its server.
func (j *Journey) flow() {
	server := strings.TrimSpace(j.ServerName + " " + j.Server.String())
	if !j.Server.IsValid() || j.ServerName == j.Server.String() {
		server = j.ServerName
	}
	of := ""
	if j.Service != "" {
		of = " " + j.Service
		if j.Why != nil && j.Why.Scheduler != "" {
			of += " (" + j.Why.Scheduler + ")"
		}
	}
	how := j.Mode
	if j.Source.IsValid() {
		how += fmt.Sprintf(", seen as %s", j.Source)
	}
	switch {
	case j.Flow == 0 && j.In == nil && (!j.Waited || server == ""), j.Protocol == "arp":
		return
	case j.Flow == 0 && server != "":
		j.add(Step{Kind: StepFlow, Text: fmt.Sprintf("none is kept:%s gives this packet to %s, %s", of, server, how)})
	case j.Flow == 0 && j.Why != nil:
		j.add(Step{Kind: StepFlow, Text: fmt.Sprintf("none: %s (%s) has no server", j.Why.Service, j.Why.Scheduler)})
	case j.Flow == 0 && j.Drop != "": // it was not looked for, or the reason says it
	case j.Flow == 0:
		j.add(Step{Kind: StepFlow, Text: "none"})
	case j.Opened:
		j.add(Step{Kind: StepFlow, Text: fmt.Sprintf("opened:%s -> %s, %s; %s", of, server, how, j.State)})
	default:
		j.add(Step{Kind: StepFlow, Text: fmt.Sprintf("hit:%s -> %s, %s; %s", of, server, how, j.State)})
	}
	if j.Why != nil && j.Why.Why != "" {
		j.add(Step{Kind: StepWhy, Text: j.Why.Why})
	}
	switch j.Fastpath {
	case "offered":
		j.add(Step{Kind: StepPath, Text: "the connection is being handed over to the kernel, which carries what follows"})
	case "carried":
		j.add(Step{Kind: StepPath, Text: "the kernel carries the connection: only packets that open or end it, fragments and ICMP errors are seen here"})
	}
}

// out compares what left with what came, a frame after the other. A change that an earlier frame has as well is told
// once.
func (j *Journey) out(in *headers) {
	told := map[Change]bool{}
	var answers []Step
	for i := range j.Out {
		f := &j.Out[i]
		out := read(f)
		step := Step{Kind: StepOut, Port: f.Port, Length: f.Length, Packet: &out.Packet}
		if in != nil {
			step.Kind = in.kindOf(out)
		}
		if j.Drop != "" && step.Kind == StepOut { // itself it does not leave
			step.Kind = StepAnswer
		}
		if step.Kind != StepOut {
			answers = append(answers, step)
			continue
		}
		if in != nil {
			for _, c := range in.changes(out) {
				if !told[c] {
					told[c] = true
					j.add(Step{Kind: StepEdit, Change: &c})
				}
			}
		}
		j.add(step)
	}
	if j.Drop != "" {
		meaning, next := Reason(j.Drop)
		j.add(Step{Kind: StepDrop, Reason: j.Drop, Text: meaning, Next: next})
	}
	j.Steps = append(j.Steps, answers...)
}

// end says where the packet went if that is not by a port.
func (j *Journey) end() {
	if j.Drop != "" {
		return
	}
	where := map[string]string{
		"kernel":    "the box's kernel: handed back unchanged, it is none of tunlb's",
		"direct":    "the next hop directly, by an interface of the box",
		"host":      "tunlb's own stack, which answers for VIPs and own addresses",
		"carried":   "the server or the client already: the kernel has carried it, and told of it",
		"held":      "wait for its next hop's MAC",
		"parked":    "wait for the first fragment of its datagram, which has the ports",
		"neighbour": "the neighbour table",
		"switch":    "another station: tunlb is only the switch here",
	}[j.Exit]
	if where != "" {
		j.add(Step{Kind: StepTo, Text: where})
	}
}

// Is says whether the journey has a step of a kind.
func (j *Journey) Is(kind string) bool {
	for i := range j.Steps {
		if j.Steps[i].Kind == kind {
			return true
		}
	}
	return false
}

// shown is the packet that the header line is about: as it came, or else as it left.
func (j *Journey) shown() *Packet {
	for i := range j.Steps {
		if p := j.Steps[i].Packet; p != nil {
			return p
		}
	}
	return nil
}
