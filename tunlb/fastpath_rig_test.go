package tunlb

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// memoryPath is a Fastpath that carries in memory.
type memoryPath struct {
	mu      sync.Mutex
	conns   map[packet.Tuple]*memoryConn
	refuse  func(Carried) error // nil: nobody is refused
	between func()              // called in the middle of Carry
	broken  error               // what Release and Usage answer
	carried []Carried           // all that Carry was asked for, in order
	changes chan struct{}
	ends    chan []End
	now     func() time.Duration
}

type memoryConn struct {
	Carried
	packets, bytes [2]uint64
	last           time.Duration // when the last packet was
	stale          bool
}

func newMemoryPath() *memoryPath {
	return &memoryPath{conns: map[packet.Tuple]*memoryConn{}, changes: make(chan struct{}, 1), ends: make(chan []End)}
}

func (p *memoryPath) Carry(conns []Carried) []error {
	if p.between != nil {
		p.between()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	errs := make([]error, len(conns))
	for i, c := range conns {
		p.carried = append(p.carried, c)
		if p.refuse != nil {
			if errs[i] = p.refuse(c); errs[i] != nil {
				continue
			}
		}
		if p.conns[c.Outer] != nil {
			errs[i] = fmt.Errorf("%v is carried already", c.Outer)
			continue
		}
		p.conns[c.Outer] = &memoryConn{Carried: c, last: p.now()}
	}
	return errs
}

func (p *memoryPath) Release(conns []Carried, last func(Usage)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	for _, c := range conns {
		if conn := p.conns[c.Outer]; conn != nil && conn.Inner == c.Inner {
			p.visit(conn, last)
			delete(p.conns, c.Outer)
		}
	}
	return nil
}

func (p *memoryPath) Usage(visit func(Usage)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	for _, conn := range p.conns {
		p.visit(conn, visit)
	}
	return nil
}

func (p *memoryPath) visit(c *memoryConn, visit func(Usage)) {
	for _, d := range []flow.Direction{flow.Forward, flow.Reverse} {
		visit(Usage{Outer: c.Outer, Direction: d, Packets: c.packets[d], Bytes: c.bytes[d], Idle: p.now() - c.last, Stale: c.stale})
	}
}

func (p *memoryPath) Ends() <-chan []End { return p.ends }

func (p *memoryPath) Changes() <-chan struct{} { return p.changes }

// pass has the kernel carry packets of the only connection.
func (p *memoryPath) pass(d flow.Direction, packets, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.packets[d] += packets
		c.bytes[d] += bytes
		c.last = p.now()
	}
}

func (p *memoryPath) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// fastRig is a box with a fast path that the test steps itself.
type fastRig struct {
	*rig
	path *memoryPath
	c    *carrier
	family
}

func newFast(t *testing.T, f family, edit ...func(*Options, *Config)) *fastRig {
	path := newMemoryPath()
	edits := append([]func(*Options, *Config){func(o *Options, c *Config) {
		o.Fastpath = path
		o.MaxFlows = 3 * maxHalfOpen
		for i := range c.Services {
			c.Services[i].Fastpath = true
		}
	}}, edit...)
	r := newBox(t, edits...)
	path.now = func() time.Duration { return r.now }
	return &fastRig{r, path, r.e.carrier, f}
}

// step does what the carrier's goroutine does until nothing waits.
func (r *fastRig) step() {
	r.c.hurry()
	for r.c.work() {
	}
}

// pass lets time go by, expiring what is due, with a reading every two seconds.
func (r *fastRig) pass(d time.Duration) {
	for end := r.now + d; r.now < end; {
		r.now += time.Second
		r.e.expire()
		if r.now/time.Second%2 == 0 {
			r.c.readAll()
			r.step()
		}
	}
}

// client and server send a segment; number is the client's port.
func (r *fastRig) fromClient(number uint16, opts ...pt.Option) {
	r.t.Helper()
	r.one(0, 0, pt.TCP(r.t, at(r.family.client, number), at(r.vip, 80), opts...))
}

func (r *fastRig) fromServer(number uint16, opts ...pt.Option) {
	r.t.Helper()
	r.one(0, 0, pt.TCP(r.t, at(r.serverOf(number), 8080), at(r.family.client, number), opts...))
}

func (r *fastRig) serverOf(number uint16) netip.Addr {
	r.t.Helper()
	if c, ok := r.conn(number); ok {
		return c.Server.Addr()
	}
	r.t.Fatalf("no connection from port %d", number)
	return netip.Addr{}
}

func (r *fastRig) conn(number uint16) (c Conn, ok bool) {
	r.e.Conns(ConnFilter{}, func(conn Conn) bool {
		if conn.Client.Port() == number {
			c, ok = conn, true
		}
		return !ok
	})
	return c, ok
}

// state says what has become of a connection: its state, and ", kernel" if that carries it.
func (r *fastRig) state(number uint16) string {
	c, ok := r.conn(number)
	switch {
	case !ok:
		return "none"
	case c.Fastpath:
		return c.State + ", kernel"
	}
	return c.State
}

func (r *fastRig) want(number uint16, want string, carried int) {
	r.t.Helper()
	if got := r.state(number); got != want || r.path.len() != carried {
		r.t.Fatalf("connection %d is %s, and the kernel carries %d; want %s and %d", number, got, r.path.len(), want, carried)
	}
}

// established opens a connection whose client is at 1001 and whose server is at 9001, and steps when that is done.
func (r *fastRig) established(number uint16) {
	r.t.Helper()
	r.fromClient(number, syn, pt.Seq(1000))
	r.fromServer(number, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Seq(9000), pt.Ack(1001))
	r.fromClient(number, ack(), pt.Seq(1001), pt.Ack(9001))
	r.step()
	r.want(number, "ESTABLISHED, kernel", r.path.len())
}

func (r *fastRig) fastpath() FastpathStatus { return *r.e.Status().Fastpath }

func fin() pt.Option { return pt.Flags(packet.TCPFin | packet.TCPAck) }
func rst() pt.Option { return pt.Flags(packet.TCPRst) }
