//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/control"
)

// patience is for what happens at once on an idle machine.
const patience = time.Minute

// way is how packets come to tunlb.
type way struct {
	name  string
	ports string // of the configuration
	tun   bool   // it needs /dev/net/tun
	dr    bool   // clients and servers share a segment; the servers have the VIP
}

var (
	onTUN    = way{name: "tun", ports: "ports: [{name: tunlb0, addresses: [10.255.0.1/30]}]\n", tun: true}
	onPacket = way{name: "packet", ports: "ports: [{name: eth0, type: packet}, {name: eth1, type: packet}]\n"}
	onTAP    = way{name: "tap", ports: "ports: [{name: tap0, type: tap, bridge: br0, addresses: [203.0.113.2/24]}]\n", tun: true, dr: true}
)

// vip is where all services are; each has a port of its own.
const vip = labnet.VIP

// serverNodes are the real servers of every way.
var serverNodes = []string{"rs1", "rs2", "rs3"}

// topology is the network of a way.
func (w way) topology() labnet.Topology {
	if w.dr {
		return labnet.DR(labnet.DROptions{Quiet: true})
	}
	return labnet.Story(labnet.StoryOptions{})
}

// servers lists the real servers with a port; in direct routing it is the VIP's own.
func (w way) servers(port int) string {
	var all []string
	for i := range 3 {
		host := "192.168.0.1"
		if w.dr {
			host = "203.0.113.1"
		}
		all = append(all, fmt.Sprintf("{name: rs%d, address: %s%d:%d}", i+1, host, i, port))
	}
	return strings.Join(all, ", ")
}

// service is a line of a configuration: the VIP's port to the same one of three servers. more are further keys.
func (w way) service(name string, port int, protocol, more string) string {
	mode := "nat"
	if w.dr {
		mode = "dr"
	}
	return fmt.Sprintf("  - {name: %s, listen: %s:%d/%s, mode: %s, scheduler: rr, %sservers: [%s]}\n", name, vip, port, protocol, mode, more, w.servers(port))
}

// site is a network with a tunlb in it. Whoever opened it closes it.
type site struct {
	way
	lab  *labnet.Lab
	opts options
	dir  string
	proc *netns.Process
}

// open makes the network of a way, without tunlb in it.
func open(o options, w way) (*site, error) {
	if w.tun {
		if err := netns.CheckTUN(); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(o.dir, w.name)
	if err != nil {
		return nil, err
	}
	lab, err := labnet.Open(w.topology())
	if err != nil {
		return nil, err
	}
	s := &site{way: w, lab: lab, opts: o, dir: dir}
	for _, node := range append([]string{"client"}, serverNodes...) {
		// The kernel's default may be BBR, which gives way to every queue: its pace would be measured, not tunlb's.
		if err := lab.NS(node).Sysctl("ipv4/tcp_congestion_control", "reno"); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// close ends tunlb, whatever it is at, and the network with it.
func (s *site) close() error {
	if s.proc != nil {
		s.proc.Kill()
	}
	return errors.Join(s.lab.Close(), os.RemoveAll(s.dir))
}

func (s *site) file() string   { return filepath.Join(s.dir, "tunlb.yaml") }
func (s *site) socket() string { return filepath.Join(s.dir, "tunlb.sock") }

// configure writes the file: the way's ports, and services and further keys as given. It is there at once, as a whole.
func (s *site) configure(services string, more ...string) error {
	text := fmt.Sprintf("%sservices:\n%scontrol: {socket: %s}\n%s\n", s.ports, services, s.socket(), strings.Join(more, "\n"))
	next := s.file() + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.file())
}

// command prepares a command of tunlb's on lb.
func (s *site) command(ctx context.Context, args ...string) *netns.Cmd {
	cmd := s.lab.NS("lb").Command(ctx, s.opts.tunlb, args...)
	cmd.Env = append(os.Environ(), "TUNLB_SOCKET="+s.socket(), "NO_COLOR=1")
	return cmd
}

// start runs tunlb and waits until it answers.
func (s *site) start(ctx context.Context) error { return s.startBy(ctx, "run", "-f", s.file()) }

// startBy runs tunlb with these arguments, in place of "run -f FILE".
func (s *site) startBy(ctx context.Context, args ...string) error {
	return s.startCommand(ctx, s.command(context.WithoutCancel(ctx), args...))
}

func (s *site) startCommand(ctx context.Context, cmd *netns.Cmd) (err error) {
	if s.proc, err = netns.StartProcess(cmd, nil); err != nil {
		return err
	}
	err = s.until(ctx, "tunlb answers", func() error {
		if err := s.proc.Alive(); err != nil {
			return final{err}
		}
		_, err := s.status(ctx)
		return err
	})
	if err != nil && s.proc.Alive() == nil {
		_ = s.proc.End(unix.SIGQUIT, patience) // it says where it is, and that it has ended so is no news
		err = fmt.Errorf("%w%s", err, s.proc.Said())
	}
	return err
}

// stop ends tunlb as a user does.
func (s *site) stop() error { return s.proc.End(unix.SIGINT, patience) }

func (s *site) client() *control.Client { return control.NewClient(s.socket()) }

func (s *site) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.client().Status(ctx)
}

// final is an error that waiting does not mend.
type final struct{ error }

// until tries again until there is no error, for as long as patience says.
func (s *site) until(ctx context.Context, what string, try func() error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	for first := true; ; first = false {
		now := try()
		var end final
		switch {
		case now == nil:
			return nil
		case errors.As(now, &end):
			return fmt.Errorf("%s: %w", what, now)
		case first || ctx.Err() == nil: // else it is of our own giving up
			err = now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w%s", what, patience, err, s.proc.Said())
		case <-retry.C:
		}
	}
}
