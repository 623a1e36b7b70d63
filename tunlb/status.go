package tunlb

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// Status is what the engine is doing, as people and programs ask for it.
type Status struct {
	Services []ServiceStatus   `json:"services"`
	Gateways []GatewayStatus   `json:"gateways,omitempty"`
	Segments []SegmentStatus   `json:"segments,omitempty"`
	Ports    []PortStatus      `json:"ports"`
	Flows    FlowStatus        `json:"flows"`
	Drops    map[string]uint64 `json:"drops"` // by reason, those that happened
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
}

// ServerStatus is a real server.
type ServerStatus struct {
	Name     string         `json:"name"`
	Address  netip.AddrPort `json:"address"`
	Mode     string         `json:"mode"`
	Weight   int            `json:"weight"` // in force
	Active   int            `json:"active"`
	Inactive int            `json:"inactive"`
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
	Own       []netip.Addr `json:"own,omitempty"`
	RxPackets uint64       `json:"rx_packets"`
	RxBytes   uint64       `json:"rx_bytes"`
	TxPackets uint64       `json:"tx_packets"`
	TxBytes   uint64       `json:"tx_bytes"`
	Segmented uint64       `json:"segmented,omitempty"` // super-packets cut in software: the kernel took them no other way
	Overruns  uint64       `json:"overruns,omitempty"`  // frames lost since a packet socket's queue was full
	Unfit     uint64       `json:"unfit,omitempty"`     // frames lost since they are longer than any packet may be
}

// FlowStatus is the connection table's fill.
type FlowStatus struct {
	Count   int    `json:"count"`
	Cap     int    `json:"cap"`
	Evicted uint64 `json:"evicted"`
}

// Status takes a snapshot.
func (e *Engine) Status() Status {
	stats := make([]port.Stats, len(e.lanes))
	for i, l := range e.lanes {
		stats[i] = port.StatsOf(l.Port) // may ask the kernel
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{
		Services: []ServiceStatus{},
		Flows:    FlowStatus{Count: e.flows.Len(), Cap: e.flows.Cap(), Evicted: e.flows.Stats().Evicted},
		Drops:    e.Drops(),
	}
	states := e.roster.States(e.now())
	for i, svc := range e.services.Services() {
		s.Services = append(s.Services, e.serviceStatusLocked(svc, &states[i]))
	}
	for i, g := range e.config.Gateways {
		s.Gateways = append(s.Gateways, GatewayStatus{g.Inside, g.Masquerade, e.mappings[i].Len()})
	}
	for i, l := range e.lanes {
		p := PortStatus{
			Name: l.Port.Name(), NetNS: l.NetNS, MTU: int(l.portMTU.Load()), Side: sideName(l.Side), Own: l.Own,
			RxPackets: l.rx.Packets, RxBytes: l.rx.Bytes,
			Segmented: stats[i].Segmented, Overruns: stats[i].Overruns, Unfit: stats[i].Unfit,
		}
		sent := e.ownTx[i]
		for _, from := range e.lanes {
			sent.add(from.tx[i])
		}
		p.TxPackets, p.TxBytes = sent.Packets, sent.Bytes
		s.Ports = append(s.Ports, p)
	}
	for _, segment := range e.segments {
		s.Segments = append(s.Segments, segment.statusLocked())
	}
	return s
}

// serviceStatusLocked puts together what is configured, what the roster knows and what was counted.
func (e *Engine) serviceStatusLocked(svc *policy.Service, state *policy.ServiceState) ServiceStatus {
	w := e.world.Load()
	s := ServiceStatus{
		Name: svc.Name, Listen: svc.Listen, Mode: svc.Mode.String(),
		Scheduler: svc.Scheduler, Owner: "tunlb", Traffic: Traffic(svc.Stats), Servers: []ServerStatus{},
	}
	for _, l := range svc.Listen {
		if !w.owns(l.Addr.As16()) {
			s.Owner = "box"
		}
	}
	clock := time.Now().Add(-e.now())
	for _, known := range state.Servers {
		status := ServerStatus{Name: known.Server, Address: known.Address}
		if srv := serverAt(svc, known.Address); srv != nil {
			status = serverStatus(srv)
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
			status := serverStatus(srv)
			status.Sorry, status.Configured = true, srv.Weight
			s.Servers = append(s.Servers, status)
		}
	}
	return s
}

func serverStatus(srv *policy.Server) ServerStatus {
	status := ServerStatus{
		Name: srv.Name, Address: srv.Address, Mode: srv.Mode.String(), Weight: srv.Weight,
		Active: srv.Active, Inactive: srv.Inactive, Traffic: Traffic(srv.Stats),
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
