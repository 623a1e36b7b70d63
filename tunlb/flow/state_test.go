package flow

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

func TestTransitionsAreIPVS(t *testing.T) {
	file, err := os.Open("testdata/tcp-states.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	short := strings.Fields("NO ES SS SR FW TW CL CW LA LI SA")
	senders := []string{"INPUT", "OUTPUT", "INPUT-ONLY"}
	flags := map[string]uint8{
		// A stronger event hides the weaker ones.
		"syn": packet.TCPSyn | packet.TCPFin | packet.TCPAck,
		"fin": packet.TCPFin | packet.TCPAck,
		"ack": packet.TCPAck | packet.TCPPsh,
		"rst": packet.TCPRst | packet.TCPSyn | packet.TCPFin | packet.TCPAck,
	}
	checked := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if words[0] == "#" || words[0][0] == '(' {
			continue
		}
		sender := -1
		for i, name := range senders {
			if words[0] == name {
				sender = i
			}
		}
		for words = words[1:]; len(words) > 0; words = words[12:] {
			ev := eventOf(flags[words[0]])
			for from, want := range words[1:12] {
				checked++
				if got := short[tcp[sender][ev][from]]; got != want {
					t.Errorf("%s %s in %s: %s, want %s", senders[sender], words[0], short[from], got, want)
				}
			}
		}
	}
	if checked != 3*4*11 {
		t.Errorf("checked %d transitions, want all 132", checked)
	}
}

// segment is one TCP segment of a conversation, and the state and timeout in seconds after it.
type segment struct {
	d        Direction
	flags    uint8
	seq, ack uint32
	payload  int
	state    State
	expires  int
}

const (
	syn    = packet.TCPSyn
	synAck = packet.TCPSyn | packet.TCPAck
	ack    = packet.TCPAck
	finAck = packet.TCPFin | packet.TCPAck
	rst    = packet.TCPRst
	rstAck = packet.TCPRst | packet.TCPAck
)

// handshake leads to ESTABLISHED with the client at 1001 and the server at 5001.
var handshake = []segment{
	{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
	{Reverse, synAck, 5000, 1001, 0, StateSynRecv, 60},
	{Forward, ack, 1001, 5001, 0, StateEstablished, 900},
}

func TestConversations(t *testing.T) {
	for _, c := range []struct {
		name      string
		setup     func(*Flow)
		handshake bool
		segments  []segment
	}{
		{"client closes first", nil, true, []segment{
			{Forward, finAck, 1001, 5001, 0, StateCloseWait, 60},
			{Reverse, ack, 5001, 1002, 0, StateCloseWait, 60},
			{Reverse, finAck, 5001, 1002, 0, StateTimeWait, 120},
			{Forward, ack, 1002, 5002, 0, StateTimeWait, 120},
		}},
		{"server closes first", nil, true, []segment{
			{Reverse, finAck, 5001, 1001, 0, StateFinWait, 120},
			{Forward, ack, 1001, 5002, 0, StateFinWait, 120},
			{Forward, finAck, 1001, 5002, 0, StateTimeWait, 120},
		}},
		{"one way", (*Flow).SetOneWay, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Forward, ack, 1001, 5001, 0, StateEstablished, 900},
			{Forward, ack, 1001, 5001, 300, StateEstablished, 900},
			{Forward, finAck, 1301, 9001, 0, StateFinWait, 120},
			{Forward, ack, 1302, 9002, 0, StateFinWait, 120},
		}},
		{"one way, reset", (*Flow).SetOneWay, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Forward, ack, 1001, 5001, 100, StateEstablished, 900},
			{Forward, rst, 1000, 0, 0, StateEstablished, 900},
			{Forward, rst, 1101, 0, 0, StateClose, 10},
		}},
		{"refused", nil, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Reverse, rstAck, 0, 1001, 0, StateClose, 10},
		}},
		{"refused, by guess", nil, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Reverse, rstAck, 0, 1002, 0, StateSynRecv, 60},
			{Reverse, rst, 0, 0, 0, StateSynRecv, 60},
		}},
		{"fast open, refused without its data", nil, false, []segment{
			{Forward, syn, 1000, 0, 1200, StateSynRecv, 60},
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Reverse, rstAck, 0, 1001, 0, StateClose, 10},
		}},
		{"fast open", nil, false, []segment{
			{Forward, syn, 1000, 0, 1200, StateSynRecv, 60},
			{Reverse, synAck, 5000, 2201, 0, StateSynRecv, 60},
			{Reverse, ack, 5001, 2201, 1400, StateEstablished, 60},
			{Forward, ack, 2201, 5001, 0, StateEstablished, 900},
		}},
		{"SYN and forged ACK", nil, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Forward, ack, 1001, 77777, 0, StateEstablished, 60}, // as in IPVS, but not for 900 s
			{Reverse, synAck, 5000, 1001, 0, StateEstablished, 60},
			{Forward, ack, 1001, 77777, 0, StateEstablished, 60},
			{Forward, ack, 1001, 5001, 0, StateEstablished, 900},
		}},
		{"other SYN before the server answers", nil, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Forward, syn, 900_000_000, 0, 0, StateSynRecv, 60},
			{Reverse, synAck, 5000, 900_000_001, 0, StateSynRecv, 60},
			{Forward, ack, 900_000_001, 5001, 0, StateEstablished, 900},
		}},
		{"other SYN with a lower number", nil, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 60},
			{Forward, syn, 3_000_000_000, 0, 0, StateSynRecv, 60},
			{Reverse, synAck, 5000, 3_000_000_001, 0, StateSynRecv, 60},
			{Forward, ack, 3_000_000_001, 5001, 0, StateEstablished, 900},
		}},
		{"gateway", (*Flow).SetGateway, false, []segment{
			{Forward, syn, 1000, 0, 0, StateSynRecv, 240},
			{Reverse, synAck, 5000, 1001, 0, StateSynRecv, 240},
			{Forward, ack, 1001, 5001, 0, StateEstablished, 7440},
			{Forward, finAck, 1001, 5001, 0, StateCloseWait, 240},
		}},
		{"SYN in ESTABLISHED", nil, true, []segment{
			{Forward, syn, 3_000_000_000, 0, 0, StateEstablished, 900},
			{Reverse, synAck, 3_000_000_000, 1001, 0, StateEstablished, 900},
			{Forward, rst, 3_000_000_001, 0, 0, StateEstablished, 900}, // and has not moved what RSTs are judged by
			{Forward, finAck, 1001, 5001, 0, StateCloseWait, 60},
		}},
		{"blind FIN", nil, true, []segment{
			{Forward, finAck, 3_000_000_000, 5001, 0, StateEstablished, 900},
			{Forward, finAck, 1001, 3_000_000_000, 0, StateEstablished, 900},
			{Reverse, finAck, 3_000_000_000, 1001, 0, StateEstablished, 900},
		}},
		{"no event", nil, true, []segment{
			{Forward, packet.TCPPsh, 1001, 0, 0, StateEstablished, 900},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := New(Options{})
			f := mustInsert(t, table, families[0].outer, families[0].inner, 0)
			if c.setup != nil {
				c.setup(f)
			}
			if c.handshake {
				converse(t, table, f, handshake)
			}
			converse(t, table, f, c.segments)
			checkTable(t, table)
		})
	}
}

