package ipvs_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// comparable compares addresses as such, and takes no list for an empty one.
var comparable = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

// TestApply runs commands one after the other, IPv4 and IPv6 alike, and looks at the table that comes of it.
func TestApply(t *testing.T) {
	for _, family := range []struct{ name, vip, rs string }{
		{"IPv4", "10.0.0.10", "192.168.1."},
		{"IPv6", "[fd00::10]", "fd00::1:"},
	} {
		server := func(n, port string) string {
			if family.name == "IPv6" {
				return "[" + family.rs + n + "]" + port
			}
			return family.rs + n + port
		}
		one := server("1", "")
		if family.name == "IPv6" {
			one = family.rs + "1" // with brackets it needs a port
		}
		t.Run(family.name, func(t *testing.T) {
			m := newMachine(t)
			for _, c := range []struct{ args, want string }{
				{"-A -t VIP:80 -s rr", ""},
				{"-A -t VIP:80", "Service already exists\n[exit 255]\n"},
				{"-A -u VIP:80", ""},
				{"-A -t VIP:81 -s bogus", "Scheduler or persistence engine not found\n[exit 255]\n"},
				{"-A -t VIP:81 -p --pe sip", "Scheduler or persistence engine not found\n[exit 255]\n"},
				{"-E -t VIP:81", "No such service\n[exit 255]\n"},
				{"-D -t VIP:81", "No such service\n[exit 255]\n"},
				{"-Z -t VIP:81", "No such service\n[exit 255]\n"},
				{"-Z -t VIP:80", ""},
				{"-L -t VIP:81", "No such service\n[exit 1]\n"},
				{"-a -t VIP:81 -r RS2:80", "Service not defined\n[exit 255]\n"},
				{"-e -t VIP:81 -r RS2:80", "Service not defined\n[exit 255]\n"},
				{"-d -t VIP:81 -r RS2:80", "Service not defined\n[exit 255]\n"},
				{"-a -t VIP:80 -r ONE -m", ""},
				{"-a -t VIP:80 -r RS2:8080 -m -w 5 -x 10 -y 5", ""},
				{"-a -t VIP:80 -r RS3:9 -g", ""}, // at the service's port
				{"-a -t VIP:80 -r RS2:8080 -m", "Destination already exists\n[exit 255]\n"},
				{"-a -t VIP:80 -r RS4:80 -m -y 1", "Numerical result out of range\n[exit 255]\n"},
				{"-e -t VIP:80 -r RS2:8080 -m -x 1 -y 2", "Numerical result out of range\n[exit 255]\n"},
				{"-e -t VIP:80 -r RS4:80 -m", "No such destination\n[exit 255]\n"},
				{"-d -t VIP:80 -r RS4:80", "No such destination\n[exit 255]\n"},
				{"-E -t VIP:80 -s sh -b sh-port -p 60", ""},
			} {
				args := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(c.args, "VIP", family.vip), "ONE", one))
				for i := range args {
					if n, port, found := strings.Cut(strings.TrimPrefix(args[i], "RS"), ":"); found && strings.HasPrefix(args[i], "RS") {
						args[i] = server(n, ":"+port)
					}
				}
				if got := m.run(args...); got != c.want {
					t.Errorf("%s: %q, want %q", c.args, got, c.want)
				}
			}
			vip := netip.MustParseAddr(strings.Trim(family.vip, "[]"))
			at := func(n string, port uint16) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr(family.rs+n), port)
			}
			want := []policy.Spec{{
				Name: "tcp/" + family.vip + ":80", Listen: policy.On(netip.AddrPortFrom(vip, 80), policy.TCP), Scheduler: "sh", Flags: policy.HashPort,
				Persistence: policy.Persistence{Timeout: time.Minute},
				Servers: []policy.ServerSpec{ // each at the head of those before
					{Name: at("3", 80).String(), Address: at("3", 80), Weight: 1, Mode: policy.DR},
					{Name: at("2", 8080).String(), Address: at("2", 8080), Weight: 5, Mode: policy.NAT, Upper: 10, Lower: 5},
					{Name: at("1", 80).String(), Address: at("1", 80), Weight: 1, Mode: policy.NAT},
				},
			}, {Name: "udp/" + family.vip + ":80", Listen: policy.On(netip.AddrPortFrom(vip, 80), policy.UDP), Scheduler: "wlc"}}
			if diff := cmp.Diff(want, m.state.Specs, comparable); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			// What an edit leaves out is the default again: a weight of 1, direct routing, no thresholds.
			m.run("-e", "-t", family.vip+":80", "-r", one)
			m.run("-d", "-t", family.vip+":80", "-r", server("2", ":8080"))
			m.run("-D", "-u", family.vip+":80")
			want = want[:1]
			want[0].Servers = slices.Delete(want[0].Servers, 1, 2)
			want[0].Servers[1].Mode = policy.DR
			if diff := cmp.Diff(want, m.state.Specs, comparable); diff != "" {
				t.Errorf("after changes: -want +got:\n%s", diff)
			}
		})
	}
}

