package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// Names of this program under which it is what LVS's scripts call.
const (
	progIPVSADM = "ipvsadm"
	progSave    = "ipvsadm-save"
	progRestore = "ipvsadm-restore"
)

// exitNoIPVS is what ipvsadm exits with where the kernel has no IPVS: here, where no tunlb can be had.
const exitNoIPVS = 2

// errNoRights is why somebody who is not root can start no tunlb.
var errNoRights = errors.New("no rights")

// calledAs says whether the program was called by one of LVS's names, and by which.
func calledAs(args []string) (program string, ok bool) {
	if len(args) == 0 {
		return "", false
	}
	switch base := filepath.Base(args[0]); base {
	case progIPVSADM, progSave, progRestore:
		return base, true
	}
	return "", false
}

func ipvsadmCommand() *cli.Command {
	return &cli.Command{
		Name:            "ipvsadm",
		Usage:           "what ipvsadm does, with its arguments, output and exit codes; links named ipvsadm, ipvsadm-save and ipvsadm-restore do it as well",
		ArgsUsage:       "ARGUMENTS",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action: func(c *cli.Context) error {
			a := newIPVSADM(c.Context, c.App.Reader, c.App.Writer, c.App.ErrWriter)
			if code := a.main(progIPVSADM, c.Args().Slice()); code != 0 {
				return cli.Exit(errReported, code)
			}
			return nil
		},
	}
}

// ipvsadm is one call of it.
type ipvsadm struct {
	ctx         context.Context
	socket      string // "": that of this network namespace's daemon
	in          io.Reader
	out, errOut io.Writer
	names       ipvs.Names
}

func newIPVSADM(ctx context.Context, in io.Reader, out, errOut io.Writer) *ipvsadm {
	return &ipvsadm{ctx, os.Getenv("TUNLB_SOCKET"), in, out, errOut, systemNames(ctx)}
}

// main is the whole call; it returns the exit code.
func (a *ipvsadm) main(program string, args []string) int {
	var err error
	switch program {
	case progRestore:
		err = a.restore(true)
	case progSave:
		args = append([]string{"-S"}, args...)
		fallthrough
	default:
		var c ipvs.Command
		if c, err = ipvs.Parse(args, a.names); err == nil {
			err = a.do(c)
		}
	}
	var refused *ipvs.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		a.refused(refused)
		return refused.Code
	}
	if errors.Is(err, errNoRights) || errors.Is(err, os.ErrPermission) {
		fmt.Fprintln(a.errOut, "Can't initialize ipvs: Permission denied (you must be root)") // what scripts look for
	}
	fmt.Fprintln(a.errOut, "tunlb:", err)
	return exitNoIPVS
}

func (a *ipvsadm) refused(err *ipvs.Error) { fmt.Fprintln(a.errOut, err.Message) }

func (a *ipvsadm) restore(clear bool) error {
	return ipvs.Restore(a.in, clear, a.names, a.do, a.refused)
}

func (a *ipvsadm) do(c ipvs.Command) error {
	switch c.Verb {
	case ipvs.Help:
		_, err := fmt.Fprint(a.out, ipvsadmHelp)
		return err
	case ipvs.Version:
		_, err := fmt.Fprintf(a.out, "ipvsadm v1.31 2019/12/24 (tunlb %s, IPVS v1.2.1)\n", version())
		return err
	case ipvs.RestoreTable:
		return a.restore(false)
	case ipvs.ListTable:
		return a.list(c)
	case ipvs.SaveTable:
		table, err := a.table()
		if err != nil {
			return err
		}
		a.note(ipvs.Unsaved(table.State))
		return ipvs.Save(a.out, c, table.State, a.names)
	}
	if err := a.change(c); err != nil {
		return err
	}
	a.note(ipvs.Warnings(c))
	return nil
}

func (a *ipvsadm) note(lines []string) {
	for _, l := range lines {
		fmt.Fprintln(a.errOut, l)
	}
}

func (a *ipvsadm) client() *control.Client { return control.NewClient(a.socket) }

// table is the daemon's, or without one the empty table that the kernel has before anybody adds to it.
func (a *ipvsadm) table() (control.Table, error) {
	table, err := a.client().LVS(a.ctx)
	if errors.Is(err, control.ErrNoDaemon) {
		return control.Table{}, nil
	}
	return table, err
}

func (a *ipvsadm) list(c ipvs.Command) error {
	if c.Options.Connections {
		return ipvs.List(a.out, c, ipvs.State{}, ipvs.View{Conns: a.conns}, a.names)
	}
	table, err := a.table()
	if err != nil {
		return err
	}
	return ipvs.List(a.out, c, table.State, ipvs.View{Entries: table.Entries}, a.names)
}

