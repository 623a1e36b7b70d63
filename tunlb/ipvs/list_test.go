package ipvs_test

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// TestListings compares listings of all that services and servers can have, and of large numbers, with those
// that ipvsadm prints when a kernel tells it so: testdata/kernel.txt.
func TestListings(t *testing.T) {
	m := newMachine(t)
	m.state, m.view = readKernel(t)
	text, err := os.ReadFile("testdata/listings.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for block := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n\n"), "\n\n") {
		args, want, _ := strings.Cut(block, "\n")
		args = strings.TrimPrefix(args, "$ ipvsadm ")
		got := strings.TrimSuffix(m.run(strings.Fields(args)...), "\n")
		if strings.HasPrefix(args, "-S") {
			got = thresholds.ReplaceAllString(got, "")
		}
		if got != want {
			t.Errorf("%s\n%s\nwant\n%s", args, got, want)
		}
		n++
	}
	if n < 12 {
		t.Fatalf("%d listings only", n)
	}
}

// readKernel reads lines of a service (S) or a server of the one before (D): family, protocol, address, port,
// mark, scheduler, flags, timeout, mask, engine; or family, address, port, forwarding, weight, thresholds,
// active, inactive, persistent, tunnel's type, port and flags. Counters and rates follow.
func readKernel(t *testing.T) (s ipvs.State, v ipvs.View) {
	file, err := os.Open("testdata/kernel.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		n := func(i int) uint64 {
			v, err := strconv.ParseUint(words[i], 0, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		five := func(i int) policy.Rates {
			return policy.Rates{Conns: n(i), InPackets: n(i + 1), OutPackets: n(i + 2), InBytes: n(i + 3), OutBytes: n(i + 4)}
		}
		if words[0] == "S" {
			spec := policy.Spec{Scheduler: words[6], Mark: policy.Mark{Value: uint32(n(5)), IPv6: n(5) != 0 && words[1] == "10"}, OnePacket: n(7)&4 != 0}
			spec.Flags = policy.Flags(n(7) >> 3)
			if n(5) == 0 {
				spec.Listen = policy.On(netip.AddrPortFrom(netip.MustParseAddr(words[3]), uint16(n(4))), uint8(n(2)))
			}
			spec.Persistence.Timeout = time.Duration(n(8)) * time.Second
			if words[1] == "10" {
				spec.Persistence.HostBits = 128 - int(n(9))
			} else if words[9] != "255.255.255.255" {
				for _, b := range netip.MustParseAddr(words[9]).As4() {
					for ; b != 255; b = b<<1 | 1 {
						spec.Persistence.HostBits++
					}
				}
			}
			if words[10] != "-" {
				spec.Persistence.Engine = words[10]
			}
			s.Specs = append(s.Specs, spec)
			v.Entries = append(v.Entries, ipvs.Entry{Stats: policy.Counters(five(11)), Rates: five(16)})
			continue
		}
		last := len(s.Specs) - 1
		server := policy.ServerSpec{Address: netip.AddrPortFrom(netip.MustParseAddr(words[2]), uint16(n(3))), Weight: int(n(5)), Upper: int(n(6)), Lower: int(n(7))}
		server.Mode = map[uint64]policy.Mode{0: policy.NAT, 2: policy.Tunnelled, 3: policy.DR}[n(4)]
		if server.Mode == policy.Tunnelled && n(11) != 0 {
			server.Tunnel = policy.Tunnel{Type: []string{"ipip", "gue", "gre"}[n(11)], Port: uint16(n(12)), Checksum: []string{"nocsum", "csum", "remcsum"}[n(13)]}
		}
		s.Specs[last].Servers = append(s.Specs[last].Servers, server)
		v.Entries[last].Servers = append(v.Entries[last].Servers, ipvs.ServerEntry{Active: int(n(8)), Inactive: int(n(9)), Persistent: int(n(10)),
			Stats: policy.Counters(five(14)), Rates: five(19)})
	}
	return s, v
}

// TestListConfigured: services that no command could make, from a configuration file.
func TestListConfigured(t *testing.T) {
	m := newMachine(t)
	for _, s := range []string{"203.0.113.22:8000-8100/tcp", "203.0.113.22:443", "203.0.113.23:0/udp"} {
		l, err := policy.ParseListen(s)
		if err != nil {
			t.Fatal(err)
		}
		if l.Proto == policy.UDP || len(m.state.Specs) == 0 {
			m.state.Specs = append(m.state.Specs, policy.Spec{Name: s, Mode: policy.FullNAT})
		}
		spec := &m.state.Specs[len(m.state.Specs)-1]
		spec.Listen = append(spec.Listen, l)
	}
	m.state.Specs[0].Servers = []policy.ServerSpec{{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:0"), Weight: 3}}
	m.view.Entries = []ipvs.Entry{{Servers: []ipvs.ServerEntry{{Active: 2}}}} // of the first service only
	const want = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  203.0.113.22:443 wlc
  -> 192.168.0.10:0               Masq    3      2          0         
TCP  203.0.113.22:8000-8100 wlc
  -> 192.168.0.10:0               Masq    3      2          0         
UDP  203.0.113.23:0 wlc
`
	if got := m.run("-Ln"); got != want {
		t.Errorf("%swant\n%s", got, want)
	}
	if got := m.run("-Ln", "-t", "203.0.113.22:8050"); !strings.Contains(got, ":8000-8100 ") || strings.Contains(got, ":443") {
		t.Errorf("one place of a service:\n%s", got)
	}
	if got, want := m.run("-Sn"), "-A -t 203.0.113.22:443 -s wlc\n-a -t 203.0.113.22:443 -r 192.168.0.10:0 -m -w 3\n-A -u 203.0.113.23:0 -s wlc\n"; got != want {
		t.Errorf("%swant\n%s", got, want)
	}
	if got := ipvs.Unsaved(m.state); len(got) != 2 || !strings.HasPrefix(got[0], "tunlb: note: ") {
		t.Errorf("notes of what is not saved: %q", got)
	}
}

// TestListNames cuts long names off, as ipvsadm does for IPv4.
func TestListNames(t *testing.T) {
	m := newMachine(t)
	m.names.Host = func(netip.Addr) (string, bool) { return "a-rather-long-name.example.com", true }
	m.run("-A", "-t", "10.0.0.10:80")
	m.run("-a", "-t", "10.0.0.10:80", "-r", "192.168.1.11", "-m")
	m.run("-A", "-t", "[fd00::10]:80")
	const want = "TCP  a-rather-long-name.example.c wlc\n" +
		"  -> a-rather-long-name.example.c Masq    1      0          0         \n" +
		"TCP  [a-rather-long-name.example.com]:http wlc\n"
	if got := m.run("-L"); !strings.HasSuffix(got, want) {
		t.Errorf("%swant\n%s", got, want)
	}
}

// failing is a pipe that nobody reads.
type failing struct{}

var errPipe = errors.New("broken pipe")

func (failing) Write([]byte) (int, error) { return 0, errPipe }

func TestListErrors(t *testing.T) {
	state, view := readKernel(t)
	list := ipvs.Command{Verb: ipvs.ListTable}
	if err := ipvs.List(failing{}, list, state, view, ipvs.Names{}); !errors.Is(err, errPipe) {
		t.Errorf("List: %v", err)
	}
	if err := ipvs.Save(failing{}, list, state, ipvs.Names{}); !errors.Is(err, errPipe) {
		t.Errorf("Save: %v", err)
	}
	list.Options.Connections = true
	view.Conns = func(yield func(ipvs.Conn, error) bool) {
		if yield(ipvs.Conn{Proto: policy.TCP}, nil) {
			yield(ipvs.Conn{}, errPipe)
		}
	}
	var out strings.Builder
	if err := ipvs.List(&out, list, state, view, ipvs.Names{}); !errors.Is(err, errPipe) {
		t.Errorf("connections: %v", err)
	}
}

// TestListUnsorted: of services in one bucket of the kernel's table the newest comes first.
func TestListUnsorted(t *testing.T) {
	m := newMachine(t)
	for _, port := range []string{"20480", "80"} { // 0x5000, 0x0050
		m.run("-A", "-t", "10.0.0.10:"+port)
	}
	if got := m.run("-Ln", "--nosort"); !strings.HasSuffix(got, ":80 wlc\nTCP  10.0.0.10:20480 wlc\n") {
		t.Errorf("in this order:\n%s", got)
	}
}