// TestApplyRefuses what the command line cannot say, but a client of the daemon can.
func TestApplyRefuses(t *testing.T) {
	vip := ipvs.Service{Proto: policy.TCP, Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}
	var s ipvs.State
	s, err := s.Apply(ipvs.Command{Verb: ipvs.AddService, Service: vip, Scheduler: "rr"})
	if err != nil {
		t.Fatal(err)
	}
	server := func(addr string, weight int) policy.ServerSpec {
		return policy.ServerSpec{Address: netip.MustParseAddrPort(addr), Weight: weight, Mode: policy.NAT}
	}
	udp := vip
	udp.Port = 81
	for _, c := range []struct {
		ipvs.Command
		want string
	}{
		{ipvs.Command{Verb: ipvs.AddServer, Service: vip, Server: server("192.168.1.1:80", -1)}, "Numerical result out of range"},
		{ipvs.Command{Verb: ipvs.AddServer, Service: vip, Server: server("224.0.0.1:80", 1)}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddServer, Service: vip, Server: server("0.0.0.0:80", 1)}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddServer, Service: vip, Server: server("255.255.255.255:80", 1)}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddServer, Service: vip, Server: server("[fd00::1]:80", 1)}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddServer, Service: vip, Server: policy.ServerSpec{}}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddService, Service: udp, Scheduler: "rr", OnePacket: true}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddService, Scheduler: "rr"}, "Invalid operation"},
		{ipvs.Command{Verb: ipvs.AddService, Service: udp}, "Scheduler or"},
	} {
		got, err := s.Apply(c.Command)
		refusal, ok := errors.AsType[*ipvs.Error](err)
		if !ok || refusal.Code != 255 || !strings.HasPrefix(refusal.Message, c.want) {
			t.Errorf("%+v: %v, want %q", c.Command, err, c.want)
		}
		if diff := cmp.Diff(s, got, comparable); diff != "" {
			t.Errorf("%+v was refused and changed:\n%s", c.Command, diff)
		}
	}
}

