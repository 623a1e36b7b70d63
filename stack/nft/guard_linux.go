package nft

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/tunlb/tunlb/stack/packet"
)

// Guard keeps from the kernel what a Claim takes of the packets for an interface's own MAC: packet sockets, which see them
// first, have got them by then. The kernel's table is named tunlb_guard_N, N being the netlink socket's address, mostly the
// process ID, or tunlb_guard_N_2: see Set. It takes Linux 5.12. Safe for concurrent use; whoever opened it closes it.
//
// Some packets that a claim takes are left to the kernel as well, and do no harm there: ICMP errors whose quote has IP options or
// IPv6 extension headers; later fragments from servers, which it forwards to where they mean nothing without the first; and
// those to VIPs that are the box's own, as other services at the same address need theirs: without the first they
// wait until they time out.
type Guard struct {
	mu     sync.Mutex
	socket *socket
	table  string // in force
	spare  string // has no table, but after an error
	batch  batch
}

// guardPriority is before all others: what is not the kernel's is not its filters' either.
const guardPriority = -1 << 31

// OpenGuard opens a guard in the network namespace at netnsPath, "" being the caller's. It keeps nothing until Set. The
// error wraps ErrUnavailable where the kernel or the rights do not suffice.
func OpenGuard(netnsPath string) (*Guard, error) {
	s, err := open(netnsPath)
	if err != nil {
		return nil, fmt.Errorf("open guard: %w", err)
	}
	g, err := newGuard(s)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("open guard: %w", err)
	}
	return g, nil
}

// newGuard goes on with the table that the socket has, or makes one.
func newGuard(s *socket) (*Guard, error) {
	g := &Guard{socket: s, table: fmt.Sprintf("tunlb_guard_%d", s.port)}
	g.spare = g.table + "_2"
	names, err := s.tables()
	switch {
	case err != nil:
		return nil, err
	case slices.Contains(names, g.spare): // of both, which a predecessor was killed over, either will do until Set
		g.table, g.spare = g.spare, g.table
	case !slices.Contains(names, g.table):
		s.start(&g.batch, g.table)
		g.batch.ownTable()
		return g, s.apply(&g.batch)
	}
	return g, nil
}

// Set replaces what is kept from the kernel, and at which interfaces. What is kept before and after is kept all the time; of
// all else no packet sees a part, but some may be kept that only one of both keeps. After an error it is as before, or
// both are kept. An interface that is not there is left out, and one that goes takes its part along: Set again when it comes.
//
// It takes two tables and two transactions. In one that replaces a table by another there is a moment in which a packet gets
// through: it goes through the chains of both, and finds the first empty still, the second empty already.
func (g *Guard) Set(interfaces []string, claim packet.Claim) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.socket == nil {
		return fmt.Errorf("set guard: %w", os.ErrClosed)
	}
	err := g.socket.hook(&g.batch, interfaces, func(interfaces []string) { g.writeLocked(interfaces, &claim) })
	if err == nil {
		err = g.switchLocked()
	}
	if err != nil {
		return fmt.Errorf("set guard: %w", err)
	}
	return nil
}

// writeLocked writes a batch that makes the spare table.
func (g *Guard) writeLocked(interfaces []string, claim *packet.Claim) {
	b := &g.batch
	g.socket.start(b, g.spare)
	b.ownTable()
	b.deleteTable()
	b.ownTable()
	b.claim(claim)
	for _, name := range interfaces {
		b.ingress(name, guardPriority)
		for _, f := range families {
			b.rule(ingressChain(name), f.name, append(f.received(), jump(f.chain("claimed")))...)
		}
	}
}

// switchLocked leaves it to the spare table, which is in force, alone.
func (g *Guard) switchLocked() error {
	g.socket.start(&g.batch, g.table)
	g.batch.deleteTable()
	if err := g.socket.apply(&g.batch); err != nil {
		return err
	}
	g.table, g.spare = g.spare, g.table
	return nil
}

// Close gives the kernel back what was kept from it. A second Close does nothing.
func (g *Guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.socket == nil {
		return nil
	}
	s := g.socket
	g.socket = nil
	return s.close() // and the table is gone
}
