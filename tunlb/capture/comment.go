package capture

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/tunlb/tunlb/tunlb/watch"
)

// Comment says in one line what a frame of a record is: the side, the flow, the server and why, or the reason of a
// drop. The words are for display filters: frame.comment contains "drop no-server".
func Comment(r *watch.Record, side Side) string { return string(comment(nil, r, side)) }

// appendComment appends the comment of a packet as an option.
func appendComment(b []byte, r *watch.Record, f *watch.Frame, side Side, partial bool) []byte {
	at := len(b)
	b = comment(append(b, optComment, 0, 0, 0), r, side)
	if v := decodeVnet(f.Data); v.segment > 0 {
		b = strconv.AppendInt(append(b, segmentWords...), int64(v.segment), 10)
		b = append(b, " bytes"...)
	}
	if partial {
		b = append(b, "; checksum left to the device"...)
	}
	if n := at + 4 + maxOption; len(b) > n {
		b = b[:n]
	}
	n := len(b) - at - 4
	le.PutUint16(b[at+2:], uint16(n))
	return pad(b, n)
}

func comment(b []byte, r *watch.Record, side Side) []byte {
	switch {
	case side == In:
		b = append(b, "before: "...)
	case r.Waited && r.Drop == "":
		b = append(b, "after waiting: "...)
	case r.In == nil && !r.Waited:
		b = append(b, "own: "...) // no packet has come for it
	case r.Drop != "":
		b = append(b, "answer: "...) // to the sender of what was dropped
	default:
		b = append(b, "after: "...)
	}
	begun := len(b)
	if r.Drop != "" {
		b = append(append(b, "drop "...), r.Drop...)
		if belongs(r) {
			b = append(b, ", "...)
		}
	}
	b = appendFlow(b, r)
	switch {
	case len(b) == begun:
		b = append(b, exitWords(r)...)
	case side == In && r.Drop == "" && r.Exit != "port":
		b = append(append(b, ", "...), exitWords(r)...)
	}
	return b
}

// belongs says whether the packet is one of a flow or a service.
func belongs(r *watch.Record) bool { return r.Flow != 0 || r.Service != "" }

// appendFlow says which connection it is, and which server.
func appendFlow(b []byte, r *watch.Record) []byte {
	if !belongs(r) {
		return b
	}
	if r.Flow != 0 {
		var id [4]byte
		binary.BigEndian.PutUint32(id[:], r.Flow)
		b = append(hex.AppendEncode(append(b, "flow "...), id[:]), ' ') // as a trace has it
	}
	service := r.Service
	if service == "" {
		service = "gateway"
	}
	switch {
	case r.Reply && r.Service != "":
		b = append(append(b, "reply of "...), serverWords(r)...)
	case r.Reply:
		b = append(b, "reply to the gateway"...)
	default:
		if r.Opened {
			b = append(b, "opened "...)
		}
		b = append(append(append(b, service...), " -> "...), serverWords(r)...)
	}
	if r.Source.IsValid() {
		b = append(append(b, ", as "...), r.Source.String()...)
	}
	if r.Why != nil && r.Why.Why != "" {
		b = append(append(append(b, " ("...), oneLine(r.Why.Scheduler+": "+r.Why.Why)...), ')')
	} else if !r.Opened && r.State != "" {
		b = append(append(b, ", "...), r.State...)
	}
	return b
}

// serverWords is the server's name and address, one of them if the other says nothing more.
func serverWords(r *watch.Record) string {
	switch {
	case !r.Server.IsValid():
		return r.ServerName
	case r.ServerName == "" || r.ServerName == r.Server.String():
		return r.Server.String()
	}
	return r.ServerName + " " + r.Server.String()
}

// exitWords says where the packet has gone.
func exitWords(r *watch.Record) string {
	switch r.Exit {
	case "port":
		if r.In == nil && !r.Waited {
			return "tunlb speaks for itself"
		}
		return "routed"
	case "kernel":
		return "handed back to the kernel as it came"
	case "direct":
		return "out of an interface of the box"
	case "host":
		return "to tunlb's own stack"
	case "carried":
		return "carried by the kernel"
	case "held":
		return "held until its next hop's MAC is known"
	case "parked":
		return "held until its first fragment comes"
	case "neighbour":
		return "taken in as a neighbour's word"
	case "switch":
		return "switched to another port"
	}
	return r.Exit
}

// oneLine is text without what would break a line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}

// segmentWords stand in front of the length of the segments that a super-packet stands for: no field of the file
// would say it, and without it the packet could not be replayed.
const segmentWords = "; stands for segments of "

// segmentOf reads that length back; 0 if the comment says nothing of it.
func segmentOf(comment string) int {
	_, rest, ok := strings.Cut(comment, segmentWords)
	digits, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil {
		return 0
	}
	return int(n)
}
