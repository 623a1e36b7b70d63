package wiring

import (
	"context"
	"net"
	"net/netip"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/health"
)

// Targets are the servers to be checked, each by the way that leads to it: the engine's own stack where that is a
// neighbour of the server, otherwise what is given for all others.
func Targets(services []policy.Spec, engine *tunlb.Engine, otherwise health.Dialer) []health.Target {
	return health.Targets(services, func(svc *policy.Spec, srv *policy.ServerSpec) health.Dialer {
		switch addr := srv.Address.Addr(); {
		case svc.Health.Direct && srv.Mode == policy.DR:
			return directWay{engine, addr}
		case engine.Reaches(addr):
			return nearWay{engine}
		default:
			return otherwise
		}
	})
}

// nearWay is the way of tunlb itself, which is a neighbour of the server where the box's kernel is none.
type nearWay struct{ engine *tunlb.Engine }

func (w nearWay) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	server, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return w.engine.Dial(ctx, network, server)
}

func (w nearWay) Ping(ctx context.Context, addr netip.Addr) error { return w.engine.Ping(ctx, addr) }

// directWay is the way that a client's packets take to a directly routed server: to the VIP at its MAC.
type directWay struct {
	engine *tunlb.Engine
	server netip.Addr
}

func (w directWay) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	vip, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return w.engine.DialDirect(ctx, network, netip.AddrPortFrom(w.server, vip.Port()), vip)
}

// Ping asks for the server's own address: an echo says nothing about a port, nor who has the VIP.
func (w directWay) Ping(ctx context.Context, _ netip.Addr) error { return w.engine.Ping(ctx, w.server) }
