package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Carrier has the kernel carry connections: packets of theirs that come by the interfaces given to Set, for these' own
// MACs, are translated and sent on right there, their TTL one less. It does not carry what opens TCP connections (SYN), fragments,
// IPv4 options, IPv6 extension headers, tagged (VLAN) packets, nor what has no time left: those are as if it were not there. Segments
// with FIN or RST it carries and tells of (Ends), where the kernel has nfnetlink_log and a group that is free; elsewhere it does
// not carry them.
//
// The box's own nftables rules at ingress are before it, up to priority 99; all its others are passed by. It does not look at
// the MTU of the way out, and sends no ICMP: a connection should be added only if what its ends send fits. Should the way out's
// interface go, what would leave by it is dropped until the connection is removed.
//
// The kernel's table is named tunlb_carrier_N, N being the netlink socket's address, mostly the process ID. It takes Linux
// 5.12. The kernel reserves up to 86 bytes for each connection of the limit and takes, for an IPv4 one that is carried, 210 and
// 32 for each CPU, besides 175 of this process. Safe for concurrent use; whoever opened it closes it.
type Carrier struct {
	table  string
	limit  int
	opened time.Time
	ends   *notices     // nil where the kernel can't tell of packets
	count  atomic.Int64 // of connections

	mu     sync.Mutex // guards the following
	socket *socket
	batch  batch
	known  ledger
	// foreign says that the table is a predecessor's: what it carries is not in known.
	foreign bool
	tells   bool  // the table has rules that tell of ends
	todo    []int // scratch, as is the next
	gone    []entry

	reading sync.Mutex // guards the following; never held together with mu
	reader  *socket
	request batch
	some    []entry // scratch, as is the next
	counts  []count
}

const (
	// carrierPriority leaves it to the box's own filters to go before: those of nft are at 0 or less.
	carrierPriority = 100
	// together is how many connections are added by one transaction. There is room for an answer about each.
	together = 256
)

// OpenCarrier opens a carrier of up to limit connections in the network namespace at netnsPath, "" being the caller's. It
// carries nothing until Set and Add. The error wraps ErrUnavailable where the kernel or the rights do not suffice: all
// that is needed but the interfaces is made here.
func OpenCarrier(netnsPath string, limit int) (*Carrier, error) {
	c, err := newCarrier(limit)
	if err != nil {
		return nil, fmt.Errorf("open carrier: %w", err)
	}
	if err := c.open(netnsPath); err != nil {
		c.Close()
		return nil, fmt.Errorf("open carrier: %w", err)
	}
	return c, nil
}

func newCarrier(limit int) (*Carrier, error) {
	if limit < 1 || limit > 1<<28 {
		return nil, fmt.Errorf("a limit of %d connections: give 1 to %d", limit, 1<<28)
	}
	return &Carrier{limit: limit, opened: time.Now(), known: newLedger(), some: make([]entry, 0, inquiry)}, nil
}

// own has the carrier's table belong to a socket.
func (c *Carrier) own(s *socket) {
	c.socket, c.table = s, fmt.Sprintf("tunlb_carrier_%d", s.port)
}

func (c *Carrier) open(netnsPath string) error {
	s, err := open(netnsPath)
	if err != nil {
		return err
	}
	c.own(s)
	if c.reader, err = open(netnsPath); err != nil {
		return err
	}
	c.listen(netnsPath)
	return c.make(false)
}

// listen has the kernel tell of the ends of connections, if it can.
func (c *Carrier) listen(netnsPath string) {
	ends, err := openNotices(netnsPath)
	if c.tells = err == nil; c.tells {
		c.ends = ends
	}
}

// make makes the table, in place of a predecessor's perhaps: all that is needed but the interfaces. A kernel that has no log at ingress
// refuses what tells of ends.
func (c *Carrier) make(again bool) error {
	for {
		c.socket.start(&c.batch, c.table)
		if again {
			c.batch.ownTable()
			c.batch.deleteTable()
		}
		c.writeTable()
		err := c.socket.apply(&c.batch)
		if err == nil || !c.tells {
			return err
		}
		c.tells = false
	}
}

