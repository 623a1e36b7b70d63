package namespaces

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// program is a server program on a host.
type program struct {
	*labnet.Program
	service labnet.Service
	host    scenario.Host
	ns      *netns.NS
	running []io.Closer // a socket each; none while it is stopped
}

func (l *lab) startPrograms() error {
	for _, h := range l.file.Hosts {
		for _, s := range h.Services {
			p := &program{Program: labnet.NewProgram(s.Kind, h.Name, nil), service: s.Service, host: h, ns: l.net.NS(h.Name)}
			l.programs = append(l.programs, p)
			if err := p.behave(s.Behaviour); err != nil {
				return err
			}
		}
	}
	return nil
}

// Behave is scenario.Lab's. Programs of TCP and UDP at one port both obey.
func (l *lab) Behave(host string, port uint16, b scenario.Behaviour) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := false
	for _, p := range l.programs {
		if p.host.Name != host || p.service.Port != port {
			continue
		}
		found = true
		if err := p.behave(b); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("nothing runs on %s at port %d", host, port)
	}
	return nil
}

// behave opens the sockets of a program that is to run and does not, and closes those of one that is to be stopped.
func (p *program) behave(b scenario.Behaviour) error {
	p.SetBehaviour(b)
	switch {
	case b.Stopped:
		return p.stop()
	case len(p.running) > 0:
		return nil
	}
	if err := p.start(); err != nil {
		return errors.Join(fmt.Errorf("start %s on %s at port %d: %w", p.service.Kind, p.host.Name, p.service.Port, err), p.stop())
	}
	return nil
}

func (p *program) start() error {
	if p.service.Kind != labnet.UDPEcho {
		listener, err := p.ns.Listen("tcp", fmt.Sprintf(":%d", p.service.Port))
		if err != nil {
			return err
		}
		p.running = append(p.running, p.Serve(listener))
		return nil
	}
	// A socket for each address: an answer's source is then the address that was asked.
	for _, a := range p.addresses() {
		c, err := p.ns.ListenPacket("udp", netip.AddrPortFrom(a, p.service.Port).String())
		if err != nil {
			return err
		}
		p.running = append(p.running, p.ServePacket(c))
	}
	return nil
}

func (p *program) addresses() (all []netip.Addr) {
	for _, prefix := range p.host.Loopback {
		all = append(all, prefix.Addr())
	}
	for _, a := range p.host.Attachments {
		for _, prefix := range a.Addresses {
			all = append(all, prefix.Addr())
		}
	}
	return all
}

func (p *program) stop() error {
	var errs []error
	for _, s := range p.running {
		if err := s.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	p.running = nil
	return errors.Join(errs...)
}
