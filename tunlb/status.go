package tunlb

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// Status is what the engine is doing, as people and programs ask for it.
type Status struct {
	Services  []ServiceStatus   `json:"services"`
	Gateways  []GatewayStatus   `json:"gateways,omitempty"`
	Segments  []SegmentStatus   `json:"segments,omitempty"`
	Ports     []PortStatus      `json:"ports"`
	Flows     FlowStatus        `json:"flows"`
	Fragments FragmentStatus    `json:"fragments"`
	Drops     map[string]uint64 `json:"drops"` // by reason, those that happened
	// ICMPErrors counts the errors that tunlb itself has sent; those held back are drops with reason rate-limited.
	ICMPErrors uint64 `json:"icmp_errors"`
	// WatchLost counts the records of packets that whoever looks on was too slow to take.
	WatchLost uint64 `json:"watch_lost"`
	// Fastpath is of the connections that the kernel carries; nil: tunlb carries all itself.
	Fastpath *FastpathStatus `json:"fastpath,omitempty"`
}

// ServiceStatus is a virtual service and its servers.
type ServiceStatus struct {
	Name      string          `json:"name"`
	Listen    []policy.Listen `json:"listen"`
	Mode      string          `json:"mode"`
	Scheduler string          `json:"scheduler"`
	Owner     string          `json:"owner"` // of the VIP: "tunlb", or "box" where the kernel has the address
	Traffic   Traffic         `json:"traffic"`
	Servers   []ServerStatus  `json:"servers"`
	// UpWeight is the weight of the servers that are up, Quorum what it should be at least, Below that it is less.
	UpWeight int  `json:"up_weight"`
	Quorum   int  `json:"quorum"`
	Below    bool `json:"below_quorum,omitempty"`
	Fastpath bool `json:"fastpath,omitempty"` // its connections are handed over to the kernel
}

// Listens is the first place where the service listens, and how many others there are: the width is people's, and
// JSON has them all. Services by mark have none.
func (s *ServiceStatus) Listens() string {
	switch len(s.Listen) {
	case 0:
		return "-"
	case 1:
		return s.Listen[0].String()
	}
	return fmt.Sprintf("%s +%d", s.Listen[0], len(s.Listen)-1)
}

// ServerStatus is a real server.
type ServerStatus struct {
	Name     string         `json:"name"`
	Address  netip.AddrPort `json:"address"`
	Mode     string         `json:"mode"`
	Weight   int            `json:"weight"` // in force
	Active   int            `json:"active"`
	Inactive int            `json:"inactive"`
	Carried  int            `json:"carried,omitempty"` // of these, by the kernel
	Traffic  Traffic        `json:"traffic"`
	// Configured is the weight of the file, or of the operator who has changed it: what Weight is while
	// nothing stands against it.
	Configured int `json:"configured"`
	// Scale is what the weights of the whole service are multiplied by while one of them rises; 0: by nothing.
	Scale   int       `json:"scale,omitempty"`
	Health  string    `json:"health,omitempty"` // up, down or checking; "" iff nobody checks it
	Since   time.Time `json:"since,omitzero"`   // of Health
	Cause   string    `json:"cause,omitempty"`  // of Health: what the last check has said
	Drained bool      `json:"drained,omitempty"`
	Sorry   bool      `json:"sorry,omitempty"` // the server of last resort, which serves now
	// Overloaded says that it has Upper connections, and not yet fewer than Lower again.
	Overloaded bool `json:"overloaded,omitempty"`
	Upper      int  `json:"upper,omitempty"`
	Lower      int  `json:"lower,omitempty"`
	Persistent int  `json:"persistent,omitempty"` // templates that send clients here
	// Down is why the server takes no new connections, besides a weight of 0.
	Down string `json:"down,omitempty"`
	// Passing counts answers of a directly routed server that pass tunlb all the same: it is the
	// server's gateway.
	Passing uint64 `json:"passing,omitempty"`
}

// Traffic counts connections, packets as on the wire and bytes of IP; in is from the client.
type Traffic struct {
	Conns      uint64 `json:"conns"`
	InPackets  uint64 `json:"in_packets"`
	OutPackets uint64 `json:"out_packets"`
	InBytes    uint64 `json:"in_bytes"`
	OutBytes   uint64 `json:"out_bytes"`
}