// TestApplyConfigured: commands on a service that a file has configured.
func TestApplyConfigured(t *testing.T) {
	m := newMachine(t)
	spec := policy.Spec{
		Name: "web", Mode: policy.FullNAT, Scheduler: "rr", Health: policy.Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1},
		Servers: []policy.ServerSpec{{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:80"), Weight: 3, Keep: true}},
	}
	for _, s := range []string{"203.0.113.22:8000-8100/tcp", "203.0.113.22:443"} {
		l, err := policy.ParseListen(s)
		if err != nil {
			t.Fatal(err)
		}
		spec.Listen = append(spec.Listen, l)
	}
	specs, err := policy.Normalize([]policy.Spec{spec})
	if err != nil {
		t.Fatal(err)
	}
	m.state.Specs = specs
	want := specs[0]
	for _, c := range []struct{ args, want string }{
		{"-A -t 203.0.113.22:8050", "Service already exists\n[exit 255]\n"},
		{"-e -t 203.0.113.22:443 -r 192.168.0.10:80 -m -w 9", ""},
		{"-a -t 203.0.113.22:8050 -r 192.168.0.11:80 -m", ""},
		{"-E -t 203.0.113.22:8050 -s wrr", ""},
		{"-D -t 203.0.113.22:8050", ""},
		{"-D -t 203.0.113.22:8051", "No such service\n[exit 255]\n"},
	} {
		if got := m.run(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
	want.Scheduler, want.Listen = "wrr", want.Listen[1:]
	want.Servers = slices.Clone(want.Servers)
	want.Servers[0].Weight = 9 // and the name, the mode and the rest as they were
	added := policy.ServerSpec{Name: "192.168.0.11:80", Address: netip.MustParseAddrPort("192.168.0.11:80"), Weight: 1, Mode: policy.NAT}
	want.Servers = append([]policy.ServerSpec{added}, want.Servers...)
	if diff := cmp.Diff([]policy.Spec{want}, m.state.Specs, comparable); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	m.run("-D", "-t", "203.0.113.22:443")
	if len(m.state.Specs) != 0 {
		t.Errorf("a service without a place is still there: %+v", m.state.Specs)
	}
}

func TestDaemons(t *testing.T) {
	m := newMachine(t)
	for _, c := range []struct{ args, want string }{
		{"--stop-daemon master", "No daemon is running\n[exit 255]\n"},
		{"--start-daemon backup --mcast-interface eth1 --mcast-group ff02::1 --mcast-port 9 --mcast-ttl 2 --sync-maxlen 1400", ""},
		{"--start-daemon backup", "Daemon has already run\n[exit 255]\n"},
		{"--start-daemon master", ""},
		{"-L --daemon", "master sync daemon (mcast=eth0, syncid=0, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n" +
			"backup sync daemon (mcast=eth1, syncid=0, maxlen=1400, group=ff02::1, port=9, ttl=2)\n"},
		{"-C", ""}, // does not end them
		{"--stop-daemon backup", ""},
		{"--stop-daemon master", ""},
		{"-L --daemon", ""},
	} {
		if got := m.run(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
}

// TestJSON: commands and states come back from JSON as they were, since that is how they travel.
func TestJSON(t *testing.T) {
	m := newMachine(t)
	for _, line := range []string{
		"-A -t 10.0.0.10:80 -s sh -b sh-port -p 60 -M 255.255.255.0", "-a -t 10.0.0.10:80 -r 192.168.1.1:8080 -m -w 0 -x 5 -y 3", "-A -f 8 -6 -p",
		"-a -f 8 -6 -r [fd00::1]:80 -i --tun-type gue --tun-port 99", "-A -u [fd00::10]:53 -o", "--set 1 2 3", "--start-daemon master --syncid 7", "-Z", "-L -n --stats -t 10.0.0.10:80",
		"-d -t 10.0.0.10:80 -r 192.168.1.9", "-A -t 10.0.0.10:0 -p",
	} {
		c := command(t, m, strings.Fields(line)...)
		if got := overJSON(t, c); !cmp.Equal(got, c, comparable) {
			t.Errorf("%s: %s", line, cmp.Diff(c, got, comparable))
		}
		if !strings.HasPrefix(line, "-d") && c.Verb.Changes() {
			m.run(strings.Fields(line)...)
		}
	}
	if got := overJSON(t, m.state); !cmp.Equal(got, m.state, comparable) {
		t.Error(cmp.Diff(m.state, got, comparable))
	}
	if zero := overJSON(t, ipvs.State{}); zero.Timeouts.Filled() != (ipvs.Timeouts{TCP: 900, TCPFin: 120, UDP: 300}) {
		t.Errorf("timeouts of the zero state: %+v", zero.Timeouts.Filled())
	}
}

func overJSON[T any](t *testing.T, v T) (out T) {
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func TestWarnings(t *testing.T) {
	m := newMachine(t)
	for line, n := range map[string]int{
		"-A -t 10.0.0.10:80": 0, "-a -t 10.0.0.10:80 -r 1.1.1.1 -m": 0, "-L": 0, "-D -f 7": 0, "-d -f 7 -r 1.1.1.1": 0, "--stop-daemon master": 0,
		"-A -f 7": 1, "-A --sctp-service 10.0.0.10:9": 1, "-a -t 10.0.0.10:80 -r 1.1.1.1 -i": 1, "-e -t 10.0.0.10:80 -r 1.1.1.1 -i": 1,
		"--start-daemon backup": 1, "-a -f 7 -r 1.1.1.1 -i": 2,
	} {
		got := ipvs.Warnings(command(t, m, strings.Fields(line)...))
		if len(got) != n {
			t.Errorf("%s: %q", line, got)
		}
		for _, note := range got {
			if !strings.HasPrefix(note, "tunlb: note: ") || strings.Contains(note, "\n") {
				t.Errorf("%s: %q", line, note)
			}
		}
	}
}
