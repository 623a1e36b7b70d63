package labnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/labnet/netns"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Main(func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

func open(t *testing.T, o StoryOptions) *Lab {
	t.Helper()
	return openTopology(t, Story(o))
}

// openTopology makes a lab for the test, or skips the test where there can't be one.
func openTopology(t *testing.T, topology Topology) *Lab {
	t.Helper()
	l, err := Open(topology)
	var u *netns.Unsupported
	if errors.As(err, &u) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// get is the body of an answer.
func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", url, r.Status, err)
	}
	return string(body)
}

func TestStory(t *testing.T) {
	for _, o := range []StoryOptions{
		{},
		{NoOffload: true},
		{OwnVIP: true},
		{Clients: 3, Servers: 5},
		{Router: true},
		{Router: true, Clients: 2, OwnVIP: true, NoOffload: true, ClientMTU: 1400},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			l := open(t, o)
			for _, is6 := range []bool{false, true} {
				checkBalancer(t, l, is6)
				for _, n := range l.Topology().Nodes {
					switch {
					case len(n.Services) > 0:
						checkServer(t, l, n.Name, is6)
					case !n.Switch && !n.Forward:
						checkClient(t, l, n.Name, is6)
					}
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
		})
	}
}

// checkBalancer connects from the client to the balancer's outer address, and to the VIP if it
// is the balancer's own.
func checkBalancer(t *testing.T, l *Lab, is6 bool) {
	t.Helper()
	listener, err := l.NS("lb").Listen("tcp", ":1234")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	targets := []netip.Addr{l.Topology().Address("lb", "eth0", is6)}
	for _, end := range l.Topology().ends("lb") {
		for _, p := range end.Addresses {
			if p.IsSingleIP() && p.Addr().Is6() == is6 {
				targets = append(targets, p.Addr())
			}
		}
	}
	for _, a := range targets {
		c, err := l.NS("client").DialContext(t.Context(), "tcp", netip.AddrPortFrom(a, 1234).String())
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}

func checkServer(t *testing.T, l *Lab, name string, is6 bool) {
	t.Helper()
	checkAt(t, l, name, l.Topology().Address(name, "eth0", is6), is6)
}

// checkAt has the client use all services of that server, at one of its addresses.
func checkAt(t *testing.T, l *Lab, name string, at netip.Addr, is6 bool) {
	t.Helper()
	client := l.NS("client")
	from := l.Topology().Address("client", "eth0", is6)
	address := func(port uint16) string { return netip.AddrPortFrom(at, port).String() }
	for _, port := range []uint16{80, 8080} {
		got := get(t, client.HTTPClient(), "http://"+address(port)+"/a?b=c")
		if want := name + " GET /a?b=c from " + strings.TrimSuffix(netip.AddrPortFrom(from, 0).String(), "0"); !strings.HasPrefix(got, want) {
			t.Errorf("answer %q, want %q...", got, want)
		}
	}
	for network, want := range map[string]string{"tcp": "ping", "udp": name + " ping"} {
		c, err := client.DialContext(t.Context(), network, address(7))
		if err != nil {
			t.Error(err)
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 64)
		_, werr := c.Write([]byte("ping"))
		n, rerr := c.Read(buf)
		if werr != nil || rerr != nil || string(buf[:n]) != want {
			t.Errorf("echo over %s: %q, want %q; %v %v", network, buf[:n], want, werr, rerr)
		}
		c.Close()
	}
}

func checkClient(t *testing.T, l *Lab, name string, is6 bool) {
	t.Helper()
	server := netip.AddrPortFrom(l.Topology().Address("rs1", "eth0", is6), 80)
	from := l.Topology().Address(name, "eth0", is6)
	if got := get(t, l.NS(name).HTTPClient(), "http://"+server.String()); !strings.Contains(got, from.String()) {
		t.Errorf("%s: %q, want it to come from %s", name, got, from)
	}
}

// TestPathMTU: full segments for the client meet the narrow link only behind the router.
func TestPathMTU(t *testing.T) {
	for _, is6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("is6=%v", is6), func(t *testing.T) {
			l := open(t, StoryOptions{Router: true, ClientMTU: 1400})
			s, err := l.NS("rs1").Sniff("eth0")
			if err != nil {
				t.Fatal(err)
			}
			const size = 1 << 20
			server := netip.AddrPortFrom(l.Topology().Address("rs1", "eth0", is6), 80)
			got := get(t, l.NS("client").HTTPClient(), fmt.Sprintf("http://%s/bytes/%d", server, size))
			want, _ := io.ReadAll(Bytes(size))
			if got != string(want) {
				t.Error("the download is damaged")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := s.Wait(ctx, tooBig); err != nil {
				t.Error("no message that a packet was too big:", err)
			}
		})
	}
}

