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

// timeoutTable is Timeouts by state; [1] is for the gateway's flows.
type timeoutTable [2][stateCount]Tick

func (o Timeouts) table() (t timeoutTable) {
	o = o.withDefaults()
	own := [stateCount]time.Duration{
		o.None, o.Established, o.SynSent, o.SynRecv, o.FinWait, o.TimeWait, o.Close, o.CloseWait,
		o.LastAck, o.Listen, o.SynAck, o.UDP, o.ICMP,
	}
	for s, d := range own {
		t[0][s], t[1][s] = ticks(d), ticks(d)
	}
	for s := range tcpStates {
		t[1][s] = ticks(o.GatewayTransitory)
	}
	t[1][StateEstablished] = ticks(o.GatewayEstablished)
	return t
}

// ticks rounds up: a flow never ends early.
func ticks(d time.Duration) Tick { return Tick((d + time.Millisecond - 1) / time.Millisecond) }

// SetTimeouts puts others into force. A flow that waits for a longer one already is looked at when
// that is over, or with its next change of state.
func (t *Table) SetTimeouts(o Timeouts) { t.timeouts = o.table() }

// timeout is the time that f may be silent for. An established connection whose client has not shown
// that it hears the server (a SYN and a forged ACK) gets no more than SYN_RECV does.
func (t *Table) timeout(f *Flow) Tick {
	class, s := 0, f.state
	if f.is(gateway) {
		class = 1
	}
	if s == StateEstablished && !f.is(assured) {
		s = StateSynRecv
	}
	return t.timeouts[class][s]
}

// deadline is when f is over unless a packet comes.
func (t *Table) deadline(f *Flow) Tick { return f.seen + t.timeout(f) }
