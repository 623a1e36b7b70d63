package ipvs_test

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// call is one command line that ipvsadm 1.31 was given, and what it said, or else what it told the kernel.
type call struct {
	Args    []string
	Code    int
	Message string
	Verb    ipvs.Verb
	Service *struct {
		AF        int // 4 or 6
		Mark      uint32
		Proto     uint8
		Addr      string // in hex, as all addresses here
		Port      uint16
		Sched, PE string
		Flags     int
		Timeout   int
		Mask      string
	}
	Server *struct {
		AF           int
		Addr         string
		Port         uint16
		Fwd          int
		Weight       int
		Upper, Lower int
		Tun          int
		TunPort      uint16
		TunFlags     int
	}
	Daemon *struct {
		Role           int
		If             string
		SyncID, MaxLen int
		Group          string
		Port           uint16
		TTL            int
	}
	Set []int
}

// TestArguments compares Parse with what was recorded from ipvsadm in front of a stand-in for the kernel.
func TestArguments(t *testing.T) {
	file, err := os.Open("testdata/arguments.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	names := localNames(t)
	lines, n := bufio.NewScanner(file), 0
	for ; lines.Scan(); n++ {
		var want call
		if err := json.Unmarshal(lines.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		got, err := ipvs.Parse(want.Args, names)
		if err != nil {
			refusal, ok := errors.AsType[*ipvs.Error](err)
			if !ok || refusal.Code != want.Code || refusal.Message != want.Message {
				t.Errorf("%q: %v [%d], want %q [%d]", want.Args, err, refusal.Code, want.Message, want.Code)
			}
			continue
		}
		if want.Message != "" {
			t.Errorf("%q: accepted, want %q [%d]", want.Args, want.Message, want.Code)
			continue
		}
		got.Options = ipvs.Options{} // the kernel is not told
		if diff := cmp.Diff(want.command(t), got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
			t.Errorf("%q: -want +got:\n%s", want.Args, diff)
		}
	}
	if err := lines.Err(); err != nil || n < 500 {
		t.Fatalf("%d lines read: %v", n, err)
	}
}

func localNames(t *testing.T) ipvs.Names {
	names, err := ipvs.Names{}.WithServices(strings.NewReader("domain 53/tcp\ndomain 53/udp\ntftp 69/udp\nhttp 80/tcp www\nhttp-alt 8080/tcp\n"))
	if err != nil {
		t.Fatal(err)
	}
	names.Addr = func(host string) (netip.Addr, bool) {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), host == "localhost"
	}
	return names
}

func (w *call) command(t *testing.T) ipvs.Command {
	c := ipvs.Command{Verb: w.Verb}
	if w.Service != nil {
		w.service(t, &c)
	}
	if w.Server != nil {
		w.server(t, &c)
	}
	if d := w.Daemon; d != nil {
		c.Daemon = ipvs.Daemon{Role: []string{1: ipvs.Master, 2: ipvs.Backup}[d.Role], Interface: d.If, SyncID: d.SyncID, MaxLen: d.MaxLen,
			Port: d.Port, TTL: d.TTL}
		if d.Group != "" {
			c.Daemon.Group = addr(t, d.Group)
		}
	}
	if w.Set != nil {
		c.Timeouts = ipvs.Timeouts{TCP: w.Set[0], TCPFin: w.Set[1], UDP: w.Set[2]}
	}
	return c
}

func (w *call) service(t *testing.T, c *ipvs.Command) {
	s := w.Service
	c.Service = ipvs.Service{Proto: s.Proto, Port: s.Port, Mark: policy.Mark{Value: s.Mark, IPv6: s.Mark != 0 && s.AF == 6}}
	if s.Mark == 0 {
		c.Service.Addr = addr(t, s.Addr)
	}
	if w.Verb != ipvs.AddService && w.Verb != ipvs.EditService {
		return
	}
	c.Scheduler, c.Persistence.Engine, c.OnePacket = s.Sched, s.PE, s.Flags&4 != 0
	for bit, flag := range map[int]policy.Flags{8: policy.Fallback, 16: policy.HashPort, 32: policy.FlagThree} {
		if s.Flags&bit != 0 {
			c.Flags |= flag
		}
	}
	if s.Flags&1 == 0 {
		return
	}
	c.Persistence.Timeout = time.Duration(s.Timeout) * time.Second
	mask, err := hex.DecodeString(s.Mask)
	if err != nil {
		t.Fatal(err)
	}
	if s.AF == 6 {
		c.Persistence.HostBits = 128 - int(mask[0])
		return
	}
	for i := range 32 {
		if mask[i/8]<<(i%8)&0x80 == 0 {
			c.Persistence.HostBits++
		}
	}
}

func (w *call) server(t *testing.T, c *ipvs.Command) {
	s := w.Server
	c.Server.Address = netip.AddrPortFrom(addr(t, s.Addr), s.Port)
	if w.Verb == ipvs.DeleteServer {
		return
	}
	c.Server.Mode = map[int]policy.Mode{0: policy.NAT, 2: policy.Tunnelled, 3: policy.DR}[s.Fwd]
	c.Server.Weight, c.Server.Upper, c.Server.Lower = s.Weight, s.Upper, s.Lower
	if s.Tun != 0 {
		c.Server.Tunnel = policy.Tunnel{Type: []string{"ipip", "gue", "gre"}[s.Tun], Port: s.TunPort, Checksum: []string{"nocsum", "csum", "remcsum"}[s.TunFlags]}
	}
}

func addr(t *testing.T, digits string) netip.Addr {
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	if len(digits) == 8 {
		b = b[:4]
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		t.Fatalf("address %q", digits)
	}
	return a
}

// TestDeviations are what ipvsadm would take, in a sense that nobody means.
func TestDeviations(t *testing.T) {
	for line, want := range map[string]string{
		"-A -t 10.0.0.1:80 -p -M 24":              "illegal virtual server persistent mask specified", // 0.0.0.24
		"-A -t 10.0.0.1:80 -p -M 255.0.255.0":     "illegal virtual server persistent mask specified",
		"-A -f 7 -M 0.0.0.255 -p":                 "illegal virtual server persistent mask specified",
		"-A -t [::ffff:10.0.0.1]:80":              "illegal virtual server address[:port] specified", // another service than 10.0.0.1:80
		"-A -t [10.0.0.1]:80 -p":                  "illegal virtual server address[:port] specified", // port 0
		"-a -t [fd00::1]:80 -r ::ffff:1.1.1.1 -m": "illegal real server address[:port] specified",
		"-A -t 10.0.0.1:80 -M 24":                 "",
		"-A -t 10.0.0.1:80 -p -M 128.0.0.0":       "",
		"-A -t 10.0.0.1:80 -p -M 0.0.0.0":         "",
	} {
		_, err := ipvs.Parse(strings.Fields(line), localNames(t))
		if got := strings.TrimSuffix(failure(t, err), "\n[exit 2]\n"); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
