package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "end connections: both ends get a reset, if it is TCP",
		ArgsUsage: "[CONN...]",
		Description: "CONN is an ID as `tunlb conns -o wide` shows it: protocol/client/VIP. Instead of IDs the options name\n" +
			"all connections that match every one of them.",
		Flags: append([]cli.Flag{socketFlag()}, filterFlags()...),
		Action: func(c *cli.Context) error {
			filter, filtered, err := filterOf(c)
			ids := c.Args().Slice()
			switch {
			case err != nil:
				return err
			case filtered && len(ids) > 0:
				return usagef("kill wants IDs or options that choose, not both")
			case !filtered && len(ids) == 0:
				return usagef("kill wants IDs, as `tunlb conns -o wide` shows them, or --server, --client or --service")
			case filtered:
				filter, unknown, err := resolve(c.Context, client(c), filter)
				if err != nil {
					return err
				}
				n, err := client(c).KillAll(c.Context, filter)
				if err != nil {
					return err
				}
				if n == 0 && unknown != nil {
					return unknown
				}
				fmt.Fprintf(c.App.Writer, "killed %s\n", count(n, "connection"))
				return nil
			}
			return killByID(c, ids)
		},
	}
}

// killByID goes on after those that are not there.
func killByID(c *cli.Context, ids []string) error {
	daemon, killed := client(c), 0
	var errs []error
	for _, id := range ids {
		err := daemon.Kill(c.Context, id)
		var refused *control.Error
		switch {
		case err == nil:
			killed++
		case errors.As(err, &refused):
			errs = append(errs, err)
		default:
			return err
		}
	}
	fmt.Fprintf(c.App.Writer, "killed %s\n", count(killed, "connection"))
	return errors.Join(errs...)
}

// filterFlags choose connections.
func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "server", Usage: "those to the `SERVER`, by name, address or address:port"},
		&cli.StringFlag{Name: "client", Usage: "those of the `CLIENT`, an address or a network like 198.51.100.0/24"},
		&cli.StringFlag{Name: "service", Usage: "those of the service `NAME`"},
	}
}

// filterOf reads filterFlags, and says whether there is any.
func filterOf(c *cli.Context) (filter tunlb.ConnFilter, any bool, err error) {
	for _, name := range []string{"server", "client", "service"} {
		if !c.IsSet(name) {
			continue
		}
		// A script's empty variable must not choose everything.
		if any = true; c.String(name) == "" {
			return filter, any, usagef("--%s is empty", name)
		}
	}
	filter.Server, filter.Service = c.String("server"), c.String("service")
	if c.IsSet("client") {
		if filter.Client, err = control.ParseClient(c.String("client")); err != nil {
			return filter, any, usagef("--%w", err)
		}
	}
	return filter, any, nil
}

// resolve turns a filter's service and server as people name them, by a place or another spelling of an address,
// into what connections have. What there is none of is unknown, which is an error if no connection matches: those
// of a server that was removed may go on.
func resolve(ctx context.Context, asked *control.Client, filter tunlb.ConnFilter) (_ tunlb.ConnFilter, unknown, err error) {
	if filter.Service == "" && filter.Server == "" {
		return filter, nil, nil
	}
	status, err := asked.Status(ctx)
	if err != nil {
		return filter, nil, err
	}
	filter, unknown = resolveIn(status.Services, filter)
	return filter, unknown, nil
}

func resolveIn(all []tunlb.ServiceStatus, filter tunlb.ConnFilter) (_ tunlb.ConnFilter, unknown error) {
	services := servicesOf(all, filter.Service)
	switch {
	case len(services) == 0:
		var names []string
		for _, s := range all {
			names = append(names, s.Name)
		}
		unknown = fmt.Errorf("no service %q; there is: %s", filter.Service, some(names))
	case filter.Service != "":
		filter.Service = services[0].Name
	}
	if filter.Server == "" || unknown != nil {
		return filter, unknown
	}
	var names []string
	named, found := false, false
	for _, s := range services {
		for _, srv := range s.Servers {
			names = append(names, fmt.Sprintf("%s/%s (%s)", s.Name, srv.Name, srv.Address))
			named = named || srv.Name == filter.Server
		}
		found = found || len(serversOf(s, filter.Server)) > 0
	}
	if !found {
		unknown = fmt.Errorf("no server %q; there is: %s", filter.Server, some(names))
	}
	if at, err := netip.ParseAddrPort(filter.Server); err == nil && !named {
		filter.Server = netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
	} else if addr, err := netip.ParseAddr(filter.Server); err == nil && !named {
		filter.Server = addr.Unmap().String()
	}
	return filter, unknown
}

// some lists names for people.
func some(names []string) string {
	const most = 10
	if len(names) == 0 {
		return "none"
	}
	if more := len(names) - most; more > 0 {
		names = append(names[:most:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// servicesOf are those that a name or a place such as 203.0.113.22:80/tcp means, or for "" all of them.
func servicesOf(all []tunlb.ServiceStatus, service string) []tunlb.ServiceStatus {
	if service == "" {
		return all
	}
	is := func(same func(tunlb.ServiceStatus) bool) []tunlb.ServiceStatus {
		if i := slices.IndexFunc(all, same); i >= 0 {
			return all[i : i+1]
		}
		return nil
	}
	if found := is(func(s tunlb.ServiceStatus) bool { return s.Name == service }); found != nil {
		return found
	}
	place, err := policy.ParseListen(service)
	if err != nil {
		return nil
	}
	return is(func(s tunlb.ServiceStatus) bool { return slices.Contains(s.Listen, place) })
}

// serversOf are those of a service that a name, an address, or an address and port means; a name goes first.
func serversOf(s tunlb.ServiceStatus, server string) (found []tunlb.ServerStatus) {
	at, errAt := netip.ParseAddrPort(server)
	addr, errAddr := netip.ParseAddr(server)
	for _, srv := range s.Servers {
		switch {
		case srv.Name == server:
			return []tunlb.ServerStatus{srv}
		case errAt == nil && srv.Address == netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), errAddr == nil && srv.Address.Addr() == addr.Unmap():
			found = append(found, srv)
		}
	}
	return found
}
