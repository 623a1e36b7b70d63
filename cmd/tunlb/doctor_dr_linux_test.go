package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/doctor"
)

// directServices have their servers by name.
const directServices = `services:
  - {name: web, listen: "203.0.113.22:80/tcp", mode: dr, scheduler: rr, servers: [{name: rs1, address: 203.0.113.10}, {name: rs2, address: 203.0.113.11}]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, scheduler: rr, servers: [{name: rs1, address: "2001:db8:113::10"}, {name: rs2, address: "2001:db8:113::11"}]}
`

// openDirect opens a network of labnet.DR, and tunlb in it if that is asked for.
func openDirect(t *testing.T, o labnet.DROptions, start bool) *site {
	t.Helper()
	o.Servers = 2
	config, _, _ := strings.Cut(drConfig(o), "services:")
	s := openLab(t, labnet.DR(o), config+directServices)
	if start {
		s.start()
		t.Cleanup(s.stop)
		s.untilUp()
	}
	return s
}

// TestDoctorDirect: nothing is wrong in any shape of direct routing, before the start and later.
func TestDoctorDirect(t *testing.T) {
	shapes(t, func(*labnet.DROptions) {}, func(t *testing.T, o labnet.DROptions) {
		s := openDirect(t, o, false)
		s.wantTroubles(s.findings("-f", s.config))
		s.unchanged()
		s.start()
		t.Cleanup(s.stop)
		s.untilUp()
		for _, vip := range vips {
			s.sequence("client", "http://"+hostPort(vip, 80)+"/", 4)
		}
		s.wantTroubles(s.findings())
	})
}

// TestDoctorConflict: servers that answer ARP for the VIP.
func TestDoctorConflict(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{}, true)
	s.until("tunlb hears them", func() error {
		if n := len(s.segment().Conflicts); n < 2 {
			return fmt.Errorf("%d conflicts", n)
		}
		return nil
	})
	found := troubles(s.findings())
	if len(found) != 2 {
		t.Fatalf("want a finding for each server, got %+v", found)
	}
	for _, f := range found {
		if f.Severity != doctor.Fail || f.Check != "arp" || f.Subject != labnet.VIP || !strings.HasPrefix(f.Text, "rs") || !strings.Contains(f.Fix, "arp_ignore=1") {
			t.Errorf("%+v", f)
		}
	}
}

// TestDoctorOwnVIP: the box's own kernel has the VIP and answers for it.
func TestDoctorOwnVIP(t *testing.T) {
	needLab(t)
	for i, vip := range vips {
		// For IPv4 the address may be anywhere; IPv6 answers only where it is.
		for _, device := range []string{"br0", "lo"}[:2-i] {
			s := openDirect(t, labnet.DROptions{Quiet: true}, false)
			addr := netip.MustParseAddr(vip)
			s.must(s.lab.NS("lb").AddAddress(device, netip.PrefixFrom(addr, addr.BitLen())))
			list := s.findings("-f", s.config)
			s.wantTroubles(list, doctor.Finding{
				Severity: doctor.Fail, Check: "arp", Subject: device, Text: "has the VIP " + vip + ": this kernel answers for it on br0",
				Fix: fmt.Sprintf("%s addr del %s/%d dev %s", []string{"ip", "ip -6"}[i], vip, addr.BitLen(), device),
			})
			s.mend(list)
			s.wantTroubles(s.findings("-f", s.config))
		}
	}
}

// TestDoctorOwnAddress: the box has an address that is to be tunlb's own. On lo, and quiet, it may.
func TestDoctorOwnAddress(t *testing.T) {
	needLab(t)
	for _, o := range []labnet.DROptions{{Quiet: true}, {Quiet: true, Packet: true}} {
		device, port := "br0", "tap0"
		if o.Packet {
			device, port = "eth0", "eth0"
		}
		for i, own := range []string{labnet.TunlbAddr, labnet.TunlbAddr6} {
			addr := netip.MustParseAddr(own)
			network := netip.PrefixFrom(addr, []int{24, 64}[i])
			s := openDirect(t, o, false)
			s.run("lb", "sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1")
			s.must(s.lab.NS("lb").AddAddress("lo", netip.PrefixFrom(addr, addr.BitLen())))
			s.wantTroubles(s.findings("-f", s.config))
			s.run("lb", "ip", "addr", "del", netip.PrefixFrom(addr, addr.BitLen()).String(), "dev", "lo")
			write := fmt.Sprintf("write another address of %s instead of %s for port %s into %s, ", network.Masked(), own, port, s.config)
			want := doctor.Finding{Severity: doctor.Fail, Check: "arp", Subject: device, Text: "has " + own + ", but this is to be tunlb's own on port " + port}
			check := func(then string, args ...string) {
				t.Helper()
				s.must(s.lab.NS("lb").AddAddress(device, network))
				want.Fix = write + then
				s.wantTroubles(s.findings(args...), want)
				s.run("lb", "ip", "addr", "del", network.String(), "dev", device)
				s.wantTroubles(s.findings(args...))
			}
			check("then: tunlb check "+s.config, "-f", s.config)
			s.start()
			s.untilUp()
			check(fmt.Sprintf("then start tunlb anew: tunlb check %s && kill %d && tunlb run -f %[1]s", s.config, s.status().Daemon.PID))
			s.stop()
		}
	}
}

