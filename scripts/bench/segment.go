//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// On a segment client and server are neighbours, and tunlb is another. Direct routing leaves a packet's
// port as it is, so the server listens on the VIP's.
var (
	segmentClient = netip.MustParsePrefix("203.0.113.7/24")
	segmentServer = netip.MustParsePrefix("203.0.113.10/24")
	segmentTunlb  = netip.MustParsePrefix("203.0.113.2/24")
	neighbour     = netip.AddrPortFrom(segmentServer.Addr(), vip.Port())
)

// bridge is an Ethernet switch in the LB's namespace. The veth pairs of client and server end there, as
// "client" and "server".
type bridge struct {
	name  string
	ports []string
}

var (
	shared  = bridge{"br0", []string{"client", "server"}}
	clients = bridge{"clients", []string{"client"}}
	servers = bridge{"servers", []string{"server"}}
)

func startBridge(_ context.Context, s *stand, _ options) error { return s.makeSegment(shared) }

func startDR(ctx context.Context, s *stand, o options) error {
	if err := errors.Join(s.makeSegment(shared), s.quietServer()); err != nil {
		return err
	}
	return s.runTunlb(ctx, o, fmt.Sprintf("- {name: tap0, type: tap, bridge: %s, addresses: [%s]}", shared.name, segmentTunlb))
}

// startDRPacket takes an interface of the LB's which is plugged into the bridge, as a machine of its own
// has one.
func startDRPacket(ctx context.Context, s *stand, o options) error {
	if err := netns.Connect(netns.End{NS: s.lb, Name: "eth0"}, netns.End{NS: s.lb, Name: "lb"}); err != nil {
		return err
	}
	plugged := bridge{shared.name, []string{"client", "server", "lb"}}
	if err := errors.Join(s.makeSegment(plugged), s.quietServer()); err != nil {
		return err
	}
	return s.runTunlb(ctx, o, fmt.Sprintf("- {name: eth0, type: packet, addresses: [%s]}", segmentTunlb))
}

// startDRInline leaves it to tunlb to keep the server quiet, and all frames to it.
func startDRInline(ctx context.Context, s *stand, o options) error {
	if err := errors.Join(s.makeSegment(clients, servers), s.onServer()); err != nil {
		return err
	}
	return s.runTunlb(ctx, o, fmt.Sprintf(`
  - {name: tap0, type: tap, bridge: %s, side: clients, addresses: [%s]}
  - {name: tap1, type: tap, bridge: %s, side: servers}`, clients.name, segmentTunlb, servers.name))
}

// bareMAC is the bare loop's own.
var bareMAC = netns.MAC{0x02, 0, 0x5e, 0, 0x53, 0x02}

// startBareDR pins the MACs at both ends, which tunlb resolves.
func startBareDR(ctx context.Context, s *stand, o options) error {
	tap, err := openDevice(s.lb, "tap0", unix.IFF_TAP)
	if err != nil {
		return err
	}
	defer tap.Close() // the loop has its own
	plugged := bridge{shared.name, []string{"client", "server", "tap0"}}
	if err := errors.Join(s.lb.Up("tap0"), s.makeSegment(plugged), s.quietServer(), s.clientNS.AddNeighbour("eth0", vip.Addr(), bareMAC)); err != nil {
		return err
	}
	macs, err := s.serveNS.MACs()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := s.lb.Command(ctx, self, childBareDirect, macs["eth0"].String(), bareMAC.String())
	cmd.ExtraFiles = []*os.File{tap}
	s.process, err = startProcess(cmd, o.verbose)
	return err
}

// makeSegment joins client and server by Ethernet alone; between two bridges the subject is missing.
func (s *stand) makeSegment(bridges ...bridge) error {
	for _, link := range [...][2]netns.End{
		{{NS: s.clientNS, Name: "eth0", Addresses: []netip.Prefix{segmentClient}}, {NS: s.lb, Name: "client"}},
		{{NS: s.serveNS, Name: "eth0", Addresses: []netip.Prefix{segmentServer}}, {NS: s.lb, Name: "server"}},
	} {
		if err := netns.Connect(link[0], link[1]); err != nil {
			return err
		}
	}
	for _, b := range bridges {
		if err := s.lb.Bridge(b.name, b.ports...); err != nil {
			return err
		}
	}
	return s.lb.Settle()
}

// onServer gives the server the VIP, which it answers ARP for.
func (s *stand) onServer() error { return s.serveNS.AddAddress("lo", netip.PrefixFrom(vip.Addr(), 32)) }

// quietServer gives the server the VIP as LVS wants it.
func (s *stand) quietServer() error {
	return errors.Join(
		s.serveNS.Sysctl("ipv4/conf/all/arp_ignore", "1"),
		s.serveNS.Sysctl("ipv4/conf/all/arp_announce", "2"),
		s.onServer(),
	)
}

// checkWay refuses figures of a way past tunlb: a client that has learned the VIP from the server itself
// goes there directly, and fast.
func (s *stand) checkWay() error {
	if !s.segment || s.direct {
		return nil
	}
	known, _, err := s.clientNS.Neighbour(vip.Addr())
	if err != nil {
		return err
	}
	macs, err := s.serveNS.MACs()
	if err != nil {
		return err
	}
	if known.MAC == macs["eth0"] {
		return fmt.Errorf("the client has the server's own MAC %s for the VIP %s: its frames do not pass the LB", known.MAC, vip.Addr())
	}
	return nil
}
