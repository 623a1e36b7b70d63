package flow

import (
	"fmt"
	"strings"
)

// State is a flow's state: those of IPVS for TCP, and one each for what has none. The zero value is
// StateNone, that of a TCP flow before its first packet.
type State uint8

const (
	StateNone State = iota
	StateEstablished
	StateSynSent
	StateSynRecv
	StateFinWait
	StateTimeWait
	StateClose
	StateCloseWait
	StateLastAck
	StateListen
	StateSynAck
	StateUDP // also of protocols that tunlb knows nothing of
	StateICMP

	stateCount = iota
	tcpStates  = int(StateSynAck) + 1
)

// String is the name that ipvsadm prints.
func (s State) String() string {
	if int(s) >= stateCount {
		return fmt.Sprintf("STATE-%d", uint8(s))
	}
	return [stateCount]string{
		"NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
		"LAST_ACK", "LISTEN", "SYNACK", "UDP", "ICMP",
	}[s]
}

// event is what a segment is to the state machine: RST before SYN before FIN before ACK.
type event uint8

const (
	eventSyn event = iota
	eventFin
	eventAck
	eventRst
	eventNone // a segment with none of these flags

	events = int(eventNone)
)

// vantage is whose segment it is, and whose are seen at all.
type vantage uint8

const (
	input     vantage = iota // the client's
	output                   // the server's
	inputOnly                // the client's, and the server's do not pass here

	vantages = iota
)

// tcpTable is the state table of IPVS, kernel 6.12, in its own notation: the new state by sender and
// event (rows) and old state (columns).
const tcpTable = `
               NO ES SS SR FW TW CL CW LA LI SA
INPUT      syn SR ES ES SR SR SR SR SR SR SR SR
INPUT      fin CL CW SS TW TW TW CL CW LA LI TW
INPUT      ack CL ES SS ES FW TW CL CW CL LI ES
INPUT      rst CL CL CL SR CL CL CL CL LA LI SR
OUTPUT     syn SS ES SS SR SS SS SS SS SS LI SR
OUTPUT     fin TW FW SS TW FW TW CL TW LA LI TW
OUTPUT     ack ES ES SS ES FW TW CL CW LA ES ES
OUTPUT     rst CL CL SS CL CL TW CL CL CL CL CL
INPUT-ONLY syn SR ES ES SR SR SR SR SR SR SR SR
INPUT-ONLY fin CL FW SS TW FW TW CL CW LA LI TW
INPUT-ONLY ack CL ES SS ES FW TW CL CW CL LI ES
INPUT-ONLY rst CL CL CL SR CL CL CL CL LA LI CL
`

type transitions [vantages][events][tcpStates]State

// tcp is tcpTable, parsed; nothing writes to it.
var tcp = parseTransitions(tcpTable)

func parseTransitions(text string) (t transitions) {
	vantageOf := map[string]vantage{"INPUT": input, "OUTPUT": output, "INPUT-ONLY": inputOnly}
	eventOf := map[string]event{"syn": eventSyn, "fin": eventFin, "ack": eventAck, "rst": eventRst}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	stateOf := map[string]State{}
	for i, name := range strings.Fields(lines[0]) {
		stateOf[name] = State(i)
	}
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		for from, name := range row[2:] {
			t[vantageOf[row[0]]][eventOf[row[1]]][from] = stateOf[name]
		}
	}
	return t
}
