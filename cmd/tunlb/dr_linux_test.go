package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb"
)

// drServices are directly routed services, and a translated one beside them.
func drServices(servers int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i, vip := range vips {
		family := []string{"", "6"}[i]
		list := func(port int) string {
			var all []string
			for n := range servers {
				host := []string{"203.0.113.1%d", "2001:db8:113::1%d"}[i]
				all = append(all, fmt.Sprintf("%q", hostPort(fmt.Sprintf(host, n), port)))
			}
			return strings.Join(all, ", ")
		}
		fmt.Fprintf(&b, "  - {name: web%s, listen: %q, mode: dr, scheduler: rr, servers: [%s]}\n", family, hostPort(vip, 80)+"/tcp", list(80))
		fmt.Fprintf(&b, "  - {name: echo%s, listen: %q, mode: dr, scheduler: rr, servers: [%s]}\n", family, hostPort(vip, 7)+"/udp", list(7))
		fmt.Fprintf(&b, "  - {name: nat%s, listen: %q, mode: nat, scheduler: rr, servers: [%s]}\n", family, hostPort(vip, 8888)+"/tcp", list(8080))
	}
	return b.String()
}

// drConfig is a configuration for tunlb in labnet.DR's networks.
func drConfig(o labnet.DROptions) string {
	own := `addresses: [203.0.113.2/24, "2001:db8:113::2/64"]`
	if o.Remote || o.Gateway {
		own += `, routes: [default via 203.0.113.1, "default via 2001:db8:113::1"]`
	}
	var ports string
	switch inline := o.Shape == labnet.Inline; {
	case o.Packet && inline:
		ports = "  - {name: eth0, type: packet, side: clients, " + own + "}\n  - {name: eth1, type: packet, side: servers}\n"
	case o.Packet:
		ports = "  - {name: eth0, type: packet, " + own + "}\n"
	case inline:
		ports = "  - {name: tap0, type: tap, bridge: clients, side: clients, " + own + "}\n  - {name: tap1, type: tap, bridge: servers, side: servers}\n"
	default:
		ports = "  - {name: tap0, type: tap, bridge: br0, " + own + "}\n"
	}
	return "ports:\n" + ports + drServices(cmp.Or(o.Servers, 3))
}

// openDR opens a network of labnet.DR with tunlb in it, and waits until it knows its servers.
func openDR(t *testing.T, o labnet.DROptions) *site {
	t.Helper()
	s := openLab(t, labnet.DR(o), drConfig(o))
	s.start()
	t.Cleanup(s.stop)
	s.untilUp()
	return s
}

// untilUp waits until every server has answered for its address.
func (s *site) untilUp() {
	s.t.Helper()
	s.until("tunlb knows the servers", func() error {
		for _, n := range s.segment().Neighbours {
			if n.Server != "" && n.State != "reachable" {
				return fmt.Errorf("%+v", n)
			}
		}
		return nil
	})
}

func (s *site) segment() tunlb.SegmentStatus {
	s.t.Helper()
	status := s.status()
	if len(status.Segments) != 1 {
		s.t.Fatalf("%d segments", len(status.Segments))
	}
	return status.Segments[0]
}

// shapes runs a test in every shape that direct routing has, with and without offload.
func shapes(t *testing.T, edit func(*labnet.DROptions), test func(t *testing.T, o labnet.DROptions)) {
	offloads(t, func(t *testing.T, off bool) {
		for _, shape := range []labnet.Shape{labnet.OneArm, labnet.Inline} {
			for _, usePacket := range []bool{false, true} {
				name := string(shape) + map[bool]string{false: " tap", true: " packet"}[usePacket]
				t.Run(name, func(t *testing.T) {
					o := labnet.DROptions{Shape: shape, Packet: usePacket, Clients: 2, NoOffload: off, Quiet: shape == labnet.OneArm}
					edit(&o)
					test(t, o)
				})
			}
		}
	})
}