// conns visits the services' connections; those of gateways and of health checks are none of IPVS's.
func (a *ipvsadm) conns(yield func(ipvs.Conn, error) bool) {
	enough := errors.New("enough")
	err := a.client().Conns(a.ctx, tunlb.ConnFilter{Templates: true}, -1, func(c control.Conn) error {
		if isService(c) && !yield(lvsConn(c.Conn), nil) {
			return enough
		}
		return nil
	})
	if err != nil && err != enough && !errors.Is(err, control.ErrNoDaemon) {
		yield(ipvs.Conn{}, err)
	}
}

// isService tells a service's connection from a gateway's, and from one by which tunlb checks a server.
func isService(c control.Conn) bool { return c.Service != "" && !c.Check }

func lvsConn(c tunlb.Conn) ipvs.Conn {
	proto, _ := policy.ParseProto(c.Protocol) // 0 of what a mark's template has
	return ipvs.Conn{Proto: proto, Expires: c.Expires, State: c.State, Client: c.Client, Virtual: c.VIP, Server: c.Server}
}

// change has the daemon do it, and starts one if there is none but for what would change nothing.
func (a *ipvsadm) change(c ipvs.Command) error {
	err := a.client().LVSCommand(a.ctx, c)
	if !errors.Is(err, control.ErrNoDaemon) {
		return err
	}
	empty := ipvs.State{Timeouts: ipvs.Timeouts{}.Filled()}
	after, err := empty.Apply(c)
	if err != nil || reflect.DeepEqual(after, empty) {
		return err
	}
	if err := startIPVSD(a.ctx, a.socket); err != nil {
		return err
	}
	return a.client().LVSCommand(a.ctx, c)
}

// namesPatience bounds all the asking of name servers that a listing does: what they do not say in time is
// shown by number.
const namesPatience = 5 * time.Second

// systemNames resolves as ipvsadm does: by the system's resolver and /etc/services.
func systemNames(ctx context.Context) ipvs.Names {
	deadline := time.Time{}
	hosts := map[netip.Addr]string{}
	names := ipvs.Names{
		Addr: func(host string) (netip.Addr, bool) {
			addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
			if err != nil || len(addrs) == 0 {
				return netip.Addr{}, false
			}
			return addrs[0].Unmap(), true
		},
		Host: func(addr netip.Addr) (string, bool) {
			name, known := hosts[addr]
			if !known {
				if deadline.IsZero() {
					deadline = time.Now().Add(namesPatience)
				}
				asked, cancel := context.WithDeadline(ctx, deadline)
				defer cancel()
				if found, err := net.DefaultResolver.LookupAddr(asked, addr.String()); err == nil && len(found) > 0 {
					name = strings.TrimSuffix(found[0], ".")
				}
				hosts[addr] = name
			}
			return name, name != ""
		},
	}
	f, err := os.Open("/etc/services")
	if err != nil {
		return names // by number, then
	}
	defer f.Close()
	if with, err := names.WithServices(f); err == nil {
		names = with
	}
	return names
}

const ipvsadmHelp = `Usage: ipvsadm COMMAND [OPTIONS]

Services: VS is one of -t HOST:PORT (TCP), -u HOST:PORT (UDP), --sctp-service HOST:PORT, -f MARK [-6]
  -A, --add-service VS       add     [-s SCHEDULER] [-p [SECONDS]] [-M NETMASK] [-o] [-b FLAGS]
  -E, --edit-service VS      change  the same; what is left out is the default again
  -D, --delete-service VS    delete
  -C, --clear                delete all
Servers:
  -a, --add-server VS -r HOST[:PORT]      add     [-g|-m|-i] [-w WEIGHT] [-x UPPER] [-y LOWER]
  -e, --edit-server VS -r HOST[:PORT]     change  the same
  -d, --delete-server VS -r HOST[:PORT]   delete
Looking:
  -L, -l, --list [VS]        [-n] [--stats|--rate|--thresholds|--persistent-conn|--tun-info] [--exact] [--nosort]
  -L -c                      connections; -L --timeout: timeouts; -L --daemon: sync daemons
  -S, --save [-n]            print the table as commands; -R, --restore reads them
  -Z, --zero [VS]            set counters back to zero
Else:
  --set TCP TCPFIN UDP       timeouts in seconds; 0 keeps one
  --start-daemon master|backup, --stop-daemon master|backup   [--mcast-interface NAME] [--syncid ID]
  -h, --help; -v, --version

SCHEDULER is one of rr, wrr, lc, wlc (the default), sed, nq, sh, dh, mh, lblc, lblcr, fo, ovf, twos, p2c.
FLAGS are sh-port, sh-fallback, mh-port, mh-fallback, apart by commas.
-g routes directly (the default), -m translates addresses, -i (tunnels) is held but not served yet.
`
