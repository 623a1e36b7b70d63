package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// checkSteps compares the steps with the network, and with each other in their order.
func (d *decoder) checkSteps() {
	held := make(map[string]string) // connections that are open, and the hosts that have opened them
	for i := range d.lab.Steps {
		s, at := &d.lab.Steps[i], d.at.steps[i]
		d.checkExpectation(s, at)
		switch do := s.Do.(type) {
		case *Request:
			d.checkFrom(do.From, at)
			d.checkTarget(do.To, labnet.HTTP, "url", at)
			if 0 < do.Count && do.Count < do.Parallel {
				d.fail(at.place("parallel"), fmt.Sprintf("parallel %d of %d requests", do.Parallel, do.Count), "there are not so many", fmt.Sprintf("write count: %d, too", do.Parallel))
			}
		case *UDP:
			d.checkFrom(do.From, at)
			d.checkTarget(do.To, labnet.UDPEcho, "to", at)
		case *Ping:
			d.checkFrom(do.From, at)
		case *Hold:
			d.checkFrom(do.From, at)
			d.checkTarget(do.To, labnet.TCPEcho, "to", at)
			if _, open := held[do.Name]; open {
				d.fail(at.place("name"), fmt.Sprintf("doubled hold %s", wording.Quote(do.Name)), "a step above keeps a connection of that name", "write another name, or an end: before")
			}
			held[do.Name] = do.From
		case *Check:
			d.checkHeld(do.Hold, held, at)
		case *End:
			d.checkHeld(do.Hold, held, at)
			delete(held, do.Hold)
		case *Order:
			d.checkOrder(do.Service, do.Server, at)
		case *Kill:
			d.checkOrder(do.Service, do.Server, at)
		case *Status:
			d.checkOrder(do.Service, do.Server, at)
		case *Behave:
			d.checkBehave(do, at)
		case *Impair:
			d.checkImpair(do, at)
		case *Explain:
			if do.Client.IsValid() && do.VIP.IsValid() && do.Client.Addr().Is4() != do.VIP.Addr().Is4() {
				d.fail(at.place("client"), fmt.Sprintf("client %s of the %s VIP %s", do.Client, family(do.VIP.Addr()), do.VIP), "a connection is of one family", "write an "+family(do.VIP.Addr())+" address")
			}
		}
	}
}

// serving are the hosts with server programs, and those that may have some that could not be read.
func (d *decoder) serving() (names []string) {
	for i, h := range d.lab.Hosts {
		if len(h.Services) > 0 || d.at.hosts[i].unread {
			names = append(names, h.Name)
		}
	}
	return names
}

// hostNames are those of all hosts that fit.
func (d *decoder) hostNames(fit func(Host) bool) (names []string) {
	for _, h := range d.lab.Hosts {
		if fit(h) {
			names = append(names, h.Name)
		}
	}
	return names
}

func (d *decoder) unknown(at pos, what, name string, names []string) {
	if name != "" && !slices.Contains(names, name) {
		d.fail(at, fmt.Sprintf("unknown %s %s", what, wording.Quote(name)), "the lab has none of this name", wording.Suggest(name, names))
	}
}

func (d *decoder) checkFrom(host string, at *stepAt) {
	d.unknown(at.place("from"), "host", host, d.hostNames(func(Host) bool { return true }))
}

// checkTarget wants a VIP's service, or a host's server program of that kind. What else an address may be nobody answers for, and
// that may be what the step is to show.
func (d *decoder) checkTarget(to netip.AddrPort, kind labnet.Kind, key string, at *stepAt) {
	if !to.IsValid() || d.config == nil {
		return
	}
	proto := "tcp"
	if kind == labnet.UDPEcho {
		proto = "udp"
	}
	var vips []string
	for _, s := range d.config.Services {
		for _, l := range s.Listen {
			if l.Addr == to.Addr() {
				return // that a port of it has no service may be shown, too
			}
			vips = append(vips, l.Addr.String())
		}
	}
	if d.lab.owner(to.Addr()) != "" || slices.ContainsFunc(d.lab.Director.Attachments, func(a Attachment) bool {
		return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.Addr() == to.Addr() })
	}) {
		return
	}
	slices.Sort(vips)
	d.warn(at.place(key), fmt.Sprintf("%s/%s is no VIP and no host's", to, proto), "nobody will answer there", wording.Suggest(to.Addr().String(), slices.Compact(vips)))
}

func (d *decoder) checkHeld(name string, held map[string]string, at *stepAt) {
	if _, ok := held[name]; ok || name == "" {
		return
	}
	var names []string
	for n := range held {
		names = append(names, n)
	}
	slices.Sort(names)
	instead := "write a step hold: before"
	if len(names) > 0 {
		instead = wording.Suggest(name, names)
	}
	d.fail(at.place("hold"), fmt.Sprintf("unknown hold %s", wording.Quote(name)), "no step above keeps a connection of that name", instead)
}

// checkOrder compares what tunlb is told or asked with what it is configured with.
func (d *decoder) checkOrder(service, server string, at *stepAt) {
	if d.config == nil {
		return
	}
	var services []string
	for _, s := range d.config.Services {
		services = append(services, s.Name)
	}
	if service != "" && !slices.Contains(services, service) {
		d.fail(at.place("service"), fmt.Sprintf("unknown service %s", wording.Quote(service)), "the director's config has none of this name", wording.Suggest(service, services))
	}
	if names := d.serverNames(); server != "" && !slices.Contains(names, server) {
		d.fail(at.place("server"), fmt.Sprintf("unknown server %s", wording.Quote(server)), "the director's config has none of this name", wording.Suggest(server, looksNamed(names)))
	}
}

