package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config/wording"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// askNames is how long a warning may keep a command waiting.
const askNames = 2 * time.Second

// warnOfNames tells of names in a filter that the daemon does not have. That is no error: a reload may bring them. Nor
// is it one that nobody answers: the command itself is about to find out.
func warnOfNames(c *cli.Context, f watch.Filter) {
	if f.Server == "" && f.Service == "" && f.Port == "" {
		return
	}
	ctx, cancel := context.WithTimeout(c.Context, askNames)
	defer cancel()
	status, err := client(c).Status(ctx)
	if err != nil {
		return
	}
	for _, warning := range unknownNames(&status.Status, f) {
		fmt.Fprintln(c.App.ErrWriter, "warning: "+warning)
	}
}

// unknownNames says which names of a filter nothing has, and which may have been meant.
func unknownNames(s *tunlb.Status, f watch.Filter) (warnings []string) {
	var services, servers, ports []string
	var addresses []netip.AddrPort
	for i := range s.Services {
		services = append(services, s.Services[i].Name)
		for _, server := range s.Services[i].Servers {
			servers, addresses = append(servers, server.Name), append(addresses, server.Address)
		}
	}
	for i := range s.Ports {
		ports = append(ports, s.Ports[i].Name)
	}
	note := func(kind, name string, names []string) {
		for _, there := range names {
			if name == "" || there == name {
				return
			}
		}
		if name == "" {
			return
		}
		text := fmt.Sprintf("tunlb has no %s %q now", kind, name)
		if _, err := strconv.ParseUint(name, 10, 16); err == nil && kind == "port" {
			text += ", and ports here are tunlb's own; for the port number of a service write: vip :" + name
		} else if near := wording.Nearest(name, names); near != "" {
			text += fmt.Sprintf("; did you mean %s?", near)
		}
		warnings = append(warnings, text)
	}
	note("service", f.Service, services)
	note("port", f.Port, ports)
	// A gateway's connections have servers that no status lists.
	for _, at := range addresses {
		servers = append(servers, at.String(), at.Addr().String())
	}
	if len(s.Gateways) == 0 || !isAddress(f.Server) {
		note("server", f.Server, servers)
	}
	return warnings
}

// isAddress says whether a server is meant by its address, with or without a port.
func isAddress(server string) bool {
	_, addrErr := netip.ParseAddr(server)
	_, portErr := netip.ParseAddrPort(server)
	return addrErr == nil || portErr == nil
}