// tooBig matches ICMP's fragmentation needed and ICMPv6's packet too big, with MTU 1400.
func tooBig(p netns.Packet) bool {
	d := p.Data
	if p.Out || len(d) < 14+48 {
		return false
	}
	mtu := []byte{1400 >> 8, 1400 & 0xff}
	v4 := d[14] == 0x45 && d[14+9] == 1 && d[34] == 3 && d[35] == 4 && bytes.Equal(d[40:42], mtu)
	v6 := d[14]>>4 == 6 && d[14+6] == 58 && d[54] == 2 && bytes.Equal(d[60:62], mtu)
	return v4 || v6
}

func TestJourneyOfRealPackets(t *testing.T) {
	for _, o := range []StoryOptions{{}, {NoOffload: true}} {
		l := open(t, o)
		var points []Point
		var sniffers []*netns.Sniffer
		hops := [][2]string{{"client", "eth0"}, {"lb", "eth0"}, {"lb", "eth1"}, {"rs2", "eth0"}}
		for _, hop := range hops {
			s, err := l.NS(hop[0]).Sniff(hop[1])
			if err != nil {
				t.Fatal(err)
			}
			sniffers = append(sniffers, s)
		}
		get(t, l.NS("client").HTTPClient(), "http://192.168.0.11/bytes/100000")
		for i, s := range sniffers {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			points = append(points, Point{strings.Join(hops[i][:], " "), s.Packets()})
		}
		j, err := Trace(points)
		if err != nil {
			t.Fatal(err)
		}
		if len(j.Request) != 4 || len(j.Answer) != 4 {
			t.Fatalf("%+v", j)
		}
		for i, r := range append(slices.Clone(j.Request), j.Answer...) {
			ttl := []uint8{64, 64, 63, 63, 64, 64, 63, 63}[i]
			changed := []Field{0, 0, TTL, 0, 0, 0, TTL, 0}[i]
			state := Partial
			if o.NoOffload {
				state = Valid
			}
			if r.TTL != ttl || r.Changed&^(Checksum|SrcMAC|DstMAC) != changed || r.State != state {
				t.Errorf("row %d: %+v, want TTL %d, %s", i, r, ttl, state)
			}
		}
		if t.Failed() {
			_ = j.Table(t.Output(), false)
		}
	}
}

func TestUpload(t *testing.T) {
	l := open(t, StoryOptions{Servers: 1})
	content, _ := io.ReadAll(Bytes(300_000))
	r, err := l.NS("client").HTTPClient().Post("http://192.168.0.10/up", "", bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	got, _ := io.ReadAll(r.Body)
	if want := fmt.Sprintf(" 300000 bytes sha256 %x\n", sha256.Sum256(content)); !strings.HasSuffix(string(got), want) || r.Header.Get("Server") != "rs1" {
		t.Errorf("%q from %s, want %q", got, r.Header.Get("Server"), want)
	}
}

// TestCloseWithOpenConnections: nothing keeps a lab from closing (goleak looks in TestMain).
func TestCloseWithOpenConnections(t *testing.T) {
	l := open(t, StoryOptions{})
	client := l.NS("client")
	for _, address := range []string{"192.168.0.10:7", "192.168.0.10:80"} {
		c, err := client.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	sleep := client.Command(t.Context(), "sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Sniff("eth0"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if sleep.ProcessState == nil {
		t.Error("Close has not waited for a child process")
	}
	if _, err := client.Listen("tcp", ":1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close: %v", err)
	}
}

func TestNoDescriptorLeft(t *testing.T) {
	count := func() int {
		open(t, StoryOptions{}).Close()
		bad := Story(StoryOptions{})
		bad.Nodes[0].Routes = []Route{{To: prefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.1.1.1")}}
		if _, err := Open(bad); err == nil || !strings.Contains(err.Error(), "10.0.0.0/8") {
			t.Errorf("route without a way: %v", err)
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 3 {
		if after := count(); after > before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
	}
}

func TestSetupTime(t *testing.T) {
	var times []time.Duration
	for range 9 {
		start := time.Now()
		l := open(t, StoryOptions{})
		times = append(times, time.Since(start))
		get(t, l.NS("client").HTTPClient(), "http://[2001:db8:c0::12]/") // no first packet is lost
		times[len(times)-1] = times[len(times)-1].Round(100 * time.Microsecond)
		l.Close()
	}
	slices.Sort(times)
	t.Logf("opened in %v (median %v)", times, times[len(times)/2])
	if times[0] > 100*time.Millisecond {
		t.Errorf("opening takes %v at best, want less than 100 ms", times[0])
	}
}

// TestAsOrdinaryUser runs this package's tests without root's privileges.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("that is what the other tests do now")
	}
	// The go command builds where other users may not look.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "labnet")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary, err := os.ReadFile(self)
	program := filepath.Join(dir, "program")
	if err = errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(program, binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.skip=AsOrdinaryUser")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "SKIP") {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "opened in") {
			t.Log("as an ordinary user:", strings.TrimSpace(line))
		}
	}
}
