package netns

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
)

// Sniffer captures the packets of one interface until it is closed, by whoever started it or
// with the namespace. Safe for concurrent use.
type Sniffer struct {
	ns      *NS
	capture capture
	ended   chan struct{} // closed when the reading goroutine has ended

	mu      sync.Mutex
	packets []Packet
	more    chan struct{} // closed and replaced when packets grows
}

// capture is what the operating system gives.
type capture interface {
	next() (Packet, error) // waits; fails once interrupted
	interrupt() error
	drain(func(Packet)) error // what had arrived before the interruption; closes
}

// Sniff starts capturing on an interface: when it returns, no packet is missed.
func (ns *NS) Sniff(iface string) (*Sniffer, error) {
	c, err := ns.openCapture(iface)
	if err != nil {
		return nil, fmt.Errorf("%s: sniff %s: %w", ns.Name(), iface, err)
	}
	s := &Sniffer{ns: ns, capture: c, ended: make(chan struct{}), more: make(chan struct{})}
	go s.read() // ends with Close
	if !ns.own(s) {
		s.Close()
		return nil, fmt.Errorf("%s: sniff %s: %w", ns.Name(), iface, net.ErrClosed)
	}
	return s, nil
}

func (s *Sniffer) read() {
	defer close(s.ended)
	for {
		p, err := s.capture.next()
		if err != nil {
			return
		}
		s.add(p)
	}
}

func (s *Sniffer) add(p Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = append(s.packets, p)
	close(s.more)
	s.more = make(chan struct{})
}

// Packets gives the packets so far. Only after Close are these certainly all of them.
func (s *Sniffer) Packets() []Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.packets)
}

// Wait waits for a packet, an earlier one too, that match accepts.
func (s *Sniffer) Wait(ctx context.Context, match func(Packet) bool) (Packet, error) {
	for seen := 0; ; {
		s.mu.Lock()
		packets, more := slices.Clip(s.packets), s.more
		s.mu.Unlock()
		for ; seen < len(packets); seen++ {
			if match(packets[seen]) {
				return packets[seen], nil
			}
		}
		select {
		case <-more:
		case <-s.ended:
			return Packet{}, net.ErrClosed
		case <-ctx.Done():
			return Packet{}, fmt.Errorf("no such packet among %d: %w", seen, ctx.Err())
		}
	}
}

// Close ends the capture. What the kernel had seen until now is in Packets afterwards. It fails
// if packets were lost. Idempotent.
func (s *Sniffer) Close() error {
	if err := s.capture.interrupt(); err != nil {
		return nil // closed before
	}
	<-s.ended
	s.ns.disown(s)
	return s.capture.drain(s.add)
}
