package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb/config"
)

// boxPorts are the interfaces of the box's own from which tunlb takes the services' packets, and what keeps the
// kernel from handling these as well. The daemon's lock guards it; nil is a daemon without such ports.
type boxPorts struct {
	guard interface { // nft.Guard
		Set(interfaces []string, claim packet.Claim) error
		Close() error
	}
	locks  []net.Listener
	names  []string
	ports  []port.Claimer
	engine interface{ SetClaim(packet.Claim) } // set before the first claim
	claim  packet.Claim                        // in force; at first nothing is taken
	// adopted says that the guard keeps from the kernel what a predecessor took, which may be anything.
	adopted bool
}

// openBoxPorts opens what the configured ports need besides their sockets, before these take anything: nil if none is
// the box's own.
func openBoxPorts(cfg *config.Config, h *heritage) (*boxPorts, error) {
	if !cfg.OnBox() {
		return nil, nil
	}
	locks, err := lockInterfaces(cfg)
	if err != nil {
		return nil, err
	}
	guard, adopted, err := h.guard()
	if err != nil {
		unlock(locks)
		return nil, fmt.Errorf("keep the kernel from handling what type: packet takes from the box's interfaces: %w; or write type: tun in place of these ports", err)
	}
	return &boxPorts{guard: guard, locks: locks, adopted: adopted}, nil
}

// lockInterfaces keeps another tunlb from the same interfaces, whose sockets would take the same packets: both
// would open their connections and answer. Abstract sockets belong to the network namespace, and end with the process.
func lockInterfaces(cfg *config.Config) (locks []net.Listener, err error) {
	for i := range cfg.Ports {
		p := &cfg.Ports[i]
		if !p.Box() {
			continue
		}
		l, err := net.Listen("unix", "@tunlb/box/"+p.Name)
		if err != nil {
			unlock(locks)
			return nil, fmt.Errorf("take the services' packets from %s: another tunlb does it already: %w; end that one, or give each interface to one of them", p.Name, err)
		}
		locks = append(locks, l)
	}
	return locks, nil
}

func unlock(locks []net.Listener) {
	for _, l := range locks {
		l.Close()
	}
}

// add takes a port in, which takes nothing so far. The engine closes it.
func (b *boxPorts) add(name string, p port.Port) {
	b.names = append(b.names, name)
	b.ports = append(b.ports, p.(port.Claimer))
}

// follow takes another claim from now on; after an error it is the old one.
//
// What comes in meanwhile is rather lost than doubled: a packet that is lost is sent again, but of one that tunlb takes and
// the kernel has as well, the kernel may answer by a reset, which ends the connection. So the kernel is kept from
// what either claim takes while the ports go from one to the other.
func (b *boxPorts) follow(claim packet.Claim) error {
	if b == nil || !b.adopted && reflect.DeepEqual(b.claim, claim) {
		return nil
	}
	if err := b.guard.Set(b.names, either(b.claim, claim)); err != nil {
		return err
	}
	err := b.take(claim)
	if err == nil {
		err = b.guard.Set(b.names, claim)
	}
	if err != nil {
		return errors.Join(err, b.take(b.claim), b.guard.Set(b.names, b.claim))
	}
	b.claim, b.adopted = claim, false
	return nil
}

// take tells the sockets, whose filters may let more through, and the engine, which leaves that alone.
func (b *boxPorts) take(claim packet.Claim) error {
	for i, p := range b.ports {
		if err := p.SetClaim(claim); err != nil {
			return fmt.Errorf("take the services' packets from %s: %w", b.names[i], err)
		}
	}
	b.engine.SetClaim(claim)
	return nil
}

// close gives the kernel everything back. The ports are closed by then: see follow.
func (b *boxPorts) close() error {
	if b == nil {
		return nil
	}
	err := b.guard.Close()
	unlock(b.locks)
	return err
}

// either takes what one of two claims takes, or both.
func either(a, b packet.Claim) packet.Claim {
	c := packet.Claim{VIPs: union(a.VIPs, b.VIPs), Servers: union(a.Servers, b.Servers)}
	switch {
	case len(a.Servers) == 0: // which excepts nothing
		c.Own = b.Own
	case len(b.Servers) == 0:
		c.Own = a.Own
	default:
		c.Own = slices.DeleteFunc(slices.Clone(a.Own), func(own netip.Addr) bool { return !slices.Contains(b.Own, own) })
	}
	return c
}

func union(a, b []packet.Endpoints) []packet.Endpoints {
	known := make(map[packet.Endpoints]bool, len(a))
	for _, e := range a {
		known[e] = true
	}
	all := slices.Clone(a)
	for _, e := range b {
		if !known[e] {
			all = append(all, e)
		}
	}
	return all
}
