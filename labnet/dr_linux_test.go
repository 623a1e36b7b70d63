package labnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

func openDR(t *testing.T, o DROptions) *Lab {
	t.Helper()
	return openTopology(t, DR(o))
}

// hurry has the client give up quickly on neighbours, where the test wants none to answer.
func hurry(t *testing.T, l *Lab) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		if err := l.NS("client").Sysctl(family+"/neigh/eth0/retrans_time_ms", "20"); err != nil {
			t.Fatal(err)
		}
	}
}

func vip(is6 bool) netip.Addr {
	if is6 {
		return netip.MustParseAddr(VIP6)
	}
	return netip.MustParseAddr(VIP)
}

// mac is that of a node's eth0.
func mac(t *testing.T, l *Lab, node string) MAC {
	t.Helper()
	macs, err := l.NS(node).MACs()
	if err != nil {
		t.Fatal(err)
	}
	return macs["eth0"]
}

// reaches tells whether a TCP connection can be made; the test fails for any other reason not to
// than that nobody answers for the address.
func reaches(t *testing.T, l *Lab, from string, to netip.Addr) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := l.NS(from).DialContext(ctx, "tcp", netip.AddrPortFrom(to, 80).String())
	if err == nil {
		c.Close()
		return true
	}
	if !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("%s to %s: %v", from, to, err)
	}
	return false
}

func TestDR(t *testing.T) {
	for _, shape := range []Shape{OneArm, Inline} {
		for _, packet := range []bool{false, true} {
			for _, o := range []DROptions{
				{Clients: 2},
				{Clients: 2, NoOffload: true, VIPOn: "eth0"},
				{Servers: 2, Gateway: true, Quiet: true},
			} {
				o.Shape, o.Packet = shape, packet
				t.Run(fmt.Sprintf("%s packet=%v %+v", shape, packet, o), func(t *testing.T) { checkDR(t, o) })
			}
		}
	}
}

func checkDR(t *testing.T, o DROptions) {
	l := openDR(t, o)
	if o.Shape == Inline {
		hurry(t, l)
	}
	for _, is6 := range []bool{false, true} {
		for _, n := range l.Topology().Nodes {
			address := l.Topology().Address(n.Name, "eth0", is6)
			switch {
			case len(n.Services) == 0:
				continue
			case o.Shape == Inline: // nothing joins the halves without tunlb
				if reaches(t, l, "client", address) {
					t.Errorf("client reaches %s, %s", n.Name, address)
				}
			default:
				checkServer(t, l, n.Name, is6)
			}
			if n.Name != "rs1" && !reaches(t, l, "rs1", address) {
				t.Errorf("rs1 doesn't reach %s on its own side", n.Name)
			}
		}
		if o.Clients > 1 {
			reachesClient2(t, l, is6)
		}
		if o.Gateway {
			reachesRouter(t, l, is6)
		}
	}
	for _, link := range l.Topology().Links {
		for _, end := range []End{link.A, link.B} {
			checksum, segmentation, err := l.NS(end.Node).Offload(end.Interface)
			if err != nil || checksum == o.NoOffload || segmentation == o.NoOffload {
				t.Errorf("%s %s: offload of checksum %v, segmentation %v, %v", end.Node, end.Interface, checksum, segmentation, err)
			}
		}
	}
}

// reachesClient2: the clients are on one side in every shape.
func reachesClient2(t *testing.T, l *Lab, is6 bool) {
	t.Helper()
	server, err := l.NS("client2").Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if !reaches(t, l, "client", l.Topology().Address("client2", "eth0", is6)) {
		t.Error("client doesn't reach client2")
	}
}

// reachesRouter: remote and the clients have each other by way of the router.
func reachesRouter(t *testing.T, l *Lab, is6 bool) {
	t.Helper()
	server, err := l.NS("client").Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if !reaches(t, l, "remote", l.Topology().Address("client", "eth0", is6)) {
		t.Error("remote doesn't reach client")
	}
}