// TestDoctorSwitch: a bridge that has the interfaces of the switch, and VLANs on one.
func TestDoctorSwitch(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{Quiet: true, Shape: labnet.Inline, Packet: true}, false)
	s.run("lb", "ip", "link", "add", "br9", "type", "bridge")
	check := func(args ...string) {
		t.Helper()
		var want []doctor.Finding
		for _, device := range []string{"eth0", "eth1"} {
			s.run("lb", "ip", "link", "set", device, "master", "br9")
			want = append(want, doctor.Finding{Severity: doctor.Fail, Check: "port", Subject: device, Text: "is a port of br9, which passes frames on without tunlb", Fix: "ip link set " + device + " nomaster"})
		}
		list := s.findings(args...)
		s.wantTroubles(list, want...)
		s.mend(list)
		s.wantTroubles(s.findings(args...))
	}
	check("-f", s.config)
	if _, err := s.lab.NS("lb").Command(t.Context(), "ip", "link", "add", "link", "eth1", "name", "eth1.5", "type", "vlan", "id", "5").Output(); err == nil {
		if list := s.findings("-f", s.config); !slices.ContainsFunc(list, func(f doctor.Finding) bool {
			return f.Severity == doctor.Note && f.Subject == "eth1" && strings.Contains(f.Text, "frames of VLANs (eth1.5)")
		}) {
			t.Errorf("VLANs are not told of: %+v", list)
		}
		s.run("lb", "ip", "link", "del", "eth1.5")
	}
	s.start()
	t.Cleanup(s.stop)
	s.untilUp()
	check()
	s.run("lb", "ip", "link", "del", "br9")
}

// TestDoctorLoop: somebody joins the bridges of the two sides.
func TestDoctorLoop(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{Quiet: true, Shape: labnet.Inline}, true)
	s.wantTroubles(s.findings())
	s.run("lb", "ip", "link", "add", "left", "up", "master", "clients", "type", "veth", "peer", "name", "right")
	s.run("lb", "ip", "link", "set", "right", "up", "master", "servers")
	s.until("tunlb's own frames come back", func() error {
		if n := s.segment().Loops; n == 0 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	s.run("lb", "ip", "link", "del", "left")
	found := slices.DeleteFunc(s.findings(), func(f doctor.Finding) bool { return f.Check != "loop" })
	s.wantTroubles(found, doctor.Finding{
		Severity: doctor.Fail, Check: "loop", Subject: "tap0, tap1", Text: "there is a loop between the ports",
		Fix: "bridge link  # find the bridge or cable that joins the two sides, and take one port out: ip link set PORT nomaster",
	})
}

// TestDoctorUnlooked: before the start nothing is ok that only a running tunlb sees.
func TestDoctorUnlooked(t *testing.T) {
	shapes(t, func(*labnet.DROptions) {}, func(t *testing.T, o labnet.DROptions) {
		s := openDirect(t, o, false)
		ok := func(args ...string) (checks []string) {
			for _, f := range s.findings(args...) {
				if f.Severity == doctor.OK && slices.Contains([]string{"arp", "loop", "mtu", "offload", "gateway", "passing", "neighbour"}, f.Check) {
					checks = append(checks, f.Check)
				}
			}
			return checks
		}
		if checks := ok("-f", s.config); len(checks) > 0 {
			t.Errorf("before the start ok is said of %v", checks)
		}
		s.start()
		t.Cleanup(s.stop)
		s.untilUp()
		s.sequence("client", "http://"+hostPort(vips[0], 80)+"/", 4)
		for _, want := range []string{"arp", "loop", "passing", "neighbour"} {
			if checks := ok(); !slices.Contains(checks, want) {
				t.Errorf("ok is said of %v, and not of %s", checks, want)
			}
		}
	})
}

// TestDoctorBridge: one that is down, is missing, has ports of several MTUs, or a packet filter.
func TestDoctorBridge(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{Quiet: true}, false)
	check := func(want ...doctor.Finding) {
		t.Helper()
		list := s.findings("-f", s.config)
		s.wantTroubles(list, want...)
		s.mend(list)
		s.wantTroubles(s.findings("-f", s.config))
	}
	s.run("lb", "ip", "link", "set", "dev", "br0", "down")
	check(doctor.Finding{Severity: doctor.Fail, Check: "port", Subject: "br0", Text: "the bridge is down", Fix: "ip link set dev br0 up"})
	s.run("lb", "ip", "link", "set", "dev", "rs2", "mtu", "1400")
	check(doctor.Finding{Severity: doctor.Warn, Check: "mtu", Subject: "rs2", Text: "has MTU 1400, the other ports of bridge br0 1500", Fix: "ip link set dev rs2 mtu 1500"})
	s.run("lb", "nft", "add table ip filter; add chain ip filter forward { type filter hook forward priority 0 ; }")
	if b := s.number("lb", "/proc/sys/net/bridge/bridge-nf-call-iptables"); b == "1" {
		fix := "sysctl -w net.bridge.bridge-nf-call-iptables=0"
		if s.number("lb", "/proc/sys/net/bridge/bridge-nf-call-ip6tables") == "1" {
			fix += " net.bridge.bridge-nf-call-ip6tables=0"
		}
		check(doctor.Finding{Severity: doctor.Warn, Check: "netfilter", Subject: "br0", Text: "frames between its ports go through ip filter forward", Fix: fix})
	}
	s.run("lb", "ip", "link", "del", "br0")
	check(doctor.Finding{Severity: doctor.Fail, Check: "port", Subject: "br0", Text: "there is no such bridge, but port tap0 is to join it", Fix: "ip link add br0 type bridge && ip link set dev br0 up"})
}

