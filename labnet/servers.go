package labnet

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// ServeHTTP answers HTTP until it is closed, which closes the listener and all connections.
//
//	any path        one line: "rs1 GET /path from 198.51.100.7:40000"
//	GET /bytes/N    N bytes, those of Bytes(N)
//	POST, PUT       "rs1 POST /path from 198.51.100.7:40000 1234 bytes sha256 9f86d0..."
//
// Each answer carries the server's name in the header Server.
func ServeHTTP(l net.Listener, name string) io.Closer { return serveHTTP(l, handler(name)) }

// serveHTTP runs a handler on a listener until it is closed.
func serveHTTP(l net.Listener, h http.Handler) io.Closer {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // broken connections are what labs are made for
	}
	s := &httpServer{server: server}
	s.running.Go(func() { _ = server.Serve(l) }) // ends with Close
	return s
}

type httpServer struct {
	server  *http.Server
	running sync.WaitGroup
}

func (s *httpServer) Close() error {
	err := s.server.Close()
	s.running.Wait()
	return err
}

func handler(name string) http.Handler {
	line := func(w http.ResponseWriter, r *http.Request, more string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "%s %s %s from %s%s\n", name, r.Method, r.URL.RequestURI(), r.RemoteAddr, more)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "/bytes/N: N is a number of bytes", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.Copy(w, Bytes(n)) // fails if the client goes
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && r.Method != http.MethodPut {
			line(w, r, "")
			return
		}
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		line(w, r, fmt.Sprintf(" %d bytes sha256 %x", n, hash.Sum(nil)))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", name)
		mux.ServeHTTP(w, r)
	})
}

// Bytes is a stream of n bytes, always the same ones. Their period is a prime number, so that
// exchanged or repeated segments change the sum.
func Bytes(n int64) io.Reader {
	p := &pattern{left: n, block: make([]byte, min(n, 65521))}
	for i := range p.block {
		p.block[i] = byte(uint64(i+1) * 0x9e3779b97f4a7c15 >> 56)
	}
	return p
}

type pattern struct {
	left  int64
	at    int
	block []byte
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.block[p.at:][:min(p.left, int64(len(p.block)-p.at))])
	p.advance(n)
	return n, nil
}

// WriteTo writes blocks as they are: a bulk test measures the network, not copies in its server.
func (p *pattern) WriteTo(w io.Writer) (written int64, err error) {
	for p.left > 0 && err == nil {
		var n int
		n, err = w.Write(p.block[p.at:][:min(p.left, int64(len(p.block)-p.at))])
		p.advance(n)
		written += int64(n)
	}
	return written, err
}

func (p *pattern) advance(n int) {
	p.left -= int64(n)
	p.at = (p.at + n) % len(p.block)
}

// ServeTCPEcho sends back what it receives until it is closed, which closes the listener and all
// connections.
func ServeTCPEcho(l net.Listener, _ string) io.Closer {
	return serveTCP(l, func(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) })
}

// serveTCP has each connection served, which is then closed, until it is closed itself: then the context ends.
func serveTCP(l net.Listener, serve func(context.Context, net.Conn)) io.Closer {
	s := &tcpServer{listener: l, serve: serve, conns: make(map[net.Conn]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.accept)
	return s
}

type tcpServer struct {
	listener net.Listener
	serve    func(context.Context, net.Conn)
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func (s *tcpServer) accept() { // ends with the listener
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		if s.closed {
			c.Close()
		}
		s.mu.Unlock()
		s.running.Go(func() { s.converse(c) })
	}
}

func (s *tcpServer) converse(c net.Conn) { // ends with the connection
	s.serve(s.ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Close()
	delete(s.conns, c)
}

func (s *tcpServer) Close() error {
	s.cancel()
	err := s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

// ServeUDPEcho answers each datagram with the server's name, a space and the datagram, until it
// is closed, which closes the socket.
func ServeUDPEcho(c net.PacketConn, name string) io.Closer {
	return NewProgram(UDPEcho, name, nil).ServePacket(c)
}
