package nft

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/packet"
)

// owner is the environment variable that makes this test binary a program that holds both tables in its namespace
// until it is killed.
const owner = "NFT_TEST_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(owner) != "" {
		if err := hold(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	os.Exit(netns.Main(m.Run))
}

func hold() error {
	g, err := OpenGuard("")
	if err != nil {
		return err
	}
	c, err := OpenCarrier("", 100)
	if err != nil {
		return err
	}
	if err := g.Set([]string{"clients"}, packet.Claim{VIPs: []packet.Endpoints{{Addr: box4, Proto: 6, First: 80, Last: 80}}}); err != nil {
		return err
	}
	return c.Set([]string{"clients", "servers"})
}

// The lab:
//
//	client .2 ── 198.51.100.0/24 ── .1 clients [box] servers .1 ── 10.0.0.0/24 ── .2 server
//	          2001:db8:1::/64                              2001:db8:2::/64
//
// The box is the gateway of both, and its kernel forwards nothing. The VIPs are nobody's.
var (
	client4, box4 = netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.1")
	back4, rs4    = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	vip4          = netip.MustParseAddr("203.0.113.22")
	client6, box6 = netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("2001:db8:1::1")
	back6, rs6    = netip.MustParseAddr("2001:db8:2::1"), netip.MustParseAddr("2001:db8:2::2")
	vip6          = netip.MustParseAddr("2001:db8:9::22")
)

// lab is the three of them.
type lab struct {
	client, box, server *netns.NS
	links               map[string]int // indexes of the box's interfaces
	macs                map[string]netns.MAC
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{links: map[string]int{}}
	for name, ns := range map[string]**netns.NS{"client": &l.client, "box": &l.box, "server": &l.server} {
		made, err := netns.New(name)
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { made.Close() })
		*ns = made
	}
	connect := func(far *netns.NS, iface string, near, its [2]netip.Addr) {
		must(t, netns.Connect(
			netns.End{NS: l.box, Name: iface, Addresses: prefixes(near)},
			netns.End{NS: far, Name: "eth0", Addresses: prefixes(its)}))
		for i, to := range []string{"0.0.0.0/0", "::/0"} {
			must(t, far.AddRoute(netns.Route{To: netip.MustParsePrefix(to), Via: near[i]}))
		}
	}
	connect(l.client, "clients", [2]netip.Addr{box4, box6}, [2]netip.Addr{client4, client6})
	connect(l.server, "servers", [2]netip.Addr{back4, back6}, [2]netip.Addr{rs4, rs6})
	for _, ns := range []*netns.NS{l.client, l.box, l.server} {
		must(t, ns.Settle())
	}
	var err error
	l.macs, err = l.box.MACs()
	must(t, err)
	for name := range l.macs {
		link, err := l.box.Handle().LinkByName(name)
		must(t, err)
		l.links[name] = link.Attrs().Index
	}
	return l
}

// pin tells the box its neighbours, so that no packet waits for an answer.
func (l *lab) pin(t testing.TB) {
	t.Helper()
	for iface, far := range map[string]*netns.NS{"clients": l.client, "servers": l.server} {
		macs, err := far.MACs()
		must(t, err)
		at := []netip.Addr{client4, client6}
		if iface == "servers" {
			at = []netip.Addr{rs4, rs6}
		}
		for _, a := range at {
			must(t, l.box.AddNeighbour(iface, a, macs["eth0"]))
		}
	}
}

func prefixes(a [2]netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(a[0], 24), netip.PrefixFrom(a[1], 64)}
}

func (l *lab) guard(t testing.TB) *Guard {
	t.Helper()
	g, err := OpenGuard(l.box.Path())
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	return g
}

func (l *lab) carrier(t testing.TB, limit int) *Carrier {
	t.Helper()
	c, err := OpenCarrier(l.box.Path(), limit)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	must(t, c.Set([]string{"clients", "servers"}))
	return c
}

// tables are the names of all that are there.
func (l *lab) tables(t testing.TB) (names []string) {
	t.Helper()
	s, err := open(l.box.Path())
	must(t, err)
	defer s.close()
	names, err = s.tables()
	must(t, err)
	return names
}

// nft runs nft on the box where it is installed; only tests do. What it says to stderr is no failure: it has no words for some
// of our rules.
func (l *lab) nft(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	out, err := l.box.Command(context.Background(), "nft", args...).Output()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that is on its way.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: in vain", what)
		}
	}
}