// number reads a file on a node; "" if it is missing.
func (s *site) number(node, path string) string {
	out, _ := s.lab.NS(node).Command(s.t.Context(), "cat", path).Output()
	return strings.TrimSpace(string(out))
}

// TestDoctorInterface: the interface of a packet port.
func TestDoctorInterface(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{Quiet: true, Packet: true}, false)
	s.run("lb", "ip", "link", "set", "dev", "eth0", "down")
	list := s.findings("-f", s.config)
	s.wantTroubles(list, doctor.Finding{Severity: doctor.Fail, Check: "port", Subject: "eth0", Text: "is down", Fix: "ip link set dev eth0 up"})
	s.mend(list)
	s.wantTroubles(s.findings("-f", s.config))
	s.run("lb", "ip", "link", "set", "dev", "eth0", "name", "wan0")
	s.wantTroubles(s.findings("-f", s.config), doctor.Finding{Severity: doctor.Fail, Check: "port", Subject: "eth0", Text: "there is no such interface",
		Fix: fmt.Sprintf("write the name of a free Ethernet interface (wan0) for port eth0 into %s, then: tunlb check %[1]s", s.config)})
}

// TestDoctorNoVIP: servers that have not got the VIP never come past the first packet.
func TestDoctorNoVIP(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{Quiet: true, VIPOn: "none"}, true)
	for i, vip := range vips {
		done := make(chan struct{})
		for range 4 {
			go func() { // ends with its time
				ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
				defer cancel()
				if conn, err := s.lab.NS("client").DialContext(ctx, "tcp", hostPort(vip, 80)); err == nil {
					conn.Close()
				}
				done <- struct{}{}
			}()
		}
		for range 4 {
			<-done
		}
		ip := []string{"ip", "ip -6"}[i]
		service := []string{"web", "web6"}[i]
		bits := netip.MustParseAddr(vip).BitLen()
		want := func(server string) doctor.Finding {
			return doctor.Finding{
				Severity: doctor.Warn, Check: "passing", Subject: service + "/" + server, Text: "2 connections, and none has come past its first packet: the server probably has not the address " + vip,
				Fix: fmt.Sprintf("%s addr add %s/%d dev lo  # on %s", ip, vip, bits, server),
			}
		}
		list := s.findings()
		s.wantTroubles(list, want("rs1"), want("rs2"))
		s.mend(list)
		s.must(s.lab.NS("rs1").Settle())
		s.must(s.lab.NS("rs2").Settle())
		s.sequence("client", "http://"+hostPort(vip, 80)+"/", 4)
		s.wantTroubles(s.findings())
	}
}

// TestDoctorDirectDown: a server that does not answer for its address, and answers that pass tunlb.
func TestDoctorDirectDown(t *testing.T) {
	needLab(t)
	s := openDirect(t, labnet.DROptions{Quiet: true, Gateway: true}, false)
	s.run("rs2", "ip", "addr", "del", "203.0.113.11/24", "dev", "eth0")
	s.start()
	t.Cleanup(s.stop)
	s.until("rs2 is found to be down", func() error {
		for _, n := range s.segment().Neighbours {
			if n.Address.String() == "203.0.113.11" && n.State == "failed" {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.segment().Neighbours)
	})
	s.get("remote", "http://203.0.113.22/")
	list := s.findings()
	s.wantTroubles(list, doctor.Finding{
		Severity: doctor.Fail, Check: "neighbour", Subject: "rs2", Text: "203.0.113.11 does not answer ARP on tap0 (failed)",
		Fix: "ip addr show to 203.0.113.11  # on rs2: its interface has to be up and have the address",
	})
	if !slices.ContainsFunc(list, func(f doctor.Finding) bool {
		return f.Check == "passing" && f.Severity == doctor.Note && f.Fix == "ip route replace default via 203.0.113.1  # on rs1"
	}) {
		t.Errorf("answers that pass are not told of: %+v", list)
	}
	s.run("rs2", "ip", "addr", "add", "203.0.113.11/24", "dev", "eth0")
	s.until("rs2 is up again", func() error {
		for _, svc := range s.status().Services {
			for _, srv := range svc.Servers {
				if srv.Down != "" {
					return fmt.Errorf("%s/%s: %s", svc.Name, srv.Name, srv.Down)
				}
			}
		}
		return nil
	})
	s.wantTroubles(s.findings())
}