func converse(t *testing.T, table *Table, f *Flow, segments []segment) {
	t.Helper()
	for i, s := range segments {
		old := f.State()
		got := table.Track(f, s.d, tcpView(s.flags, s.seq, s.ack, s.payload), 0)
		if got.New != s.state || got.New != f.State() || got.Old != old {
			t.Fatalf("segment %d %v %+v: %v", i, s.d, s, got)
		}
		if expires := int(table.Snapshot(f, 0).Expires.Seconds()); expires != s.expires {
			t.Fatalf("segment %d %+v: expires in %d", i, s, expires)
		}
	}
}

func TestActive(t *testing.T) {
	for s := range State(stateCount) {
		f := Flow{state: s}
		if got, want := f.Active(), s == StateEstablished || s == StateSynRecv; got != want {
			t.Errorf("%v: active %v", s, got)
		}
	}
}

func TestReusedBy(t *testing.T) {
	for _, c := range []struct {
		state  State
		d      Direction
		flags  uint8
		oneWay bool
		want   bool
	}{
		{StateTimeWait, Forward, syn, false, true},
		{StateClose, Forward, syn, false, true},
		{StateLastAck, Forward, syn, false, true},
		{StateFinWait, Forward, syn, true, true},
		{StateFinWait, Forward, syn, false, false},
		{StateCloseWait, Forward, syn, false, false},
		{StateEstablished, Forward, syn, false, false},
		{StateSynRecv, Forward, syn, false, false},
		{StateTimeWait, Reverse, syn, false, false},
		{StateTimeWait, Forward, synAck, false, false},
		{StateTimeWait, Forward, ack, false, false},
		{StateTimeWait, Forward, rst, false, false},
	} {
		f := Flow{proto: packet.ProtoTCP, state: c.state}
		if c.oneWay {
			f.SetOneWay()
		}
		if got := f.ReusedBy(c.d, tcpView(c.flags, 1, 0, 0), 2000); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	udp := Flow{proto: packet.ProtoUDP, state: StateUDP}
	if udp.ReusedBy(Forward, udpView(0), 2000) {
		t.Error("a datagram opens no connection anew")
	}
}

func TestAssured(t *testing.T) {
	table := New(Options{})
	f := mustInsert(t, table, families[0].outer, families[0].inner, 0)
	for i, s := range append(handshake, segment{Forward, finAck, 1001, 5001, 0, StateCloseWait, 60},
		segment{Reverse, finAck, 5001, 1002, 0, StateTimeWait, 120}) {
		table.Track(f, s.d, tcpView(s.flags, s.seq, s.ack, s.payload), 0)
		if want := s.state == StateEstablished || s.state == StateCloseWait; f.Assured() != want {
			t.Errorf("segment %d: assured %v in %v", i, f.Assured(), s.state)
		}
	}
	outer := tuple(packet.ProtoUDP, "198.51.100.7:40000", "203.0.113.22:53")
	inner := tuple(packet.ProtoUDP, "198.51.100.7:40000", "192.168.0.10:53")
	u := mustInsert(t, table, outer, inner, 0)
	for range 3 {
		table.Track(u, Forward, udpView(10), 0)
	}
	if u.Assured() {
		t.Error("assured without an answer")
	}
	table.Track(u, Reverse, udpView(10), 0)
	if u.Assured() {
		t.Error("assured by one answer")
	}
	table.Track(u, Forward, udpView(10), 0)
	if !u.Assured() {
		t.Error("not assured by what the client sent after an answer")
	}
	checkTable(t, table)
}