// writeTable writes all that is needed but the interfaces.
func (c *Carrier) writeTable() {
	b := &c.batch
	b.ownTable()
	for i, f := range families {
		b.set(uint32(i+1), f.connections(c.limit))
		b.chain(f.chain("carry"))
		f.carry(b)
		if c.tells {
			f.carryEnds(b, c.ends.group)
		}
	}
}

// Ends tells of segments with FIN or RST that are carried, some at a time and up to 10 ms late, until Close, which is no error. What
// visit gets is its own. Ends returns at once where the kernel can't tell: there such segments are not carried. When more come than
// are read, some are carried and not told of. One goroutine at a time may call it.
func (c *Carrier) Ends(visit func([]End)) error {
	if c.ends == nil {
		return nil
	}
	for {
		ends, err := c.ends.read()
		switch {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read ends of connections: %w", err)
		}
		visit(ends)
	}
}

// Set replaces the interfaces by whose packets connections are carried, which includes those by which they leave. One that is
// not there is left out, and one that goes is left: Set again when it comes.
func (c *Carrier) Set(interfaces []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.socket == nil {
		return fmt.Errorf("set interfaces: %w", os.ErrClosed)
	}
	var there []string
	err := c.renewLocked()
	if err == nil {
		there, err = c.hookedLocked()
	}
	if err == nil {
		err = c.socket.hook(&c.batch, interfaces, func(interfaces []string) { c.replaceLocked(there, interfaces) })
	}
	if err != nil {
		return fmt.Errorf("set interfaces: %w", err)
	}
	return nil
}

// replaceLocked writes what leads from the interfaces that are there to others.
func (c *Carrier) replaceLocked(there, interfaces []string) {
	b := &c.batch
	c.socket.start(b, c.table)
	b.ownTable() // a batch of nothing is no batch
	for _, name := range there {
		if !slices.Contains(interfaces, name) {
			b.deleteIngress(name)
		}
	}
	for _, name := range interfaces {
		if slices.Contains(there, name) {
			continue
		}
		b.ingress(name, carrierPriority)
		for _, f := range families {
			b.rule(ingressChain(name), f.name, append(append(f.received(), f.ordinary()...), jump(f.chain("carry")))...)
		}
	}
}

// hookedLocked asks the kernel at which interfaces packets are looked at: on some kernels a chain goes with its
// interface, on others it stays and waits for it.
func (c *Carrier) hookedLocked() (names []string, err error) {
	b := &c.batch
	b.begin(c.table, c.socket.next)
	b.plain(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP)
	err = c.socket.dump(b, func(m message) {
		var table, chain string
		for typ, value := range m.attributes() {
			switch typ {
			case unix.NFTA_CHAIN_TABLE:
				table = unix.ByteSliceToString(value)
			case unix.NFTA_CHAIN_NAME:
				chain = unix.ByteSliceToString(value)
			}
		}
		if name, ok := strings.CutPrefix(chain, ingressChain("")); ok && table == c.table {
			names = append(names, name)
		}
	})
	return names, err
}

// Add has the kernel carry connections from now on, and says of each in turn why it does not; nil if it does. An error of
// one leaves no half of it, and does not concern the others; it wraps ErrFull or ErrCarried.
func (c *Carrier) Add(conns []Conn) []error {
	errs := make([]error, len(conns))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.renewLocked(); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	for from := 0; from < len(conns); from += together {
		to := min(from+together, len(conns))
		c.addLocked(conns[from:to], errs[from:to])
	}
	return errs
}

func (c *Carrier) addLocked(conns []Conn, errs []error) {
	todo := c.todo[:0]
	for i := range conns {
		switch errs[i] = conns[i].check(); {
		case errs[i] != nil:
		case c.known.has(conns[i].Outer):
			errs[i] = fmt.Errorf("%s: %w", conns[i].Outer, ErrCarried)
		case len(todo) >= c.limit-int(c.count.Load()):
			errs[i] = fmt.Errorf("%s: %w: %d", conns[i].Outer, ErrFull, c.limit)
		default:
			todo = append(todo, i)
		}
	}
	c.todo = todo
	now := sighting{at: c.now()}
	c.changeLocked(todo, func(i int) { c.batch.add(&conns[i]) }, func(i int, err error) {
		switch {
		case err == nil:
			c.known.add(entry{conns[i].Outer, conns[i].Inner, [2]sighting{now, now}})
		case errors.Is(err, unix.EEXIST):
			errs[i] = fmt.Errorf("%s: %w", conns[i].Outer, ErrCarried)
		default:
			errs[i] = fmt.Errorf("%s: %w", conns[i].Outer, err)
		}
	})
	c.count.Store(int64(len(c.known.list)))
}