// TestDirectRouting: both families, both transports, the client's address kept, data whole, and the only
// MAC that any client learns for the VIP is tunlb's.
func TestDirectRouting(t *testing.T) {
	shapes(t, func(*labnet.DROptions) {}, func(t *testing.T, o labnet.DROptions) {
		s := openDR(t, o)
		for i, vip := range vips {
			for _, node := range []string{"client", "client2"} {
				address := []string{"203.0.113.7", "2001:db8:113::7"}[i]
				if node == "client2" {
					address = []string{"203.0.113.8", "2001:db8:113::8"}[i]
				}
				for n := range 3 {
					text, server := s.get(node, "http://"+hostPort(vip, 80)+"/x")
					if want := fmt.Sprintf("rs%d", n%3+1); server != want {
						t.Errorf("%s request %d went to %s, want %s", vip, n, server, want)
					}
					if !strings.Contains(text, " from "+strings.Trim(hostPort(address, 0), "0")) {
						t.Errorf("%s: the server does not see the client's address: %s", vip, text)
					}
				}
			}
			if got := s.sequence("client", "http://"+hostPort(vip, 8888)+"/", 3); got != "rs1 rs2 rs3" {
				t.Errorf("nat beside dr: %s", got)
			}
			s.transfer("client", vip)
			s.datagrams("client2", vip)
			s.ping("client", vip)
		}
		s.onlyOurs("client", "client2")
		segment := s.segment()
		if len(segment.Conflicts) > 0 {
			t.Errorf("conflicts: %+v", segment.Conflicts)
		}
		for _, svc := range s.status().Services {
			if dr := svc.Mode == "dr"; dr && svc.Traffic.OutBytes > 0 || !dr && svc.Traffic.OutBytes == 0 {
				t.Errorf("%s: %d bytes out", svc.Name, svc.Traffic.OutBytes)
			}
		}
	})
}

// onlyOurs wants tunlb's MAC for the VIPs in the nodes' neighbour tables, and in no other place there.
func (s *site) onlyOurs(nodes ...string) {
	s.t.Helper()
	own := s.segment().MAC.String()
	for _, node := range nodes {
		all, err := s.lab.NS(node).Neighbours()
		s.must(err)
		found := 0
		for _, n := range all {
			vip := slices.Contains(vips, n.Address.String())
			ours := n.Address.String() == labnet.TunlbAddr || n.Address.String() == labnet.TunlbAddr6
			if vip {
				found++
			}
			if (vip || ours) != (n.MAC.String() == own) {
				s.t.Errorf("%s believes %s at %s (%s); tunlb is %s", node, n.Address, n.MAC, n.State, own)
			}
		}
		if found != len(vips) {
			s.t.Errorf("%s knows %d VIPs of %d: %v", node, found, len(vips), all)
		}
	}
}

// TestUntouched compares every packet of transfers at the client and at the server, byte for byte, as
// they left and as they came; super-packets as they are.
func TestUntouched(t *testing.T) {
	shapes(t, func(o *labnet.DROptions) { o.Servers = 1 }, func(t *testing.T, o labnet.DROptions) {
		s := openDR(t, o)
		own := s.segment().MAC.String()
		for _, vip := range vips {
			at := map[string]*netns.Sniffer{}
			for _, node := range []string{"client", "rs1"} {
				sniffer, err := s.lab.NS(node).Sniff("eth0")
				s.must(err)
				at[node] = sniffer
			}
			text, _, err := s.fetch("client", "POST", "http://"+hostPort(vip, 80)+"/", labnet.Bytes(1<<20))
			if err != nil {
				t.Fatal(text, err)
			}
			s.datagrams("client", vip)
			s.must(at["rs1"].Close()) // first: it has heard nothing then that the other has not
			s.must(at["client"].Close())
			// Two processors may hand packets on in another order than they got them in.
			missing := map[string]int{}
			sent := packetsTo(at["client"].Packets(), vip, true)
			for _, p := range sent {
				missing[string(p.Payload())]++
			}
			got, largest := packetsTo(at["rs1"].Packets(), vip, false), 0
			for i, p := range got {
				if missing[string(p.Payload())]--; missing[string(p.Payload())] < 0 {
					t.Fatalf("%s: packet %d of %d came as nobody has sent it: %x", vip, i, len(got), p.Payload())
				}
				if src, _, _ := p.MACs(); src.String() != own {
					t.Errorf("packet %d came from %v, want tunlb's MAC %s", i, src, own)
				}
				largest = max(largest, len(p.Payload()))
			}
			for last := len(sent) - 1; last >= 0 && missing[string(sent[last].Payload())] > 0; last-- {
				sent = sent[:last] // nobody listened any more
			}
			// A ring has room for so many frames, whatever their length: on a busy machine some find none.
			overruns := uint64(0)
			for _, p := range s.status().Ports {
				overruns += p.Overruns
			}
			if len(sent) < len(got) || len(sent) > len(got)+int(overruns) || len(got) < 20 {
				t.Errorf("%s: %d packets were sent, %d came, %d found the queue full", vip, len(sent), len(got), overruns)
			}
			if super := largest > 1500; super == o.NoOffload {
				t.Errorf("%s: the largest packet has %d bytes with NoOffload %v", vip, largest, o.NoOffload)
			}
		}
	})
}

