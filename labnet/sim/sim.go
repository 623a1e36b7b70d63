// Package sim makes labs without any privilege: every host is a gVisor stack in this process, networks are switches in
// memory, and between them works the director's real engine, with its health checks and its control socket, by a clock
// that does not wait for what nobody does.
//
// It owns those hosts, networks, links and that clock. What is left out is kernels: a director that is a box (port: tun)
// has tunlb itself for its interfaces, which does services, gateways and the routing between the box's networks; its
// kernel's own addresses, rules and sysctls there are none of. The lab's file and its steps are
// labnet/scenario's, what server programs do labnet's.
//
// # Time
//
// A lab's time passes as ours does. While somebody waits for the lab (Lab.After, Dial, Ping, Exec, or reading and writing
// what Dial has returned) and nothing goes on in it, it jumps to the next timer instead, on average at most 200 times as
// fast as ours: ten seconds of health checks take about a twentieth of one.
package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/stack/packet"
)

// Options of the driver. The zero value is useful.
type Options struct {
	// Tunlb runs tunlb's own command line, for Exec on the director; socket is its control socket. The first of args is
	// the subcommand. Without it Exec knows no tunlb.
	Tunlb func(ctx context.Context, socket string, args []string, std scenario.Stdio) int
	// Seed decides which packets impaired links lose and which overtake.
	Seed uint64
}

// Driver implements scenario.Driver. Safe for concurrent use.
type Driver struct{ options Options }

var _ scenario.Driver = (*Driver)(nil)

// New makes a driver.
func New(o Options) *Driver { return &Driver{o} }

// Name implements scenario.Driver.
func (*Driver) Name() string { return "sim" }

// Up implements scenario.Driver.
func (d *Driver) Up(ctx context.Context, f *scenario.File) (scenario.Lab, error) {
	l := &Lab{
		options: d.options, file: f, clock: newClock(),
		hosts: map[string]*host{}, servers: map[endpoint]*server{}, links: map[member]*link{},
	}
	l.alive, l.die = context.WithCancel(context.Background())
	for _, step := range [...]func() error{l.makeNetworks, l.makeHosts, l.startServers, l.makeDirector, ctx.Err} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("lab %s: %w", f.Name, err), l.Close())
		}
	}
	return l, nil
}

func (l *Lab) makeNetworks() error {
	l.networks = map[string]*network{}
	l.impairments = map[string]scenario.Impairment{}
	for _, n := range l.file.Networks {
		mtu := n.MTU
		if mtu == 0 {
			mtu = 1500
		}
		l.networks[n.Name], l.impairments[n.Name] = newNetwork(n.Name, mtu), n.Link
	}
	// All links come before the first frame: a network's list of them does not change then.
	if err := l.plug(l.file.Director.Name, l.file.Director.Attachments, l.newTap); err != nil {
		return err
	}
	for i := range l.file.Hosts {
		h := &l.file.Hosts[i]
		if err := l.plug(h.Name, h.Attachments, func(a scenario.Attachment, i int) (func(*buffer.View), func(*link)) {
			return l.newNIC(h, a, i)
		}); err != nil {
			return err
		}
	}
	return nil
}

// plug makes the links of a host. interfaceOf makes the interface that a link is for: where frames for it go, and
// who is to know the link.
func (l *Lab) plug(name string, attachments []scenario.Attachment, interfaceOf func(scenario.Attachment, int) (func(*buffer.View), func(*link))) error {
	for i, a := range attachments {
		n := l.networks[a.Network]
		if n == nil {
			return fmt.Errorf("host %s: there is no network %q", name, a.Network)
		}
		to, keep := interfaceOf(a, i)
		l.nodes++
		link := newLink(n, l.clock, l.options.Seed<<16+uint64(l.nodes), to)
		impairment := a.Link
		if impairment == (scenario.Impairment{}) {
			impairment = l.impairments[a.Network]
		}
		link.impair(impairment)
		l.links[member{name, a.Network}] = link
		keep(link)
	}
	return nil
}

func (l *Lab) newTap(a scenario.Attachment, i int) (func(*buffer.View), func(*link)) {
	name := fmt.Sprintf("eth%d", i)
	if l.file.Director.Port == "tap" {
		name = fmt.Sprintf("tunlb%d", i) // as tunlb would make them on a machine
	}
	t := &tap{name: name, mtu: l.networks[a.Network].mtu, queue: newQueue(l.clock.rest)}
	l.taps = append(l.taps, t)
	l.macs = append(l.macs, l.hardware(a.Addresses))
	return t.queue.put, func(link *link) { t.link = link }
}

func (l *Lab) newNIC(h *scenario.Host, a scenario.Attachment, i int) (func(*buffer.View), func(*link)) {
	n := &nic{
		name: fmt.Sprintf("eth%d", i), mac: l.hardware(a.Addresses), mtu: uint32(l.networks[a.Network].mtu),
		queue: newQueue(l.clock.rest),
	}
	for _, p := range h.Loopback {
		n.quiet = append(n.quiet, p.Addr())
	}
	for _, p := range a.Addresses {
		switch own := p.Addr(); {
		case own.Is4() && !n.own.IsValid():
			n.own = own
		case own.Is6() && !n.own6.IsValid():
			n.own6 = own
		}
	}
	l.nics = append(l.nics, n)
	return n.queue.put, func(link *link) { n.link = link }
}

// hardware makes an interface's MAC tell its address, as labs of namespaces do: 02:00:cb:00:71:0a is 203.0.113.10's. One
// without an address of IPv4 gets a number.
func (l *Lab) hardware(addresses []netip.Prefix) packet.MAC {
	for _, p := range addresses {
		if a := p.Addr(); a.Is4() {
			four := a.As4()
			return packet.MAC{2, 0, four[0], four[1], four[2], four[3]} // locally administered
		}
	}
	return packet.MAC{2, 1, 0, 0, byte(l.nodes >> 8), byte(l.nodes)}
}

// makeDirector starts tunlb. The ports between which it is a switch have one MAC, that of the first with an address.
func (l *Lab) makeDirector() (err error) {
	first := -1
	for i, a := range l.file.Director.Attachments {
		if a.Side != "" && (first < 0 || len(l.file.Director.Attachments[first].Addresses) == 0) {
			first = i
		}
	}
	for i, a := range l.file.Director.Attachments {
		if a.Side != "" {
			l.macs[i] = l.macs[first]
		}
	}
	l.director, err = newDirector(l.file, l.clock, l.taps, l.macs)
	return err
}

func (l *Lab) makeHosts() error {
	nics := l.nics
	for _, f := range l.file.Hosts {
		own := nics[:len(f.Attachments)]
		nics = nics[len(f.Attachments):]
		h, err := newHost(f, l.clock, own)
		if err != nil {
			return err
		}
		l.hosts[f.Name] = h
	}
	return nil
}

func (l *Lab) startServers() error {
	for _, f := range l.file.Hosts {
		for _, s := range f.Services {
			srv, err := newServer(l.hosts[f.Name], s)
			if err != nil {
				return err
			}
			l.servers[endpoint{f.Name, s.Port, s.Kind}] = srv
		}
	}
	return nil
}
