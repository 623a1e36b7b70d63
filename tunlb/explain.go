package tunlb

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/flow"
)

// ErrQuestion says that a question makes no sense.
var ErrQuestion = errors.New("invalid question")

// MaxSupposed is how many servers a question may name in Without and Weights together.
const MaxSupposed = 1024

// Question is what Explain is asked: which server a new packet from Client to VIP would get. A plain value.
type Question struct {
	Client   netip.AddrPort `json:"client"` // port 0: any
	VIP      netip.AddrPort `json:"vip"`
	Protocol string         `json:"protocol"`          // tcp or udp
	Without  []string       `json:"without,omitempty"` // servers that are taken for removed
	Weights  map[string]int `json:"weights,omitempty"` // of servers, instead of theirs
}

// Explanation is the answer: which server a new connection would get. A plain value.
type Explanation struct {
	policy.Explanation
	// Flow is the connection that there is already, which decides alone unless FlowEnds; nil: a new one would be opened.
	Flow *Conn `json:"flow,omitempty"`
	// FlowEnds says that Flow is forgotten with the client's next packet, for which a new one would be opened.
	FlowEnds bool `json:"flow_ends,omitempty"`
	// Dropped is the reason for which a new connection's packets would be dropped, whatever server is picked.
	Dropped string `json:"dropped,omitempty"`
	// Source is what the server would see as the client, and SourceWhy why; valid iff it would be translated.
	Source    netip.Addr `json:"source,omitzero"`
	SourceWhy string     `json:"source_why,omitempty"`
	Mode      string     `json:"mode,omitempty"` // the server's
	// Before is how it is; nil iff the question supposes nothing else.
	Before *policy.Explanation `json:"before,omitempty"`
	// Notes are what else there is to know, a sentence each.
	Notes []string `json:"notes,omitempty"`
}

func (x *Explanation) note(format string, args ...any) {
	x.Notes = append(x.Notes, fmt.Sprintf(format, args...))
}

// drop says that the packets would be dropped. The first reason is the one for which they are.
func (x *Explanation) drop(r packet.Reason, format string, args ...any) {
	if x.Dropped == "" {
		x.Dropped = r.String()
		x.note(format+": packets are dropped (%s)", append(args, r)...)
	}
}

// Check says whether the question makes sense. It fails with ErrQuestion, if more than MaxSupposed servers are named,
// too.
func (q *Question) Check() error {
	_, err := q.tuple()
	return err
}

// supposes says whether the question supposes anything.
func (q *Question) supposes() bool { return len(q.Without) > 0 || len(q.Weights) > 0 }

// tuple is what the client's packet has.
func (q *Question) tuple() (tu packet.Tuple, err error) {
	proto, ok := policy.ParseProto(q.Protocol)
	client, vip := netip.AddrPortFrom(q.Client.Addr().Unmap(), q.Client.Port()), netip.AddrPortFrom(q.VIP.Addr().Unmap(), q.VIP.Port())
	both := slices.IndexFunc(q.Without, func(server string) bool { _, weighed := q.Weights[server]; return weighed })
	switch n := len(q.Without) + len(q.Weights); {
	case n > MaxSupposed:
		return tu, fmt.Errorf("%w: %d servers to be without or to weigh otherwise: want %d at most", ErrQuestion, n, MaxSupposed)
	case both >= 0:
		return tu, fmt.Errorf("%w: %q is to be left out, and to have a weight: drop one of the two", ErrQuestion, q.Without[both])
	case !ok:
		return tu, fmt.Errorf("%w: protocol %q: want tcp or udp", ErrQuestion, q.Protocol)
	case !client.Addr().IsValid():
		return tu, fmt.Errorf("%w: the client is missing: want an address and a port, like 198.51.100.7:40000", ErrQuestion)
	case !vip.Addr().IsValid() || vip.Port() == 0:
		return tu, fmt.Errorf("%w: VIP %s: want an address and a port, like 203.0.113.22:80", ErrQuestion, vip)
	case client.Addr().Is4() != vip.Addr().Is4():
		return tu, fmt.Errorf("%w: client %s and VIP %s are not of one family", ErrQuestion, client.Addr(), vip.Addr())
	}
	return packet.TupleOf(proto, client, vip), nil
}

