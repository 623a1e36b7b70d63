package nft

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// outlive duplicates a descriptor, as who keeps it for a successor does.
func outlive(t testing.TB, fd int, ok bool) int {
	t.Helper()
	if !ok {
		t.Fatal("no descriptor")
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	must(t, err)
	return dup
}

func (l *lab) adoptGuard(t testing.TB, fd int) (g *Guard, err error) {
	t.Helper()
	must(t, l.box.Do(func() error {
		g, err = AdoptGuard(fd)
		return nil
	}))
	return g, err
}

func (l *lab) adoptCarrier(t testing.TB, fd, limit int) (c *Carrier, err error) {
	t.Helper()
	must(t, l.box.Do(func() error {
		c, err = AdoptCarrier(fd, limit)
		return nil
	}))
	return c, err
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// TestInheritedGuard: one after the other keeps the kernel from the same packets, of which not a single one gets through in between,
// and the last one gives all back.
func TestInheritedGuard(t *testing.T) {
	l := newLab(t)
	claim := packet.Claim{VIPs: []packet.Endpoints{{Addr: box4, Proto: 6, First: 80, Last: 80}}}
	g, err := OpenGuard(l.box.Path())
	must(t, err)
	must(t, g.Set([]string{"clients"}, claim))
	if l.refused(t) {
		t.Fatal("the kernel has got a guarded packet")
	}
	var tries, refused atomic.Int64
	var knocking sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	for range 4 {
		knocking.Go(func() {
			for ctx.Err() == nil {
				short, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
				conn, err := l.client.DialContext(short, "tcp", netip.AddrPortFrom(box4, 80).String())
				cancel()
				tries.Add(1)
				if err == nil {
					conn.Close()
				}
				if err == nil || errors.Is(err, unix.ECONNREFUSED) {
					refused.Add(1)
				}
			}
		})
	}
	before := openDescriptors(t)
	for i := range 50 {
		fd, ok := g.Descriptor()
		fd = outlive(t, fd, ok)
		must(t, g.Close())
		if g, err = l.adoptGuard(t, fd); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // now and then one is killed before it has come to that
			must(t, g.Set([]string{"clients"}, claim))
		}
		if got := l.tables(t); len(got) != 1 {
			t.Fatalf("tables %q, want one", got)
		}
	}
	eventually(t, "many knock", func() bool { return tries.Load() > 200 })
	stop()
	knocking.Wait()
	if n := refused.Load(); n > 0 {
		t.Errorf("the kernel has answered %d of %d", n, tries.Load())
	}
	if after := openDescriptors(t); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	must(t, g.Close())
	if names := l.tables(t); len(names) > 0 {
		t.Errorf("left over: %q", names)
	}
	if !l.refused(t) {
		t.Error("the kernel does not answer any more")
	}
}

// TestInheritedHalfway: a predecessor was killed with the new table in force and the old one not gone.
func TestInheritedHalfway(t *testing.T) {
	l := newLab(t)
	old := packet.Claim{VIPs: []packet.Endpoints{{Addr: box4, Proto: 6, First: 80, Last: 80}, {Addr: box4, Proto: 6, First: 81, Last: 81}}}
	claim := packet.Claim{VIPs: old.VIPs[:1]}
	for _, sets := range []int{1, 2} {
		g, err := OpenGuard(l.box.Path())
		must(t, err)
		for range sets { // either name is that of the older one
			must(t, g.Set([]string{"clients"}, old))
		}
		g.writeLocked([]string{"clients"}, &claim)
		must(t, g.socket.apply(&g.batch))
		if got := l.tables(t); len(got) != 2 {
			t.Fatalf("tables %q, want two", got)
		}
		fd, ok := g.Descriptor()
		fd = outlive(t, fd, ok)
		must(t, g.Close())
		if g, err = l.adoptGuard(t, fd); err != nil {
			t.Fatal(err)
		}
		if l.refused(t) {
			t.Error("adopted, it keeps nothing")
		}
		must(t, g.Set([]string{"clients"}, claim))
		if got := l.tables(t); len(got) != 1 || l.refused(t) {
			t.Errorf("set, it has tables %q", got)
		}
		must(t, g.Set([]string{"clients"}, packet.Claim{}))
		if got := l.tables(t); len(got) != 1 || !l.refused(t) {
			t.Errorf("of the predecessor something is left: tables %q", got)
		}
		must(t, g.Close())
	}
}

// TestInheritedCarrier: what a predecessor had the kernel carry is carried until Renew, and counts for nothing.
func TestInheritedCarrier(t *testing.T) {
	l := newLab(t)
	l.pin(t)
	first, err := OpenCarrier(l.box.Path(), 10)
	must(t, err)
	must(t, first.Set([]string{"clients", "servers"}))
	near, err := l.client.ListenPacket("udp", netip.AddrPortFrom(client4, 5000).String())
	must(t, err)
	defer near.Close()
	far, err := l.server.ListenPacket("udp", netip.AddrPortFrom(rs4, 5353).String())
	must(t, err)
	defer far.Close()
	from, to := netip.AddrPortFrom(client4, 5000), netip.AddrPortFrom(vip4, 53)
	conn := l.nat(17, from, to, from, netip.AddrPortFrom(rs4, 5353))
	must(t, first.Add([]Conn{conn})[0])
	arrives := func(text string) bool {
		_, err := near.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to))
		must(t, err)
		must(t, far.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		buf := make([]byte, 100)
		n, _, err := far.ReadFrom(buf)
		return err == nil && string(buf[:n]) == text
	}
	if !arrives("first") {
		t.Fatal("nothing is carried")
	}
	fd, ok := first.Descriptor()
	fd = outlive(t, fd, ok)
	must(t, first.Close())
	if !arrives("with nobody there") {
		t.Error("in between nothing is carried")
	}
	tables := l.tables(t)
	second, err := l.adoptCarrier(t, fd, 300)
	must(t, err)
	defer func() { must(t, second.Close()) }()
	if !arrives("adopted") || second.Len() != 0 || len(usage(t, second)) != 0 {
		t.Errorf("adopted, it carries %d connections of its own, or the old one not", second.Len())
	}
	must(t, second.Renew())
	if arrives("renewed") {
		t.Error("the old connection is still carried")
	}
	if got := l.tables(t); !slices.Equal(got, tables) {
		t.Errorf("tables %q, before %q", got, tables)
	}
	must(t, second.Renew())
	must(t, second.Set([]string{"clients", "servers"}))
	for i, err := range second.Add(append(connections(299), conn)) {
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if !arrives("carried anew") {
		t.Error("the connection is not carried anew")
	}
	for _, u := range usage(t, second) {
		if u.Outer == conn.Outer && !u.Reverse && u.Packets != 1 {
			t.Errorf("%+v", u)
		}
	}
}

// TestInheritedCarrierAdds: who adds at once ends what was carried before as well.
func TestInheritedCarrierAdds(t *testing.T) {
	l := newLab(t)
	c, err := OpenCarrier(l.box.Path(), 10)
	must(t, err)
	before := openDescriptors(t)
	for range 50 {
		for _, err := range c.Add(connections(10)) {
			must(t, err) // there would be no room if the old ones were there
		}
		fd, ok := c.Descriptor()
		fd = outlive(t, fd, ok)
		must(t, c.Close())
		if c, err = l.adoptCarrier(t, fd, 10); err != nil {
			t.Fatal(err)
		}
	}
	if after := openDescriptors(t); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if n := len(l.tables(t)); n != 1 {
		t.Errorf("%d tables", n)
	}
	must(t, c.Close())
}

// TestInheritedInMidAnswer: a predecessor is killed with a listing, and more answers, unread.
func TestInheritedInMidAnswer(t *testing.T) {
	l := newLab(t)
	c, err := OpenCarrier(l.box.Path(), 5000)
	must(t, err)
	for _, err := range c.Add(connections(5000)) {
		must(t, err)
	}
	b := &batch{}
	b.begin(c.table, c.socket.next)
	b.plain(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
	b.text(unix.NFTA_SET_ELEM_LIST_SET, families[0].chain("connections"))
	b.endMessage()
	must(t, c.socket.send(b.buf))
	b.start(c.table, 1) // the numbers of a successor's first messages
	for range 20 {
		b.deleteIngress("nowhere")
	}
	b.finish()
	must(t, c.socket.send(b.buf))
	fd, ok := c.Descriptor()
	fd = outlive(t, fd, ok)
	must(t, c.Close())
	next, err := l.adoptCarrier(t, fd, 10)
	must(t, err)
	must(t, next.Set([]string{"clients"}))
	must(t, next.Add(connections(1))[0])
	must(t, next.Close())
}

// TestInheritedOfAnotherKind: what is no such socket is closed, and said.
func TestInheritedOfAnotherKind(t *testing.T) {
	l := newLab(t)
	made := func(domain, kind, proto int) int {
		var fd int
		must(t, l.box.Do(func() (err error) {
			fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
			return err
		}))
		return fd
	}
	pipe := func() int {
		var p [2]int
		must(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
		unix.Close(p[1])
		return p[0]
	}
	elsewhere := func() int {
		g, err := OpenGuard(l.client.Path())
		must(t, err)
		fd, ok := g.Descriptor()
		defer g.Close()
		return outlive(t, fd, ok)
	}
	for name, tt := range map[string]struct {
		fd   func() int
		says string
	}{
		"another family":    {func() int { return made(unix.AF_INET, unix.SOCK_DGRAM, 0) }, "another kind of socket"},
		"another netlink":   {func() int { return made(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) }, "another kind of socket"},
		"no socket":         {pipe, "non-socket"},
		"another namespace": {elsewhere, "another network namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, adopt := range map[string]func(fd int) error{
				"guard":   func(fd int) error { _, err := l.adoptGuard(t, fd); return err },
				"carrier": func(fd int) error { _, err := l.adoptCarrier(t, fd, 10); return err },
			} {
				fd := tt.fd()
				if err := adopt(fd); err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s: %v, want %q", kind, err, tt.says)
				}
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
					t.Errorf("%s: the descriptor is still open", kind)
				}
			}
		})
	}
}