// TestServersOwnTheVIP is DR by hand: the client is told which server's MAC the VIP has.
func TestServersOwnTheVIP(t *testing.T) {
	for _, on := range []string{"lo", "eth0"} {
		for _, noOffload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s noOffload=%v", on, noOffload), func(t *testing.T) {
				l := openDR(t, DROptions{VIPOn: on, Quiet: true, NoOffload: noOffload})
				for _, is6 := range []bool{false, true} {
					for _, server := range []string{"rs2", "rs3"} {
						if err := l.NS("client").AddNeighbour("eth0", vip(is6), mac(t, l, server)); err != nil {
							t.Fatal(err)
						}
						checkAt(t, l, server, vip(is6), is6)
					}
				}
			})
		}
	}
}

// byHand has the client send a request for the VIP to rs2's MAC, and captures it at both.
func byHand(t *testing.T, l *Lab, is6 bool) (client, server []Point) {
	t.Helper()
	if err := l.NS("client").AddNeighbour("eth0", vip(is6), mac(t, l, "rs2")); err != nil {
		t.Fatal(err)
	}
	if err := l.NS("rs2").FlushNeighbours(); err != nil {
		t.Fatal(err)
	}
	points := capture(t, l, []string{"client eth0", "rs2 eth0"}, func() {
		get(t, l.NS("client").HTTPClient(), "http://"+netip.AddrPortFrom(vip(is6), 80).String()+"/")
	})
	return points[:1], points[1:]
}

// capture is what passes interfaces, each given as "node interface", while f runs.
func capture(t *testing.T, l *Lab, hops []string, f func()) []Point {
	t.Helper()
	var sniffers []*netns.Sniffer
	for _, hop := range hops {
		node, iface, _ := strings.Cut(hop, " ")
		s, err := l.NS(node).Sniff(iface)
		if err != nil {
			t.Fatal(err)
		}
		sniffers = append(sniffers, s)
	}
	f()
	var points []Point
	for i, s := range sniffers {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		points = append(points, Point{hops[i], s.Packets()})
	}
	return points
}

