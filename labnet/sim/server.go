package sim

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// server is a host's server program, whose sockets are open unless its behaviour is to be stopped. Safe for concurrent
// use.
type server struct {
	host    *host
	service scenario.Service
	program *labnet.Program

	mu   sync.Mutex
	open []io.Closer // what serves
	shut bool        // for good
}

func newServer(h *host, s scenario.Service) (*server, error) {
	srv := &server{host: h, service: s, program: labnet.NewProgram(s.Kind, h.file.Name, h.clock.after)}
	return srv, srv.behave(s.Behaviour)
}

// behave changes what the program does, and whether it runs.
func (s *server) behave(b scenario.Behaviour) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.program.SetBehaviour(b)
	switch {
	case s.shut:
		return errClosed
	case b.Stopped:
		return s.stopLocked()
	case len(s.open) > 0:
		return nil
	}
	if err := s.startLocked(); err != nil {
		return errors.Join(fmt.Errorf("start %s on %s: %w", s.service.Kind, s.host.file.Name, err), s.stopLocked())
	}
	return nil
}

func (s *server) startLocked() error {
	if s.service.Kind != labnet.UDPEcho {
		l, err := s.host.listen(s.service.Port)
		if err != nil {
			return err
		}
		s.open = append(s.open, s.program.Serve(l))
		return nil
	}
	// A socket for each address: an answer's source is then the address that was asked.
	for _, a := range s.host.addresses() {
		c, err := s.host.listenPacket(netip.AddrPortFrom(a, s.service.Port))
		if err != nil {
			return err
		}
		s.open = append(s.open, s.program.ServePacket(c))
	}
	return nil
}

func (s *server) stopLocked() error {
	var errs []error
	for _, c := range s.open {
		errs = append(errs, c.Close())
	}
	s.open = nil
	return errors.Join(errs...)
}

// close stops the program for good.
func (s *server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = true
	return s.stopLocked()
}