// Remove has the kernel carry connections no more: packets that come when it has returned are not carried. Connections that
// are not carried are no error.
func (c *Carrier) Remove(conns []Conn) error { return c.Take(conns, nil) }

// Take is Remove that tells what each direction of a connection has been used for in the end, unless last is nil. last must
// not call the Carrier.
func (c *Carrier) Take(conns []Conn, last func(Usage)) error {
	var errs []error
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(conns) > 0 {
		some := conns[:min(together, len(conns))]
		conns = conns[len(some):]
		c.todo, c.gone = c.todo[:0], c.gone[:0]
		for i := range some {
			if e, ok := c.known.remove(some[i].Outer, some[i].Inner); ok {
				c.todo = append(c.todo, len(c.gone))
				c.gone = append(c.gone, e)
			}
		}
		c.takeLocked(last, func(e *entry, err error) {
			c.known.add(*e)
			errs = append(errs, fmt.Errorf("take %s back from the kernel: %w", e.outer, err))
		})
	}
	c.count.Store(int64(len(c.known.list)))
	return errors.Join(errs...)
}

// takeLocked removes what is gone. What the kernel does not have any more was removed by an attempt whose answer was lost.
func (c *Carrier) takeLocked(last func(Usage), failed func(*entry, error)) {
	flags := uint16(0)
	if last != nil && c.socket != nil {
		flags = unix.NLM_F_ECHO
		c.socket.told = c.teller(last)
		defer func() { c.socket.told = nil }()
	}
	c.changeLocked(c.todo, func(i int) { c.batch.remove(&c.gone[i], flags) }, func(i int, err error) {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			failed(&c.gone[i], err)
		}
	})
}

// changeLocked has write write a message for each of todo, and the kernel carry them out; done says what has become of
// each. A transaction fails as a whole, but the kernel tells of each message that failed: the others are tried again
// without those. todo is written to.
func (c *Carrier) changeLocked(todo []int, write func(i int), done func(i int, err error)) {
	for len(todo) > 0 {
		failures, err := c.tryLocked(todo, write)
		if err == nil && len(failures) > 0 {
			rest := setAside(todo, failures, done)
			if len(rest) < len(todo) {
				todo = rest
				continue
			}
			err = failures[0].err // of the transaction itself
		}
		if err == nil || len(todo) == 1 || errors.Is(err, os.ErrClosed) {
			for _, i := range todo {
				done(i, err)
			}
			return
		}
		half := len(todo) / 2 // it is one or another of them, or their number
		c.changeLocked(todo[:half], write, done)
		todo = todo[half:]
	}
}

// setAside reports those whose messages failed, and gives back the others.
func setAside(todo []int, failures []failure, done func(i int, err error)) (rest []int) {
	failed := make(map[int]error, len(failures))
	for _, f := range failures {
		failed[f.message-1] = f.err
	}
	rest = todo[:0]
	for k, i := range todo {
		if err, ok := failed[k]; ok {
			done(i, err)
		} else {
			rest = append(rest, i)
		}
	}
	return rest
}

func (c *Carrier) tryLocked(todo []int, write func(i int)) ([]failure, error) {
	if c.socket == nil {
		return nil, os.ErrClosed
	}
	c.socket.start(&c.batch, c.table)
	for _, i := range todo {
		write(i)
	}
	return c.socket.commit(&c.batch)
}

// Len is how many connections are carried.
func (c *Carrier) Len() int { return int(c.count.Load()) }

// Close ends all carrying. A second Close does nothing.
func (c *Carrier) Close() error {
	c.reading.Lock()
	reader := c.reader
	c.reader = nil
	c.reading.Unlock()
	c.mu.Lock()
	writer := c.socket
	c.socket = nil
	c.known, c.todo = newLedger(), nil
	c.count.Store(0)
	c.mu.Unlock()
	var errs []error
	if err := c.ends.close(); err != nil && !errors.Is(err, os.ErrClosed) {
		errs = append(errs, err)
	}
	for _, s := range []*socket{reader, writer} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}