func names(t *testing.T, l *Lab) map[MAC]string {
	t.Helper()
	n, err := l.Names()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// echo sends a datagram and waits for the answer. Where several hosts claim an address, a TCP
// connection may begin with one and go on with another.
func echo(t *testing.T, l *Lab, to netip.Addr) {
	t.Helper()
	c, err := l.NS("client").DialContext(t.Context(), "udp", netip.AddrPortFrom(to, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, werr := c.Write([]byte("ping"))
	_, rerr := c.Read(make([]byte, 64))
	if err := errors.Join(werr, rerr); err != nil {
		t.Errorf("echo at %s: %v", to, err)
	}
}

// TestWhoAnswersForTheVIP records what Linux does, and so what tunlb is up against.
func TestWhoAnswersForTheVIP(t *testing.T) {
	for _, c := range []struct {
		on     string
		quiet  bool
		is6    bool
		answer bool
	}{
		{"lo", false, false, true}, // ARP answers for any address of the host,
		{"lo", true, false, false}, // but not with arp_ignore=1, which wants it on the interface.
		{"lo", false, true, false}, // Neighbour discovery answers for the interface's own only,
		{"lo", true, true, false},
		{"eth0", false, false, true}, // which no sysctl prevents on either.
		{"eth0", true, false, true},
		{"eth0", false, true, true},
		{"eth0", true, true, true},
		{"none", false, false, false},
		{"none", false, true, false},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			l := openDR(t, DROptions{VIPOn: c.on, Quiet: c.quiet, Servers: 2})
			s, err := l.NS("client").Sniff("eth0")
			if err != nil {
				t.Fatal(err)
			}
			if c.answer {
				echo(t, l, vip(c.is6))
			} else {
				hurry(t, l)
				if reaches(t, l, "client", vip(c.is6)) {
					t.Error("client reaches the VIP")
				}
			}
			who := map[string]bool{}
			claim := func(p Packet) bool {
				e, ok := resolution(p)
				src, _, _ := p.MACs()
				if ok && !p.Out && e.Says == Answers && e.Target == vip(c.is6) && e.MAC == src {
					who[names(t, l)[src]] = true
				}
				return len(who) == 2
			}
			if c.answer {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, err := s.Wait(ctx, claim); err != nil {
					t.Errorf("answers from %v only: %v", who, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			for _, p := range s.Packets() {
				claim(p)
			}
			if c.answer != (len(who) == 2) || !c.answer && len(who) > 0 {
				t.Errorf("answers from %v", who)
			}
			checkCache(t, l, c.is6, c.answer)
		})
	}
}

// checkCache looks for one of the servers in the client's neighbour table.
func checkCache(t *testing.T, l *Lab, is6, want bool) {
	t.Helper()
	n, ok, err := l.NS("client").Neighbour(vip(is6))
	known := ok && n.MAC != (MAC{}) && slices.Contains([]MAC{mac(t, l, "rs1"), mac(t, l, "rs2")}, n.MAC)
	if err != nil || known != want {
		t.Errorf("the client's neighbour %+v, %v, %v; want a server there: %v", n, ok, err, want)
	}
}

// TestInWhoseNameServersAsk: a server that answers from the VIP asks for the client's MAC before,
// and whoever hears that believes that the VIP is there.
func TestInWhoseNameServersAsk(t *testing.T) {
	for _, c := range []struct {
		on    string
		quiet bool
		is6   bool
		asVIP bool
	}{
		{"lo", false, false, true},
		{"lo", true, false, false}, // arp_announce=2
		{"lo", false, true, false}, // neighbour discovery asks in the name of the interface's addresses only
		{"eth0", false, false, true},
		{"eth0", true, false, false}, // arp_announce=2 prefers the address that is in the client's network
		{"eth0", false, true, true},
		{"eth0", true, true, true}, // and knows nothing of IPv6
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			l := openDR(t, DROptions{VIPOn: c.on, Quiet: c.quiet})
			client, server := byHand(t, l, c.is6)
			var asked []netip.Addr
			for _, e := range Conversation(client, server, names(t, l)) {
				if e.Says == Asks && e.From == "rs2" && e.Target == l.Topology().Address("client", "eth0", c.is6) {
					asked = append(asked, e.Sender)
					if e.Fate != "" || len(e.At) != 2 {
						t.Errorf("%+v, want it at both", e)
					}
				}
			}
			if len(asked) == 0 || (asked[0] == vip(c.is6)) != c.asVIP {
				t.Errorf("rs2 asks in the name of %v, of the VIP: want %v", asked, c.asVIP)
			}
		})
	}
}

// TestSuppressedOnRealLinks: rs1 begins to speak from the VIP, and asks for the client's MAC in its
// name. In one segment the client hears that; with the halves apart it does not.
func TestSuppressedOnRealLinks(t *testing.T) {
	for _, shape := range []Shape{OneArm, Inline} {
		for _, is6 := range []bool{false, true} {
			l := openDR(t, DROptions{Shape: shape, VIPOn: "eth0"})
			points := capture(t, l, []string{"client eth0", "rs1 eth0", "rs2 eth0"}, func() {
				// rs1 gives up a moment after it has asked, or is refused.
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				to := netip.AddrPortFrom(l.Topology().Address("client", "eth0", is6), 80)
				if _, err := l.NS("rs1").DialFrom(ctx, "tcp", netip.AddrPortFrom(vip(is6), 0), to); err == nil {
					t.Error("the client serves")
				}
			})
			all := Conversation(points[:1], points[1:], names(t, l), vip(is6))
			i := slices.IndexFunc(all, func(e Exchange) bool { return e.From == "rs1" && e.Says == Asks && e.Sender == vip(is6) })
			if want := map[Shape]Fate{Inline: Suppressed}[shape]; i < 0 || all[i].Fate != want {
				t.Errorf("%s, IPv6 %v: %+v, want fate %q", shape, is6, all, want)
			}
		}
	}
}

func TestDuplicateAddressDetection(t *testing.T) {
	p := prefix(VIP6 + "/128")
	for _, dad := range []bool{false, true} {
		l := openDR(t, DROptions{Servers: 2, VIPOn: "none", DAD: dad})
		s, err := l.NS("client").Sniff("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.NS("rs1").AddAddress("eth0", p); err != nil {
			t.Error(err)
		}
		err = l.NS("rs2").AddAddress("eth0", p)
		if (err != nil) != dad || dad && !strings.Contains(err.Error(), "another owner") {
			t.Errorf("detection %v: the second server's address: %v", dad, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		probed := Conversation([]Point{{"client eth0", s.Packets()}}, nil, names(t, l), p.Addr())
		if i := slices.IndexFunc(probed, func(e Exchange) bool { return e.Says == Probes && e.From == "rs2" }); (i >= 0) != dad {
			t.Errorf("detection %v: %+v", dad, probed)
		}
	}
}

func TestStations(t *testing.T) {
	l := openDR(t, DROptions{Packet: true})
	if got := mac(t, l, "rs1").String(); got != "02:00:cb:00:71:0a" {
		t.Errorf("rs1 is at %s, want a MAC that tells its address", got)
	}
	all := names(t, l)
	for _, node := range []string{"client", "lb", "rs1", "lan"} {
		macs, err := l.NS(node).MACs()
		for iface, m := range macs {
			if all[m] != node {
				t.Errorf("%s %s: %s is %q's", node, iface, m, all[m])
			}
		}
		if err != nil || len(macs) == 0 {
			t.Errorf("%s: %v, %v", node, macs, err)
		}
	}
	out, err := l.NS("lan").Command(t.Context(), "cat", "/proc/net/if_inet6").Output()
	if err != nil || strings.Count(string(out), "\n") != 1 {
		t.Errorf("a switch has addresses besides ::1: %v\n%s", err, out)
	}
}

func TestSysctls(t *testing.T) {
	topology := DR(DROptions{Servers: 1})
	n := &topology.Nodes[len(topology.Nodes)-1]
	n.Sysctls["ipv4/conf/eth0/arp_ignore"] = "8"
	n.Sysctls["ipv4/conf/default/arp_announce"] = "2"
	l := openTopology(t, topology)
	for path, want := range map[string]string{"eth0/arp_ignore": "8", "eth0/arp_announce": "2", "all/arp_ignore": "0"} {
		got, err := l.NS(n.Name).Command(t.Context(), "cat", "/proc/sys/net/ipv4/conf/"+path).Output()
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, want %s; %v", path, got, want, err)
		}
	}
	n.Sysctls["ipv4/conf/eth0/no_such"] = "1"
	if l, err := Open(topology); err == nil || !strings.Contains(err.Error(), "rs1") {
		t.Errorf("an unknown sysctl: %v", errors.Join(err, l.Close()))
	}
}

func TestFramesOfRealPackets(t *testing.T) {
	for _, noOffload := range []bool{false, true} {
		for _, is6 := range []bool{false, true} {
			l := openDR(t, DROptions{NoOffload: noOffload})
			client, server := byHand(t, l, is6)
			j, err := Trace(append(client, server...))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := j.Frames(&b, names(t, l), false); err != nil {
				t.Fatal(err)
			}
			for _, row := range slices.Concat(j.Request, j.Answer) {
				if row.Changed != 0 || row.TTL != 64 {
					t.Errorf("%+v, want it unchanged", row)
				}
			}
			if got := b.String(); strings.Count(got, "  client  ->  rs2  ") != 2 || strings.Count(got, "  rs2     ->  client  ") != 2 {
				t.Errorf("got\n%s", got)
			}
		}
	}
}

func TestDRSetupTime(t *testing.T) {
	var times []time.Duration
	for range 5 {
		start := time.Now()
		l := openDR(t, DROptions{Shape: Inline})
		times = append(times, time.Since(start).Round(100*time.Microsecond))
		l.Close()
	}
	slices.Sort(times)
	t.Logf("opened in %v", times)
	if times[0] > 100*time.Millisecond {
		t.Errorf("opening takes %v at best, want less than 100 ms", times[0])
	}
}