// GatewayStatus is a masqueraded network.
type GatewayStatus struct {
	Inside     netip.Prefix `json:"inside"`
	Masquerade netip.Addr   `json:"masquerade"`
	Mappings   int          `json:"mappings"`
}

// PortStatus is a port and what passed it.
type PortStatus struct {
	Name      string       `json:"name"`
	NetNS     string       `json:"netns,omitempty"`
	MTU       int          `json:"mtu"`
	Side      string       `json:"side,omitempty"` // of the switch: clients or servers
	Box       bool         `json:"box,omitempty"`  // it is an interface of the box's own
	Own       []netip.Addr `json:"own,omitempty"`
	RxPackets uint64       `json:"rx_packets"`
	RxBytes   uint64       `json:"rx_bytes"`
	TxPackets uint64       `json:"tx_packets"`
	TxBytes   uint64       `json:"tx_bytes"`
	Segmented uint64       `json:"segmented,omitempty"` // super-packets cut in software: the kernel took them no other way
	Overruns  uint64       `json:"overruns,omitempty"`  // frames lost since a packet socket's queue was full
	Unfit     uint64       `json:"unfit,omitempty"`     // frames lost since they are longer than any packet may be
	// CPU is what the port's lane has used of its processor since the start; 0 where the system does not tell.
	CPU time.Duration `json:"cpu_ns,omitempty"`
}

// FlowStatus is the connection table's fill, and what has come and gone since the start.
type FlowStatus struct {
	Count   int    `json:"count"`
	Cap     int    `json:"cap"`
	Opened  uint64 `json:"opened"`
	Expired uint64 `json:"expired"` // without a packet for too long, or closed
	Evicted uint64 `json:"evicted"` // half-open ones that made room
	Deleted uint64 `json:"deleted"` // killed, or their server was gone
}

// FragmentStatus is of datagrams that are not complete yet.
type FragmentStatus struct {
	Datagrams int `json:"datagrams"`
	Parked    int `json:"parked_bytes"` // of fragments that wait for the first of theirs
}

// statusBatch bounds about how many servers are copied under the lock at a time.
const statusBatch = 256

// Status takes a snapshot. That of many services is taken in batches: each is right by itself, while packets pass
// between them.
func (e *Engine) Status() Status {
	stats, busy := make([]port.Stats, len(e.lanes)), make([]time.Duration, len(e.lanes))
	for i, l := range e.lanes {
		stats[i], busy[i] = port.StatsOf(l.Port), l.thread.busy() // may ask the kernel
	}
	if e.carrier != nil {
		e.carrier.refresh()
	}
	s := Status{Services: e.serviceStatuses(), Drops: e.Drops(), ICMPErrors: e.rejected.Load(), WatchLost: e.WatchLost()}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Fastpath = e.fastpathLocked()
	s.Flows, s.Fragments = e.flowStatusLocked(), FragmentStatus{Datagrams: len(e.fragments.byKey), Parked: e.fragments.parked}
	for i, g := range e.config.Gateways {
		s.Gateways = append(s.Gateways, GatewayStatus{g.Inside, g.Masquerade, e.mappings[i].Len()})
	}
	for i, l := range e.lanes {
		p := e.portStatusLocked(l)
		p.Segmented, p.Overruns, p.Unfit, p.CPU = stats[i].Segmented, stats[i].Overruns, stats[i].Unfit, busy[i]
		s.Ports = append(s.Ports, p)
	}
	for _, segment := range e.segments {
		s.Segments = append(s.Segments, segment.statusLocked())
	}
	return s
}

func (e *Engine) flowStatusLocked() FlowStatus {
	stats := e.flows.Stats()
	return FlowStatus{
		Count: e.flows.Len(), Cap: e.flows.Cap(),
		Opened: stats.Inserted, Expired: stats.Expired, Evicted: stats.Evicted, Deleted: stats.Deleted,
	}
}

func (e *Engine) portStatusLocked(l *lane) PortStatus {
	sent := e.ownTx[l.id]
	for _, from := range e.lanes {
		sent.add(from.tx[l.id])
	}
	return PortStatus{
		Name: l.Port.Name(), NetNS: l.NetNS, MTU: int(l.portMTU.Load()), Side: sideName(l.Side), Box: l.Box, Own: l.Own,
		RxPackets: l.rx.Packets, RxBytes: l.rx.Bytes, TxPackets: sent.Packets, TxBytes: sent.Bytes,
	}
}