func (d *decoder) checkBehave(b *Behave, at *stepAt) {
	d.unknown(at.place("host"), "host", b.Host, d.serving())
	i := slices.IndexFunc(d.lab.Hosts, func(h Host) bool { return h.Name == b.Host })
	if i < 0 || b.Port == 0 || len(d.lab.Hosts[i].Services) == 0 || d.at.hosts[i].unread {
		return
	}
	var ports []string
	var kinds []labnet.Kind
	for _, s := range d.lab.Hosts[i].Services {
		ports = append(ports, fmt.Sprint(s.Port))
		if s.Port == b.Port {
			kinds = append(kinds, s.Kind)
		}
	}
	switch {
	case len(kinds) == 0:
		d.fail(at.place("port"), fmt.Sprintf("port %d of %q", b.Port, b.Host), "it serves nothing there", "write "+wording.Enumerate(ports, "or"))
	case b.Fail != 0 && !slices.Contains(kinds, labnet.HTTP):
		d.fail(at.place("fail"), fmt.Sprintf("\"fail\" of a %s", kinds[0]), "it is a status of HTTP", "write silent: true, or stopped: true")
	}
}

func (d *decoder) checkImpair(i *Impair, at *stepAt) {
	attachments := d.lab.Director.Attachments
	if i.Host != d.lab.Director.Name {
		h, ok := d.lab.Host(i.Host)
		if !ok {
			d.unknown(at.place("host"), "host", i.Host, append(d.hostNames(func(Host) bool { return true }), d.lab.Director.Name))
			return
		}
		attachments = h.Attachments
	}
	var names []string
	for _, a := range attachments {
		names = append(names, a.Network)
	}
	if i.Network != "" && !slices.Contains(names, i.Network) {
		d.fail(at.place("network"), fmt.Sprintf("%q has no link to %s", i.Host, wording.Quote(i.Network)), "it is in "+wording.Enumerate(names, "and"), wording.Suggest(i.Network, names))
	}
}

// fitting are the expectations that an action can have.
func fitting(a Action) []string {
	switch a.(type) {
	case *Request:
		return []string{"status", "server", "servers", "client", "error", "took", "bytes"}
	case *UDP:
		return []string{"server", "servers", "error", "took"}
	case *Ping:
		return []string{"error", "took"}
	case *Hold:
		return []string{"server", "servers", "error", "took"}
	case *Check:
		return []string{"alive", "server", "servers", "error", "took"}
	case *Explain:
		return []string{"server", "servers"}
	}
	return nil
}

// looks tells whether an action changes nothing that a second time would not, so that it can be repeated until it comes true.
func looks(a Action) bool {
	switch a.(type) {
	case *Request, *UDP, *Ping, *Check, *Status, *Drops, *Explain:
		return true
	}
	return false
}

func (d *decoder) checkExpectation(s *Step, at *stepAt) {
	fit := fitting(s.Do)
	if _, some := at.values["expect"]; some && fit == nil {
		instead := "remove the key"
		if looks(s.Do) {
			instead = "write it into " + s.Do.Key() + ": itself"
		}
		d.fail(at.place("expect"), fmt.Sprintf(`"expect" of %s`, s.Do.Key()), "nothing comes back from it", instead)
		return
	}
	for key, place := range at.values {
		if name, ok := strings.CutPrefix(key, "expect."); ok && !slices.Contains(fit, name) && fit != nil {
			d.fail(place, fmt.Sprintf("%q is nothing that %s gives", name, s.Do.Key()), "it gives "+wording.Enumerate(fit, "and"), "remove the key")
		}
	}
	if s.Within > 0 && !looks(s.Do) {
		d.fail(at.place("within"), fmt.Sprintf(`"within" of %s`, s.Do.Key()), "it is done once", "write it into a step that looks what has come of it")
	}
	e := &s.Expect
	serving := d.serving()
	for _, name := range e.AnyOf {
		key := "expect.servers"
		if _, ok := at.values[key]; !ok {
			key = "expect.server"
		}
		d.unknown(at.place(key), "server", name, serving)
	}
	for _, is := range e.Servers {
		d.unknown(at.place("expect.servers"), "server", is.Server, serving)
	}
	if answers := e.Status != 0 || len(e.Servers)+len(e.AnyOf)+len(e.Client) > 0 || e.Bytes != nil; answers && len(e.Errors) > 0 {
		d.fail(at.place("expect.error"), `"error" beside what an answer has`, "an attempt that fails has no answer", "remove error: or the others")
	}
	if r, ok := s.Do.(*Request); ok && len(e.Client) > 0 && strings.Contains(r.URL, "/bytes/") {
		d.fail(at.place("expect.client"), `"client" of /bytes/`, "that answer does not say whom the server has seen", "ask for another path, such as /")
	}
	if e.Alive != nil && !*e.Alive && len(e.Servers)+len(e.AnyOf) > 0 {
		d.fail(at.place("expect.alive"), "a server of a connection that is not alive", "nobody answers", "remove alive: or server:")
	}
}
