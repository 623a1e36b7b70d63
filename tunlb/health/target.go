package health

import (
	"context"
	"net"
	"net/netip"
	"reflect"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// Dialer is the way from here to the servers. It must be comparable, and equal iff the way is the same: a
// target with another Dialer is another one. Safe for concurrent use.
type Dialer interface {
	// DialContext connects; network is tcp or udp and address an IP address and port. What it returns
	// obeys SetDeadline.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Ping returns nil iff the address has answered an ICMP echo request before ctx ended.
	Ping(ctx context.Context, addr netip.Addr) error
}

// Key says whose health it is.
type Key struct {
	Service string         // its name
	Server  netip.AddrPort // as configured; its port may be 0
}

// Target is a server to be checked.
type Target struct {
	Key
	Name    string         // the server's; told to programs
	Address netip.AddrPort // what is probed; the port does not matter for icmp and exec
	VIP     netip.AddrPort // told to programs; zero if the service has none
	Health  policy.Health  // enabled
	Dial    Dialer         // not nil but for exec
}

// Result is how one probe ended.
type Result struct {
	Key
	OK    bool
	Cause string        // of the failure, one short line for people; empty iff OK
	Took  time.Duration // how long the probe ran
	At    time.Time     // when it ended
}

// Targets lists the servers of all specs that check them. dial says how to reach one; those that it returns nil
// for are left out. A server is probed at Health.Port, or at its own port, or else the service's first; and
// if Health.Direct is set and its mode is DR, at the service's first VIP instead of its address: then dial returns
// the way to the server's link-layer address.
func Targets(specs []policy.Spec, dial func(*policy.Spec, *policy.ServerSpec) Dialer) []Target {
	var targets []Target
	for i := range specs {
		s := &specs[i]
		if !s.Health.Enabled() {
			continue
		}
		var vip netip.AddrPort
		if len(s.Listen) > 0 {
			vip = s.Listen[0].AddrPort()
		}
		for k := range s.Servers {
			srv := &s.Servers[k]
			d := dial(s, srv)
			if d == nil {
				continue
			}
			targets = append(targets, Target{
				Key: Key{s.Name, srv.Address}, Name: srv.Name, Address: place(s, srv, vip), VIP: vip,
				Health: s.Health, Dial: d,
			})
		}
	}
	return targets
}

// place is where a server is probed.
func place(s *policy.Spec, srv *policy.ServerSpec, vip netip.AddrPort) netip.AddrPort {
	addr, mode := srv.Address.Addr(), srv.Mode
	if mode == 0 {
		mode = s.Mode
	}
	if s.Health.Direct && mode == policy.DR && vip.IsValid() {
		addr = vip.Addr()
	}
	for _, port := range []uint16{s.Health.Port, srv.Address.Port(), vip.Port()} {
		if port != 0 {
			return netip.AddrPortFrom(addr, port)
		}
	}
	return netip.AddrPortFrom(addr, 0)
}

// same says whether checking t goes on undisturbed as u.
func (t *Target) same(u *Target) bool {
	return t.Key == u.Key && t.Name == u.Name && t.Address == u.Address && t.VIP == u.VIP && t.Dial == u.Dial &&
		reflect.DeepEqual(t.Health, u.Health)
}
