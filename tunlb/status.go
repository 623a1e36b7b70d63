package tunlb

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb/flow"
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
	Name      string         `json:"name"`
	Listen    netip.AddrPort `json:"listen"`
	Protocol  string         `json:"protocol"`
	Mode      string         `json:"mode"`
	Scheduler string         `json:"scheduler"`
	Owner     string         `json:"owner"` // of the VIP: "tunlb", or "box" where the kernel has the address
	Traffic   Traffic        `json:"traffic"`
	Servers   []ServerStatus `json:"servers"`
}

// ServerStatus is a real server.
type ServerStatus struct {
	Name     string         `json:"name"`
	Address  netip.AddrPort `json:"address"`
	Weight   int            `json:"weight"`
	Active   int            `json:"active"`
	Inactive int            `json:"inactive"`
	Traffic  Traffic        `json:"traffic"`
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

// Conn is one connection. Client, VIP and Server are as in ipvsadm's listing; Source is what the server
// sees as the client where that was translated.
type Conn struct {
	Protocol string         `json:"protocol"`
	State    string         `json:"state"`
	Expires  time.Duration  `json:"expires_ns"`
	Client   netip.AddrPort `json:"client"`
	VIP      netip.AddrPort `json:"vip"`
	Source   netip.AddrPort `json:"source,omitzero"`
	Server   netip.AddrPort `json:"server"`
	Service  string         `json:"service,omitempty"` // empty: the gateway's
	InBytes  uint64         `json:"in_bytes"`
	OutBytes uint64         `json:"out_bytes"`
}

// Status takes a snapshot.
func (e *Engine) Status() Status {
	stats := make([]port.Stats, len(e.lanes))
	for i, l := range e.lanes {
		stats[i] = port.StatsOf(l.Port) // may ask the kernel
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.world.Load()
	s := Status{
		Flows: FlowStatus{Count: e.flows.Len(), Cap: e.flows.Cap(), Evicted: e.flows.Stats().Evicted},
		Drops: e.Drops(),
	}
	for _, svc := range e.services.Services() {
		s.Services = append(s.Services, serviceStatus(w, svc))
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

func serviceStatus(w *world, svc *policy.Service) ServiceStatus {
	s := ServiceStatus{
		Name: svc.Name, Listen: svc.Listen, Protocol: protocolName(svc.Proto), Mode: svc.Mode.String(),
		Scheduler: svc.Scheduler, Owner: "tunlb", Traffic: Traffic(svc.Stats), Servers: []ServerStatus{},
	}
	if !w.owns(svc.Listen.Addr().As16()) {
		s.Owner = "box"
	}
	for _, srv := range svc.Servers {
		status := ServerStatus{
			Name: srv.Name, Address: srv.Address, Weight: srv.Weight,
			Active: srv.Active, Inactive: srv.Inactive, Traffic: Traffic(srv.Stats),
		}
		if srv.Unreachable {
			status.Down = "it does not answer for its address"
		}
		if svc.Mode == policy.DR {
			status.Passing = srv.Stats.OutPackets
		}
		s.Servers = append(s.Servers, status)
	}
	return s
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

// connsBatch bounds how many flows are copied under the lock at a time.
const connsBatch = 1024

// Conns calls visit for every connection until it returns false. Connections that come or go
// meanwhile may or may not be seen. visit runs without the lock.
func (e *Engine) Conns(visit func(Conn) bool) {
	batch := make([]Conn, 0, connsBatch)
	cursor, more := uint32(0), true
	for more {
		batch = batch[:0]
		e.mu.Lock()
		now := e.tick()
		cursor, more = e.flows.Walk(cursor, connsBatch, func(f *flow.Flow) {
			batch = append(batch, e.connLocked(f, now))
		})
		e.mu.Unlock()
		for _, c := range batch {
			if !visit(c) {
				return
			}
		}
	}
}

func (e *Engine) connLocked(f *flow.Flow, now flow.Tick) Conn {
	s := e.flows.Snapshot(f, now)
	c := Conn{
		Protocol: protocolName(s.Proto),
		State:    s.State.String(),
		Expires:  s.Expires,
		Client:   s.Client,
		VIP:      s.Virtual,
		Server:   s.Server,
		InBytes:  s.Bytes[flow.Forward],
		OutBytes: s.Bytes[flow.Reverse],
	}
	if s.Source != s.Client {
		c.Source = s.Source
	}
	if srv := e.services.Server(s.ServerID); srv != nil {
		c.Service = srv.Service.Name
		if s.OneWay {
			c.Server = srv.Address // the packets carry the VIP
		}
	}
	return c
}

func protocolName(proto uint8) string {
	switch proto {
	case packet.ProtoTCP:
		return "tcp"
	case packet.ProtoUDP:
		return "udp"
	default:
		return "icmp"
	}
}