// serviceStatuses lists all services, a batch under the lock at a time, and begins anew if they are rebuilt meanwhile.
func (e *Engine) serviceStatuses() []ServiceStatus {
	list := []ServiceStatus{}
	var table *policy.Table
	for more := true; more; {
		e.mu.Lock()
		if table != e.services {
			table, list = e.services, list[:0]
		}
		now, services := e.now(), table.Services()
		for copied := 0; copied < statusBatch && len(list) < len(services); {
			svc, state := services[len(list)], e.roster.State(len(list), now)
			list = append(list, e.serviceStatusLocked(svc, &state))
			copied += 1 + len(svc.Servers)
		}
		more = len(list) < len(services)
		e.mu.Unlock()
	}
	return list
}

// serviceStatusLocked puts together what is configured, what the roster knows and what was counted.
func (e *Engine) serviceStatusLocked(svc *policy.Service, state *policy.ServiceState) ServiceStatus {
	w := e.world.Load()
	s := ServiceStatus{
		Name: svc.Name, Listen: svc.Listen, Mode: svc.Mode.String(),
		Scheduler: svc.Scheduler, Owner: "tunlb", Traffic: Traffic(svc.Stats), Servers: make([]ServerStatus, 0, len(state.Servers)),
		UpWeight: state.UpWeight, Quorum: state.Quorum, Below: state.Below,
	}
	s.Fastpath = e.carrier != nil && svc.Fastpath
	for _, l := range svc.Listen {
		if w.isLocal(l.Addr.As16()) {
			s.Owner = "box"
		}
	}
	clock := time.Now().Add(-e.now())
	next := 0 // where the next server should be: they are in the order of state
	for _, known := range state.Servers {
		status := ServerStatus{Name: known.Server, Address: known.Address}
		switch {
		case next < len(svc.Servers) && svc.Servers[next].Address == known.Address:
			status = e.serverStatusLocked(svc.Servers[next])
			next++
		default: // left out while it is down, or it is the sorry server's turn
			if srv := serverAt(svc, known.Address); srv != nil {
				status = e.serverStatusLocked(srv)
			}
		}
		status.Configured, status.Health, status.Cause, status.Drained = known.Configured, known.Health, known.Cause, known.Drained
		if known.Ordered != nil {
			status.Configured = *known.Ordered
		}
		if state.Scale > 1 {
			status.Scale = state.Scale
		}
		if known.Health != "" {
			status.Since = clock.Add(known.Since)
		}
		s.Servers = append(s.Servers, status)
	}
	if sorry := svc.Sorry; sorry != nil {
		if srv := serverAt(svc, sorry.Address); srv != nil {
			status := e.serverStatusLocked(srv)
			status.Sorry, status.Configured = true, srv.Weight
			s.Servers = append(s.Servers, status)
		}
	}
	return s
}

func (e *Engine) serverStatusLocked(srv *policy.Server) ServerStatus {
	status := ServerStatus{
		Name: srv.Name, Address: srv.Address, Mode: srv.Mode.String(), Weight: srv.Weight,
		Active: srv.Active, Inactive: srv.Inactive, Carried: e.carriedLocked(srv), Traffic: Traffic(srv.Stats),
		Upper: srv.Upper, Lower: srv.Lower, Overloaded: srv.Overloaded(), Persistent: srv.Persistent(),
	}
	if srv.Unreachable() {
		status.Down = "it does not answer for its address"
	}
	if srv.Mode == policy.DR {
		status.Passing = srv.Stats.OutPackets
	}
	return status
}

// Drops counts the packets dropped, by reason; reasons that did not happen are left out.
func (e *Engine) Drops() map[string]uint64 {
	drops := map[string]uint64{}
	for _, r := range packet.Reasons() {
		if n := e.drops[r].Load(); n > 0 {
			drops[r.String()] = n
		}
	}
	return drops
}

func protocolName(proto uint8) string {
	if proto == packet.ProtoICMP || proto == packet.ProtoICMPv6 {
		return "icmp"
	}
	return policy.ProtoName(proto)
}