// packetsTo picks the TCP and UDP packets for an address that a host has sent, or received.
func packetsTo(all []netns.Packet, to string, out bool) (some []netns.Packet) {
	dst := netip.MustParseAddr(to)
	for _, p := range all {
		b := p.Payload()
		if p.Out != out || len(b) < 40 {
			continue
		}
		switch {
		case p.EtherType() == 0x0800 && netip.AddrFrom4([4]byte(b[16:])) == dst && b[9] != 1:
			some = append(some, p)
		case p.EtherType() == 0x86dd && netip.AddrFrom16([16]byte(b[24:])) == dst && b[6] != 58:
			some = append(some, p)
		}
	}
	return some
}

// TestServerGone: a server that no longer answers for its address takes no new connections until it is
// back; the others lose nothing.
func TestServerGone(t *testing.T) {
	needLab(t)
	s := openDR(t, labnet.DROptions{Quiet: true})
	rs2 := s.lab.NS("rs2")
	link, err := rs2.Handle().LinkByName("eth0")
	s.must(err)
	s.must(rs2.Handle().LinkSetDown(link))
	untilDown := func(what string, want bool) {
		t.Helper()
		s.until(what, func() error {
			for _, svc := range s.status().Services {
				if svc.Name == "web" && (svc.Servers[1].Down != "") != want {
					return fmt.Errorf("%+v", svc.Servers)
				}
			}
			return nil
		})
	}
	untilDown("rs2 is noticed to be gone", true)
	s.until("the log says so", func() error {
		if !strings.Contains(s.log.String(), "does not answer for its address") {
			return errors.New("it does not")
		}
		return nil
	})
	if got := s.sequence("client", "http://203.0.113.22/", 4); strings.Contains(got, "rs2") {
		t.Errorf("without rs2: %s", got)
	}
	s.must(rs2.Handle().LinkSetUp(link))
	untilDown("rs2 is noticed to be back", false)
	if got := s.sequence("client", "http://203.0.113.22/", 3); !strings.Contains(got, "rs2") {
		t.Errorf("with rs2 again: %s", got)
	}

}

// TestSuppressed: inline, with servers as they come: the VIP on lo or on the interface, no sysctls. Whatever
// they say, no client learns another MAC for a VIP than tunlb's.
func TestSuppressed(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, usePacket := range []bool{false, true} {
			for _, on := range []string{"lo", "eth0"} {
				t.Run(fmt.Sprintf("packet=%v vip on %s", usePacket, on), func(t *testing.T) {
					s := openDR(t, labnet.DROptions{Shape: labnet.Inline, Packet: usePacket, Clients: 2, VIPOn: on, NoOffload: off})
					for range 3 {
						for _, node := range []string{"client", "client2", "rs1", "rs2", "rs3"} {
							s.must(s.lab.NS(node).FlushNeighbours()) // so that everybody asks, servers in the VIP's name
						}
						for _, vip := range vips {
							s.get("client", "http://"+hostPort(vip, 80)+"/")
							s.get("client2", "http://"+hostPort(vip, 80)+"/")
							s.ping("client", vip)
						}
						s.onlyOurs("client", "client2")
					}
					suppressed := s.segment().Suppressed
					if suppressed["request"] == 0 {
						t.Errorf("no server has asked in the VIP's name: %v", suppressed)
					}
					if c := s.segment().Conflicts; len(c) > 0 {
						t.Errorf("conflicts: %+v", c)
					}
				})
			}
		}
	})
}

