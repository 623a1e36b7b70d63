package flow

import "time"

// Timeouts are how long a flow of each state lives without a packet. Zero fields take the default, so
// the zero value is useful. It is a plain, comparable value. None may exceed MaxTimeout.
type Timeouts struct {
	// TCP, by state.
	None, Established, SynSent, SynRecv, FinWait, TimeWait time.Duration
	Close, CloseWait, LastAck, Listen, SynAck              time.Duration

	UDP, ICMP time.Duration

	// The gateway's flows: TCP while established, and in any other state.
	GatewayEstablished, GatewayTransitory time.Duration
}

// MaxTimeout is the longest timeout that a Tick can express with room to spare. Longer ones are cut.
const MaxTimeout = 7 * 24 * time.Hour

// withDefaults fills in those of IPVS (kernel 6.12), and for the gateway the least that RFC 5382 (REQ-5)
// and RFC 5508 (REQ-1: 60 s) allow.
func (o Timeouts) withDefaults() Timeouts {
	for _, f := range []struct {
		field   *time.Duration
		seconds time.Duration
	}{
		{&o.None, 2}, {&o.Established, 900}, {&o.SynSent, 120}, {&o.SynRecv, 60}, {&o.FinWait, 120},
		{&o.TimeWait, 120}, {&o.Close, 10}, {&o.CloseWait, 60}, {&o.LastAck, 30}, {&o.Listen, 120},
		{&o.SynAck, 120}, {&o.UDP, 300}, {&o.ICMP, 60},
		{&o.GatewayEstablished, 7440}, {&o.GatewayTransitory, 240},
	} {
		if *f.field <= 0 {
			*f.field = f.seconds * time.Second
		}
		*f.field = min(*f.field, MaxTimeout)
	}
	return o
}

// timeoutTable is a class's timeouts by state.
type timeoutTable [stateCount]Tick

// Classes of timeouts: flows of services have the general ones, or a class that SetClass has made.
const (
	classGeneral uint8 = iota
	classGateway
	FirstClass // the first that SetClass may be called with
)

func (o Timeouts) table() timeoutTable {
	o = o.withDefaults()
	return timeoutTable{
		ticks(o.None), ticks(o.Established), ticks(o.SynSent), ticks(o.SynRecv), ticks(o.FinWait), ticks(o.TimeWait),
		ticks(o.Close), ticks(o.CloseWait), ticks(o.LastAck), ticks(o.Listen), ticks(o.SynAck), ticks(o.UDP), ticks(o.ICMP),
	}
}

// gatewayTable is the gateway's.
func (o Timeouts) gatewayTable() timeoutTable {
	t := o.table()
	o = o.withDefaults()
	for s := range tcpStates {
		t[s] = ticks(o.GatewayTransitory)
	}
	t[StateEstablished] = ticks(o.GatewayEstablished)
	return t
}

// ticks rounds up: a flow never ends early.
func ticks(d time.Duration) Tick { return Tick((d + time.Millisecond - 1) / time.Millisecond) }

// SetTimeouts puts others into force, for the general flows and the gateway's. A flow that waits for a
// longer one already is looked at when that is over, or with its next change of state.
func (t *Table) SetTimeouts(o Timeouts) {
	t.timeouts[classGeneral], t.timeouts[classGateway] = o.table(), o.gatewayTable()
}

// SetClass makes a class of timeouts, from FirstClass on, or changes it for its flows as SetTimeouts does.
func (t *Table) SetClass(class uint8, o Timeouts) { t.timeouts[class] = o.table() }

// timeout is the time that f may be silent for. An established connection whose client has not shown
// that it hears the server (a SYN and a forged ACK) gets no more than SYN_RECV does. One that was closed by a RST
// which could not be judged has longer to show that it lives.
func (t *Table) timeout(f *Flow) Tick {
	s := f.state
	switch {
	case s == StateEstablished && !f.is(assured):
		s = StateSynRecv
	case s == StateClose && f.is(doubtful):
		s = StateCloseWait
	}
	return t.timeouts[f.Class()][s]
}

// deadline is when f is over unless a packet comes.
func (t *Table) deadline(f *Flow) Tick { return f.seen + t.timeout(f) }
