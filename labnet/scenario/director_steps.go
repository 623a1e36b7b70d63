package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

// dropReasons are the names that drops: may have.
func dropReasons() (names []string) {
	for _, r := range packet.Reasons() {
		names = append(names, r.String())
	}
	return names
}

// statusCounters are the numbers of the status that a step can look at.
func statusCounters() []string {
	return []string{"weight", "active", "inactive", "passing", "conns", "in_packets", "out_packets", "in_bytes", "out_bytes"}
}

// serverCounter tells those that a whole service does not have.
func serverCounter(name string) bool {
	return slices.Contains([]string{"weight", "active", "inactive", "passing"}, name)
}

// counter is a server's or a service's number. A service has its traffic alone.
func counter(name string, s tunlb.ServerStatus, t tunlb.Traffic) int64 {
	switch name {
	case "weight":
		return int64(s.Weight)
	case "active":
		return int64(s.Active)
	case "inactive":
		return int64(s.Inactive)
	case "passing":
		return int64(s.Passing)
	case "conns":
		return int64(t.Conns)
	case "in_packets":
		return int64(t.InPackets)
	case "out_packets":
		return int64(t.OutPackets)
	case "in_bytes":
		return int64(t.InBytes)
	}
	return int64(t.OutBytes)
}

// judged is judge for a connection that is held: the server is asked for in tunlb's table.
func (r *runner) judged(ctx context.Context, s *Step, a answer) (outcome, error) {
	var name string
	switch do := s.Do.(type) {
	case *Hold:
		name = do.Name
	case *Check:
		name = do.Hold
	}
	if h := r.held[name]; h != nil && a.failed == "" {
		if h.server == "" {
			var err error
			if h.server, err = r.serverOf(ctx, h); err != nil {
				return outcome{}, err
			}
		}
		a.server = h.server
	}
	return judge(&s.Expect, 1, []answer{a}), nil
}

// serverOf is the host that a connection leads to; "" if there is none.
func (r *runner) serverOf(ctx context.Context, h *held) (host string, err error) {
	if host = r.file.owner(h.to.Addr()); host != "" {
		return host, nil
	}
	local, err := netip.ParseAddrPort(h.conn.LocalAddr().String())
	if err != nil {
		return "", fmt.Errorf("local address of a connection: %w", err)
	}
	mine := netip.PrefixFrom(local.Addr(), local.Addr().BitLen())
	err = r.lab.Control().Conns(ctx, tunlb.ConnFilter{Client: mine}, -1, func(c control.Conn) error {
		if c.Client == local && c.VIP == h.to && c.Protocol == "tcp" {
			host = r.file.owner(c.Server.Addr())
		}
		return nil
	})
	return host, err
}

func (r *runner) order(ctx context.Context, do *Order) (outcome, error) {
	events, err := r.lab.Control().Order(ctx, tunlb.ServerOrder{Service: do.Service, Server: do.Server, Do: do.Do, Weight: do.Weight})
	if o, failed := refusedBy(err); failed {
		return o, nil
	} else if err != nil {
		return outcome{}, err
	}
	var words []string
	for _, e := range events {
		words = append(words, join(" ", join("/", e.Service, e.Server), e.Kind, e.Cause))
	}
	return outcome{ok: true, got: strings.Join(words, ", ")}, nil
}

// refusedBy is an order that the director's tunlb does not carry out.
func refusedBy(err error) (outcome, bool) {
	var refused *control.Error
	if !errors.As(err, &refused) {
		return outcome{}, false
	}
	return outcome{got: refused.Error(), want: "tunlb to do it"}, true
}

func (r *runner) kill(ctx context.Context, do *Kill) (outcome, error) {
	filter := tunlb.ConnFilter{Service: do.Service, Server: do.Server}
	if do.Client.IsValid() {
		filter.Client = netip.PrefixFrom(do.Client, do.Client.BitLen())
	}
	n, err := r.lab.Control().KillAll(ctx, filter)
	if o, failed := refusedBy(err); failed {
		return o, nil
	} else if err != nil {
		return outcome{}, err
	}
	return outcome{ok: n > 0, got: fmt.Sprintf("%d killed", n), want: "some connection to be there"}, nil
}

// status wants all that it is about to be so: a server may be in several services.
func (r *runner) status(ctx context.Context, do *Status) (outcome, error) {
	status, err := r.lab.Control().Status(ctx)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{ok: true, want: do.String()}
	var got []string
	for _, service := range status.Services {
		if do.Service != "" && service.Name != do.Service {
			continue
		}
		if do.Server == "" {
			words, ok := do.counts(tunlb.ServerStatus{}, service.Traffic)
			got, o.ok = append(got, service.Name+" "+words), o.ok && ok
			continue
		}
		for _, server := range service.Servers {
			if do.Server != server.Name && do.Server != server.Address.String() && do.Server != server.Address.Addr().String() {
				continue
			}
			words, ok := do.server(server)
			got, o.ok = append(got, service.Name+"/"+server.Name+" "+words), o.ok && ok
		}
	}
	if got == nil {
		return outcome{got: "not in the status", want: o.want}, nil
	}
	o.got = strings.Join(got, ", ")
	return o, nil
}

func (s *Status) server(server tunlb.ServerStatus) (string, bool) {
	var words []string
	ok := true
	if s.Health != "" {
		health := server.Health
		if health == "" {
			health = "not checked"
		}
		words, ok = append(words, health), health == s.Health
	}
	if s.Drained != nil {
		words = append(words, map[bool]string{true: "drained", false: "not drained"}[server.Drained])
		ok = ok && server.Drained == *s.Drained
	}
	counts, fulfilled := s.counts(server, server.Traffic)
	return join(" ", append(words, counts)...), ok && fulfilled
}

func (s *Status) counts(server tunlb.ServerStatus, t tunlb.Traffic) (string, bool) {
	var words []string
	ok := true
	for _, c := range s.Counts {
		v := counter(c.Name, server, t)
		words = append(words, fmt.Sprintf("%s %d", c.Name, v))
		ok = ok && c.Is.Holds(v)
	}
	return strings.Join(words, " "), ok
}

func (r *runner) drops(ctx context.Context, do *Drops) (outcome, error) {
	status, err := r.lab.Control().Status(ctx)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{ok: true, want: countsText(do.Counts)}
	var got []string
	for _, c := range do.Counts {
		n := int64(status.Drops[c.Name])
		got, o.ok = append(got, fmt.Sprintf("%s %d", c.Name, n)), o.ok && c.Is.Holds(n)
	}
	o.got = strings.Join(got, ", ")
	return o, nil
}

// explain asks who would serve, and gives it as an answer of that host's.
func (r *runner) explain(ctx context.Context, do *Explain) (answer, error) {
	e, err := r.lab.Control().Explain(ctx, tunlb.Question{Client: do.Client, VIP: do.VIP, Protocol: do.Protocol})
	if o, failed := refusedBy(err); failed {
		return answer{failed: o.got}, nil
	} else if err != nil {
		return answer{}, err
	}
	if !e.Address.IsValid() {
		return answer{failed: join(": ", "nobody", e.Why)}, nil
	}
	host := r.file.owner(e.Address.Addr())
	if host == "" {
		host = e.Address.String()
	}
	return answer{server: host}, nil
}
