package tunlb

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/flow"
)

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
	// Check says that it is one of tunlb's own, by which it checks a server.
	Check bool `json:"check,omitempty"`
	// ServerName is the server's in the service.
	ServerName string `json:"server_name,omitempty"`
	InBytes    uint64 `json:"in_bytes"`
	OutBytes   uint64 `json:"out_bytes"`
	// Fastpath says that the kernel carries it. What it counts is read every few seconds.
	Fastpath bool `json:"fastpath,omitempty"`
	// Template says that it is no connection but what keeps a client with its server (persistence). Client is
	// the network then, with port 0.
	Template bool `json:"template,omitempty"`
}

// ID names a connection among those that there are: protocol, client and VIP, as Kill takes it.
func (c Conn) ID() string { return fmt.Sprintf("%s/%s/%s", c.Protocol, c.Client, c.VIP) }

// ConnFilter chooses connections; the zero value takes all but templates. A plain value.
type ConnFilter struct {
	Service   string       // name
	Server    string       // name, address, or address and port
	Client    netip.Prefix // network of the client
	Templates bool         // templates as well
}

// has says whether the filter takes a connection.
func (f *ConnFilter) has(c *Conn) bool {
	switch {
	case c.Template && !f.Templates:
	case f.Service != "" && c.Service != f.Service:
	case f.Client.IsValid() && !f.Client.Contains(c.Client.Addr()):
	case f.Server != "" && f.Server != c.ServerName && f.Server != c.Server.String() && f.Server != c.Server.Addr().String():
	default:
		return true
	}
	return false
}

// connsBatch bounds how many flows are copied under the lock at a time.
const connsBatch = 1024

// Conns calls visit for every connection that the filter takes until it returns false. Connections that
// come or go meanwhile may or may not be seen. visit runs without the lock.
func (e *Engine) Conns(filter ConnFilter, visit func(Conn) bool) {
	batch := make([]Conn, 0, connsBatch)
	take := func(c Conn) {
		if filter.has(&c) {
			batch = append(batch, c)
		}
	}
	if e.carrier != nil {
		e.carrier.refresh()
	}
	flows, templates := uint32(0), uint64(0)
	moreFlows, moreTemplates := true, filter.Templates
	for moreFlows || moreTemplates {
		batch = batch[:0]
		e.mu.Lock()
		if now := e.now(); moreFlows {
			tick := e.tick()
			flows, moreFlows = e.flows.Walk(flows, connsBatch, func(f *flow.Flow) { take(e.connLocked(f, tick)) })
		} else {
			templates, moreTemplates = e.services.Templates(now, templates, connsBatch, func(t policy.Template) { take(templateConn(t)) })
		}
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
		Fastpath: s.Carriage == flow.ByKernel,
	}
	if s.Source != s.Client {
		c.Source = s.Source
	}
	if s.Exits[flow.Reverse] == exitHostPort {
		c.Check = true
	}
	if srv := e.services.Server(s.ServerID); srv != nil {
		c.Service, c.ServerName = srv.Service.Name, srv.Name
		if s.OneWay {
			c.Server = srv.Address // the packets carry the VIP
		}
	}
	return c
}

// templateConn shows a template as ipvsadm does.
func templateConn(t policy.Template) Conn {
	return Conn{
		Protocol: protocolName(t.Proto), State: "ASSURED", Expires: t.Left,
		Client: netip.AddrPortFrom(t.Client, 0), VIP: t.VIP, Server: t.Server.Address,
		Service: t.Server.Service.Name, ServerName: t.Server.Name, Template: true,
	}
}

// ErrNoConn says that there is no such connection.
var ErrNoConn = errors.New("no such connection")
