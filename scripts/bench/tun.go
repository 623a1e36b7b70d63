//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/kernel"
)

func startTunlb(ctx context.Context, s *stand, o options) error {
	return s.runTunlb(ctx, o, fmt.Sprintf("- {name: tunlb0, addresses: [%s]}", tunAddr))
}

func startTunlbKernel(ctx context.Context, s *stand, o options) error {
	return s.runTunlb(ctx, o, fmt.Sprintf("- {name: tunlb0, addresses: [%s]}", tunAddr), "fastpath: kernel")
}

func startTunlbPacket(ctx context.Context, s *stand, o options) error {
	return s.runTunlb(ctx, o, `
  - {name: outer, type: packet}
  - {name: inner, type: packet}`)
}

func startTunlbRouter(ctx context.Context, s *stand, o options) error {
	return s.runTunlb(ctx, o, fmt.Sprintf(`
  - {name: clients, netns: %s, addresses: [%s], router: [%s]}
  - {name: servers, netns: %s, addresses: [%s], router: [%s]}`,
		s.clientNS.Path(), clientAddr, outerAddr.Addr(), s.serveNS.Path(), serverAddr, innerAddr.Addr()))
}

// runTunlb runs tunlb with these ports and with further lines of its configuration.
func (s *stand) runTunlb(ctx context.Context, o options, ports string, more ...string) error {
	if _, err := os.Stat(o.tunlb); err != nil {
		return fmt.Errorf("%w: run `make build`, or say -tunlb PATH", err)
	}
	s.version = versionOf(o.tunlb, "version")
	mode := "nat"
	if s.segment {
		mode = "dr"
	}
	config, err := s.write("tunlb.yaml", fmt.Sprintf(`
ports:
  %s
services:
  - {listen: %s/tcp, mode: %s, scheduler: rr, servers: [%s]}
control: {socket: %s/tunlb.sock}
%s
`, ports, vip, mode, s.realServer(), s.dir, strings.Join(more, "\n")))
	if err != nil {
		return err
	}
	args := []string{"run", "-f", config}
	if o.profile != "" {
		s.profile = filepath.Join(o.profile, s.name+".pprof")
		args = append(args, "--cpuprofile", s.profile)
	}
	s.process, err = startProcess(s.lb.Command(ctx, o.tunlb, args...), o.verbose)
	return err
}

// startBare leads the packets to the bare loop in the way tunlb leads them to itself, rules and all.
func startBare(ctx context.Context, s *stand, o options) error {
	return s.runLoop(ctx, o, childBare, []string{vip.String(), server.String(), "1"}, s.boxDevice())
}

func startBareRouter(ctx context.Context, s *stand, o options) error {
	return s.runLoop(ctx, o, childBare, []string{vip.String(), server.String(), "2"},
		loopDevice{s.clientNS, kernel.State{Device: "clients", Addresses: []netip.Prefix{clientAddr}, Routes: []netip.Prefix{everywhere}}},
		loopDevice{s.serveNS, kernel.State{Device: "servers", Addresses: []netip.Prefix{serverAddr}, Routes: []netip.Prefix{everywhere}}})
}

// loopDevice is a TUN of a loop without tables, and what its kernel is to be told.
type loopDevice struct {
	ns    *netns.NS
	state kernel.State
}

// boxDevice is the one TUN on the box.
func (s *stand) boxDevice() loopDevice {
	return loopDevice{s.lb, kernel.State{
		Device:    "bare0",
		Addresses: []netip.Prefix{tunAddr},
		Routed:    true,
		VIPs:      []kernel.VIP{{Addr: vip.Addr(), Ports: []kernel.PortProto{{Proto: unix.IPPROTO_TCP, First: vip.Port(), Last: vip.Port()}}}},
		Servers:   []kernel.Server{{Addr: server.Addr(), Proto: unix.IPPROTO_TCP, First: server.Port(), Last: server.Port()}},
	}}
}

// runLoop makes the devices and hands their descriptors to the loop, which knows nothing of namespaces.
func (s *stand) runLoop(ctx context.Context, o options, mode string, args []string, devices ...loopDevice) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := s.lb.Command(ctx, self, append([]string{mode}, args...)...)
	defer func() {
		for _, f := range cmd.ExtraFiles {
			f.Close() // the loop has its own
		}
	}()
	for _, d := range devices {
		f, err := openDevice(d.ns, d.state.Device, unix.IFF_TUN)
		if err != nil {
			return err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		k, err := kernel.Open(d.ns.Path())
		if err != nil {
			return err
		}
		s.closers = append(s.closers, k.Close)
		if err := k.Apply(d.state); err != nil {
			return err
		}
	}
	s.process, err = startProcess(cmd, o.verbose)
	return err
}

// openDevice makes a TUN or a TAP with the offloads and the queue length of tunlb's. Its descriptor blocks.
func openDevice(ns *netns.NS, name string, kind uint16) (f *os.File, err error) {
	err = ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		ifr.SetUint16(kind | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6) != nil {
			return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp) // before Linux 6.2
		}
		return nil
	})
	if err == nil {
		err = setQueueLength(ns, name, 5000)
	}
	if err != nil && f != nil {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("make device %s: %w", name, err)
	}
	return f, nil
}

func setQueueLength(ns *netns.NS, name string, length int) error {
	link, err := ns.Handle().LinkByName(name)
	if err != nil {
		return err
	}
	return ns.Handle().LinkSetTxQLen(link, length)
}
