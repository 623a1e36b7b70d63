package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/tunlb/tunlb/labnet/scenario"
)

// maxClients is how many requests are served at a time; more wait.
const maxClients = 256

// Server answers for a lab. It comes from NewServer; whoever made it closes it, before the lab. Safe for concurrent use.
type Server struct {
	lab  scenario.Lab
	info Info

	ctx     context.Context
	cancel  context.CancelFunc
	slots   chan struct{}
	serving sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	conns     map[io.Closer]struct{} // and listeners
	published []Publication
	leaving   []*frames // of those who have asked for the end
}

// NewServer makes a server of a lab that somebody else closes.
func NewServer(lab scenario.Lab, info Info) *Server {
	s := &Server{lab: lab, info: info, slots: make(chan struct{}, maxClients), conns: make(map[io.Closer]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve answers until somebody asks for the end, ctx ends, or Close.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.keep(l) {
		return errors.Join(net.ErrClosed, l.Close())
	}
	defer context.AfterFunc(ctx, s.cancel)()
	defer context.AfterFunc(s.ctx, func() { l.Close() })()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		switch {
		case s.ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		unix, ok := conn.(*net.UnixConn)
		if !ok || !s.keep(conn) {
			conn.Close()
			<-s.slots
			continue
		}
		s.serving.Go(func() { // ends with the connection
			defer func() { <-s.slots }()
			s.serve(unix)
		})
	}
}

// Close ends all requests and publications, and waits for that. Those who have asked for the end are still connected, for
// Farewell.
func (s *Server) Close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// Farewell tells those who have asked for the end what it has come to, and what was wrong before; both may be nil.
func (s *Server) Farewell(err, before error) {
	r := replyOf(err)
	if before != nil {
		r.Warning = before.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.leaving {
		_ = f.sendJSON(frameReply, r) // they may have gone
	}
	s.leaving = nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func replyOf(err error) reply {
	if err == nil {
		return reply{}
	}
	return reply{Err: err.Error()}
}

// keep has Close close c; false if that has happened already.
func (s *Server) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[c] = struct{}{}
	}
	return !s.closed
}

func (s *Server) forget(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Server) serve(conn *net.UnixConn) {
	defer s.forget(conn)
	var (
		req request
		buf []byte
	)
	out := &frames{w: conn}
	head, files, err := receiveFiles(conn)
	defer closeFiles(files)
	if err == nil {
		var payload []byte
		if _, payload, err = receiveRest(conn, head, &buf); err == nil && head[0] != frameRequest {
			err = errors.New("not tunlb's protocol")
		}
		if err == nil {
			err = json.Unmarshal(payload, &req)
		}
	}
	switch {
	case err != nil:
		_ = out.sendJSON(frameReply, replyOf(fmt.Errorf("bad request: %w", err)))
	case req.Do == doDown:
		s.mu.Lock()
		delete(s.conns, conn) // it hears of the end; with the process it is closed
		s.leaving = append(s.leaving, out)
		s.mu.Unlock()
		s.cancel()
		return
	case req.Do == doExec:
		r := s.exec(conn, out, req)
		_ = out.sendJSON(frameReply, r) // who has gone needs no answer
	default:
		_ = out.sendJSON(frameReply, s.answer(req, files))
	}
	conn.Close()
}

// answer does what takes no time.
func (s *Server) answer(req request, files []*os.File) reply {
	switch req.Do {
	case doInfo:
		s.mu.Lock()
		defer s.mu.Unlock()
		info := s.info
		info.Published = append([]Publication{}, s.published...)
		if err := s.lab.Ended(); err != nil {
			info.Broken = err.Error()
		}
		return reply{Info: &info}
	case doImpair:
		return replyOf(s.lab.Impair(req.Host, req.Network, req.Impairment))
	case doPublish:
		p, err := s.publish(req.Publish, files)
		r := replyOf(err)
		r.Published = &p
		return r
	}
	return replyOf(fmt.Errorf("%q is nothing that this keeper does; it may be of another version of tunlb", req.Do))
}

// publish serves connections to a port of the machine from a host of the lab. The listener is the asker's, who is where people
// are and not, as we may be, in a namespace of our own.
func (s *Server) publish(p Publication, files []*os.File) (Publication, error) {
	to, err := netip.ParseAddrPort(p.To)
	if err != nil {
		return p, err
	}
	if p.From == "" {
		p.From = s.info.Client
	}
	if !slices.Contains(s.info.Hosts, p.From) && p.From != s.info.Director {
		return p, fmt.Errorf("no host %q in lab %s", p.From, s.info.Name)
	}
	l, err := listenerOf(p.Listen, files)
	if err != nil {
		return p, err
	}
	p.Listen = l.Addr().String()
	if !s.keep(l) {
		return p, errors.Join(net.ErrClosed, l.Close())
	}
	s.mu.Lock()
	s.published = append(s.published, p)
	s.mu.Unlock()
	s.serving.Go(func() { s.forward(l, p.From, to) }) // ends with Close
	return p, nil
}