// TestSuppressedDAD: a server that is given the VIP while it is looked for elsewhere keeps it: nobody on
// the clients' side tells it that it is taken, and no client hears it announced. One server: two in one
// bridge would find each other.
func TestSuppressedDAD(t *testing.T) {
	needLab(t)
	for _, usePacket := range []bool{false, true} {
		s := openDR(t, labnet.DROptions{Shape: labnet.Inline, Packet: usePacket, Clients: 2, Servers: 1, VIPOn: "none", DAD: true})
		for _, vip := range vips {
			for _, node := range []string{"client", "client2"} {
				s.ping(node, vip)
			}
			prefix := netip.PrefixFrom(netip.MustParseAddr(vip), netip.MustParseAddr(vip).BitLen())
			if err := s.lab.NS("rs1").AddAddress("eth0", prefix); err != nil { // it means that somebody objected
				t.Error(err)
			}
			s.announce("rs1", vip)
			s.get("client", "http://"+hostPort(vip, 80)+"/")
		}
		s.onlyOurs("client", "client2")
		suppressed := s.segment().Suppressed
		if suppressed["probe"] == 0 || suppressed["announcement"] < 2 {
			t.Errorf("suppressed: %v", suppressed)
		}
	}
}

// announce has a node claim an address to all: what keepalived and the like do, and the kernel with
// arp_notify.
func (s *site) announce(node, address string) {
	s.t.Helper()
	macs, err := s.lab.NS(node).MACs()
	s.must(err)
	a := netip.MustParseAddr(address)
	s.inject(node, pt.Tell(packet.MAC(macs["eth0"]), packet.Broadcast, a, a))
}

// inject sends a frame as it is out of a node's eth0.
func (s *site) inject(node string, frame []byte) {
	s.t.Helper()
	s.must(s.sending(node, func(send func([]byte) error) error { return send(frame) }))
}

// sending runs do with a way to send frames as they are out of a node's eth0.
func (s *site) sending(node string, do func(send func(frame []byte) error) error) error {
	return s.lab.NS(node).Do(func() error {
		iface, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(func(frame []byte) error {
			return unix.Sendto(fd, frame[packet.VnetLen:], 0, &unix.SockaddrLinklayer{Ifindex: iface.Index})
		})
	})
}

// moveToLo puts a node's VIP where the LVS way has it.
func (s *site) moveToLo(node, vip string) {
	s.t.Helper()
	ns, a := s.lab.NS(node), netip.MustParseAddr(vip)
	link, err := ns.Handle().LinkByName("eth0")
	s.must(err)
	all := net.CIDRMask(a.BitLen(), a.BitLen())
	s.must(ns.Handle().AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: all}}))
	s.must(ns.AddAddress("lo", netip.PrefixFrom(a, a.BitLen())))
}

// TestConflict: one-arm, with a server that answers for the VIP. It is named, with what to do about it; and
// when that is done, all is quiet.
func TestConflict(t *testing.T) {
	needLab(t)
	for _, usePacket := range []bool{false, true} {
		for i, vip := range vips {
			// On lo an IPv4 address is answered for, by default; an IPv6 one only on the interface.
			on := []string{"lo", "eth0"}[i]
			s := openDR(t, labnet.DROptions{Packet: usePacket, VIPOn: on, Clients: 2})
			s.until("the conflict is seen", func() error {
				for _, c := range s.segment().Conflicts {
					if c.VIP.String() == vip && c.Server == "rs2" {
						return nil
					}
				}
				return fmt.Errorf("%+v", s.segment().Conflicts)
			})
			fix := []string{"net.ipv4.conf.all.arp_ignore=1", "ip addr del " + vip + "/PREFIX dev"}[i]
			s.until("a line of the log names rs2 and what to do", func() error {
				for _, line := range strings.Split(s.log.String(), "\n") {
					if strings.Contains(line, "another station claims "+vip) && strings.Contains(line, "server=rs2") &&
						strings.Contains(line, fix) && strings.Contains(line, "mac=02:00:cb:00:71:0b") {
						return nil
					}
				}
				return errors.New("none does")
			})
			log := s.log.String()
			if n := strings.Count(log, "another station claims "+vip); n > 3 {
				t.Errorf("%d lines about one VIP and three servers:\n%s", n, log)
			}
			// Do as told, on all servers.
			for _, rs := range []string{"rs1", "rs2", "rs3"} {
				ns := s.lab.NS(rs)
				s.must(ns.Sysctl("ipv4/conf/all/arp_ignore", "1"))
				s.must(ns.Sysctl("ipv4/conf/all/arp_announce", "2"))
				if on == "eth0" {
					for _, v := range vips {
						s.moveToLo(rs, v)
					}
				}
			}
			for _, node := range []string{"client", "client2"} {
				s.must(s.lab.NS(node).FlushNeighbours())
			}
			count := func() (n uint64) {
				for _, c := range s.segment().Conflicts {
					n += c.Count
				}
				return n
			}
			before := count()
			for _, v := range vips {
				s.get("client", "http://"+hostPort(v, 80)+"/")
				s.get("client2", "http://"+hostPort(v, 80)+"/")
			}
			s.onlyOurs("client", "client2")
			if after := count(); after != before {
				t.Errorf("claims after the fix: %d, before %d", after, before)
			}
		}
	}
}