// Explain says which server a client would get, and why. It changes nothing. It has the lock for as long as it takes to
// copy one service, half a millisecond with 1000 servers, and does the rest, up to 5 ms then, without. It fails with
// ErrQuestion, ErrNoService or ErrNoServer.
func (e *Engine) Explain(q Question) (Explanation, error) {
	tu, err := q.tuple()
	if err != nil {
		return Explanation{}, err
	}
	e.mu.Lock()
	client := e.clientOf(&tu)
	p, err := snapshot(e.roster, e.services, client)
	e.mu.Unlock()
	if err != nil {
		return Explanation{}, err
	}
	x, err := explain(p, client, q)
	if err != nil {
		return Explanation{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.explainFlowLocked(&x, &tu)
	e.explainWayLocked(&x, serverNamed(p.Service(), x.Server), &tu)
	return x, nil
}

// ExplainConfig is Explain for services that nobody runs yet: cursors are at their beginning, there is no connection,
// and all health checks have succeeded.
func ExplainConfig(services []policy.Spec, q Question) (Explanation, error) {
	tu, err := q.tuple()
	if err != nil {
		return Explanation{}, err
	}
	roster := policy.NewRoster()
	if err := roster.Configure(services, 0); err != nil {
		return Explanation{}, err
	}
	checks := false
	for _, s := range services {
		for _, server := range s.Servers {
			checks = roster.Observe(policy.Result{Service: s.Name, Server: server.Address, OK: true}, 0) || checks
		}
	}
	table, err := policy.Build(roster.Compose(0), nil)
	if err != nil {
		return Explanation{}, err
	}
	roster.Mark(table)
	client := policy.Client{Src: tu.Src, SrcPort: tu.SrcPort, Dst: tu.Dst, DstPort: tu.DstPort, Proto: tu.Proto}
	p, err := snapshot(roster, table, client)
	if err != nil {
		return Explanation{}, err
	}
	x, err := explain(p, client, q)
	if err == nil {
		x.note("asked of a file: nothing is connected yet, and no cursor has moved")
		if checks {
			x.note("all health checks are taken as passed")
		}
	}
	return x, err
}

// snapshot copies the service that a client asks for.
func snapshot(roster *policy.Roster, table *policy.Table, client policy.Client) (*policy.Snapshot, error) {
	svc := table.Service(client.Proto, client.Dst, client.DstPort)
	if svc == nil {
		return nil, noService(table, netip.AddrPortFrom(packet.Addr(client.Dst), client.DstPort), client.Proto)
	}
	return roster.Snapshot(table, svc, client)
}

// explain is what services and roster say. Afterwards the snapshot is what the question supposes.
func explain(p *policy.Snapshot, client policy.Client, q Question) (x Explanation, err error) {
	x.Explanation = p.Explain()
	if q.supposes() {
		before := x.Explanation
		x.Before = &before
		switch err := p.Suppose(q.Without, q.Weights); {
		case errors.Is(err, ErrNoServer):
			return Explanation{}, err
		case err != nil: // a weight out of range, say
			return Explanation{}, fmt.Errorf("%w: %w", ErrQuestion, err)
		}
		x.Explanation = p.Explain()
	}
	svc := p.Service()
	if spec := serverNamed(svc, x.Server); spec != nil {
		x.Mode = spec.Mode.String()
		if spec.Mode == policy.Tunnelled {
			x.note("mode tunnel is held for ipvsadm and not served: packets for %s are dropped", spec.Name)
		}
	}
	if client.Proto == policy.SCTP {
		x.note("SCTP is held for ipvsadm and not served: its packets are not balanced")
	}
	if svc.OnePacket {
		x.note("every datagram is scheduled by itself (one-packet scheduling)")
	}
	if client.SrcPort == 0 && svc.Flags&policy.HashPort != 0 && (svc.Scheduler == "sh" || svc.Scheduler == "mh") {
		x.note("%s hashes the client's port here, and none was given: name it for the right answer, like %s", svc.Scheduler,
			netip.AddrPortFrom(packet.Addr(client.Src), 40000))
	}
	return x, nil
}

// serverNamed finds a server of a service by its name, that of last resort as well; nil if there is none.
func serverNamed(svc *policy.Service, name string) *policy.ServerSpec {
	for _, srv := range svc.Servers {
		if srv.Name == name {
			return &srv.ServerSpec
		}
	}
	if svc.Sorry != nil && svc.Sorry.Name == name {
		return svc.Sorry
	}
	return nil
}

// noService says that nothing listens at a place, and what there is instead: on the same VIP, or anywhere.
func noService(table *policy.Table, vip netip.AddrPort, proto uint8) error {
	var near, all, marked, servers []string
	for _, s := range table.Services() {
		for _, l := range s.Listen {
			text := fmt.Sprintf("%s (%s)", l, s.Name)
			if all = append(all, text); l.Addr == vip.Addr() {
				near = append(near, text)
			}
		}
		if s.Mark.Value != 0 {
			marked = append(marked, fmt.Sprintf("mark %d (%s)", s.Mark.Value, s.Name))
		}
		for _, srv := range s.Servers {
			if srv.Address.Addr() == vip.Addr() {
				servers = append(servers, fmt.Sprintf("%s of %s", srv.Name, s.Name))
			}
		}
	}
	text := fmt.Sprintf("nothing listens on %s/%s", vip, policy.ProtoName(proto))
	switch {
	case len(near) > 0:
		text += "; on that VIP there is " + several(near)
	case len(servers) > 0:
		text += ", which is the server " + several(servers) + "; there is " + several(all)
	case len(all) > 0:
		text += "; there is " + several(all)
	default:
		text += ", nor anywhere else"
	}
	if len(marked) > 0 {
		text += "; services by firewall mark have no VIP, and are held for ipvsadm and not served: " + several(marked)
	}
	return fmt.Errorf("%w: %s", ErrNoService, text)
}

// several lists things for people.
func several(things []string) string {
	const most = 10
	if more := len(things) - most; more > 0 {
		things = append(things[:most:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(things, ", ")
}

// explainFlowLocked looks for the connection that there is already, and at what its next packet does to it: one that
// opens it, which is what a question is about.
func (e *Engine) explainFlowLocked(x *Explanation, tu *packet.Tuple) {
	f, d := e.flows.Find(tu)
	if f == nil || d != flow.Forward {
		return
	}
	conn := e.connLocked(f, e.tick())
	x.Flow = &conn
	srv := e.services.Server(f.Server())
	why := ""
	switch fateOf(f, srv, d, &packet.View{Tuple: *tu, TCPFlags: packet.TCPSyn}, e.tick()) {
	case isOver:
		x.FlowEnds = true
		x.note("the connection has ended: a new one by the same port is scheduled anew")
		return
	case isSilent:
		why = srv.Name + " does not answer"
	case hasLostServer:
		why = "its server is gone"
		if srv != nil {
			why = fmt.Sprintf("%s is no longer a server of %s", srv.Name, srv.Service.Name)
		}
	default:
		return
	}
	x.FlowEnds = true
	switch {
	case tu.Proto != packet.ProtoTCP:
		x.note("%s: the client's next datagram is scheduled anew", why)
	case f.Assured():
		x.note("%s: the connection is reset with the client's next segment, and another SYN is scheduled anew", why)
	default:
		x.note("%s: the client's next SYN is scheduled anew", why)
	}
}

// arrives is why a client's packet is dropped before anything is looked for, as handle and open would find; None: it
// is not.
func (l *lane) arrives(w *world, tu *packet.Tuple) packet.Reason {
	whole := *tu
	whole.Proto = packet.ProtoTCP // what is looked at is the same in all that have ports
	var v packet.View
	if r := v.Parse(packet.AppendReset(nil, &whole, 0, 0)); r != packet.None {
		return r
	}
	return l.admits(w, tu)
}

// explainWayLocked follows a new connection's packets to the server, as open does; spec is nil where nobody is picked.
func (e *Engine) explainWayLocked(x *Explanation, spec *policy.ServerSpec, tu *packet.Tuple) {
	w := e.world.Load()
	l := e.laneOf(w, tu.Src)
	if l == nil {
		x.drop(packet.MartianSource, "no port leads to %s", packet.Addr(tu.Src))
		return
	}
	if r := l.arrives(w, tu); r != packet.None {
		x.drop(r, "nobody may send from %s to %s by port %s", packet.Addr(tu.Src), packet.Addr(tu.Dst), l.Port.Name())
		return
	}
	if spec == nil {
		return
	}
	srv := &policy.Server{ServerSpec: *spec}
	server := srv.Address.Addr().As16()
	out, r := l.exitTo(w, srv, server)
	if r != packet.None {
		x.drop(r, "no way leads to %s", srv.Name)
		return
	}
	if srv.Mode == policy.DR {
		return
	}
	v := packet.View{Tuple: *tu}
	inner := plan(srv, *tu, netip.Addr{})
	answer := inner.Reverse()
	known, _ := e.flows.Find(&answer)
	switch {
	case srv.Mode == policy.FullNAT:
		x.SourceWhy = "mode fullnat translates every source"
	case l.translates(w, srv, out, &v):
		x.SourceWhy = "its answers to the client would not come back through tunlb: " + w.wouldBypass(l, e.lanes[out], tu.Src, server)
	case known != nil && x.Flow == nil && tu.SrcPort != 0:
		x.SourceWhy = fmt.Sprintf("another connection from %s to %s is known by the server already", tu.Source(), inner.Destination())
	default:
		return
	}
	if x.Source = e.lanes[out].source(w, server, tu.Dst); !x.Source.IsValid() {
		x.drop(packet.NoSource, "tunlb has no address of its own to speak to %s from", srv.Name)
	}
}

// laneOf is where a client's packets come in; nil if nowhere.
func (e *Engine) laneOf(w *world, client [16]byte) *lane {
	if port, ok := w.route(client); ok {
		return e.lanes[port]
	}
	if len(e.segments) > 0 { // a segment may lead anywhere: see livesBehind
		return e.segments[0].ports[0]
	}
	return nil
}