// TestDirectGateway: the servers' default gateway is tunlb. Their answers to a remote client pass it, whole,
// and are told of.
func TestDirectGateway(t *testing.T) {
	shapes(t, func(o *labnet.DROptions) { o.Gateway = true }, func(t *testing.T, o labnet.DROptions) {
		s := openDR(t, o)
		for _, vip := range vips {
			if got := s.sequence("remote", "http://"+hostPort(vip, 80)+"/", 3); got != "rs1 rs2 rs3" {
				t.Errorf("%s: %s", vip, got)
			}
			s.transfer("remote", vip)
			s.datagrams("remote", vip)
			if got := s.sequence("remote", "http://"+hostPort(vip, 8888)+"/", 3); got != "rs1 rs2 rs3" {
				t.Errorf("nat %s: %s", vip, got)
			}
		}
		for _, svc := range s.status().Services {
			for _, srv := range svc.Servers {
				if svc.Mode == "dr" && strings.HasPrefix(svc.Name, "web") && srv.Passing == 0 {
					t.Errorf("%s %s: no answer was seen passing", svc.Name, srv.Name)
				}
			}
		}
		if out, _, _ := s.tunlb("status"); !strings.Contains(out, "its answers pass the LB") {
			t.Errorf("status does not tell:\n%s", out)
		}
	})
}

// TestSameMAC: tunlb has the MAC that it had before, after whatever end.
func TestSameMAC(t *testing.T) {
	needLab(t)
	o := labnet.DROptions{Quiet: true}
	s := openLab(t, labnet.DR(o), drConfig(o))
	s.start()
	before := s.segment().MAC
	s.kill()
	s.start()
	t.Cleanup(s.stop)
	s.untilUp()
	if after := s.segment().MAC; after != before {
		t.Errorf("tunlb was %s and is %s", before, after)
	}
	s.get("client", "http://203.0.113.22/")
}

// TestOwnAddressTaken: tunlb does not start as a second host with an address of the box, nor inline beside a
// bridge that joins the two sides already.
func TestOwnAddressTaken(t *testing.T) {
	needLab(t)
	for _, c := range []struct {
		options labnet.DROptions
		spoil   func(s *site, lb *netns.NS) error
		want    string
	}{
		{labnet.DROptions{Packet: true}, func(s *site, lb *netns.NS) error {
			return lb.AddAddress("eth0", netip.MustParsePrefix(labnet.TunlbAddr+"/24"))
		}, "203.0.113.2 is this box's own"},
		{labnet.DROptions{Packet: true}, func(s *site, lb *netns.NS) error {
			return lb.AddAddress("eth0", netip.MustParsePrefix(labnet.VIP6+"/128"))
		}, "2001:db8:113::22 is this box's own"},
		{labnet.DROptions{}, func(s *site, lb *netns.NS) error {
			return lb.AddAddress("br0", netip.MustParsePrefix(labnet.VIP+"/32"))
		}, "203.0.113.22 is this box's own"},
		{labnet.DROptions{Packet: true, Shape: labnet.Inline}, func(s *site, lb *netns.NS) error {
			return lb.Bridge("brx", "eth0", "eth1")
		}, "nomaster"},
	} {
		s := openLab(t, labnet.DR(c.options), drConfig(c.options))
		s.must(c.spoil(s, s.lab.NS("lb")))
		before := s.network()
		_, stderr, code := s.tunlb("run", "-f", s.config)
		if code != 1 || !strings.Contains(stderr, c.want) {
			t.Errorf("exit %d, want 1 and %q:\n%s", code, c.want, stderr)
		}
		if after := s.network(); !slices.Equal(before, after) {
			t.Errorf("traces are left:\n%v\n%v", before, after)
		}
	}
}
