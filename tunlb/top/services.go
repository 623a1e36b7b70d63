package top

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/tunlb"
)

// serviceColumns are those of the first pane; names and addresses get what they need.
func (m *Model) serviceColumns() []column {
	return []column{
		{name: "NAME", min: 10, max: m.widest.name, rank: 0},
		{name: "STATE", min: 10, rank: 1},
		{name: "WEIGHT", min: 7, right: true, rank: 4},
		{name: "ACTIVE", min: 7, right: true, rank: 2},
		{name: "INACT", min: 6, right: true, rank: 7},
		{name: "CONN/S", min: 7, right: true, rank: 3},
		{name: "IN b/s", min: 7, right: true, rank: 5},
		{name: "OUT b/s", min: 7, right: true, rank: 6},
		{name: "LAST MINUTE", min: 12, max: 20, rank: 8},
		{name: "ADDRESS", min: 19, max: m.widest.address, rank: 9},
		{name: "CAUSE", min: 20, max: 400, rank: 10},
	}
}

// services are the first pane's lines: its head, and those rows that have room in height lines.
func (m *Model) services(room, height int) []string {
	f := fit(m.serviceColumns(), room)
	lines := []string{f.head(m.theme.head, sortColumns[m.sorting])}
	if len(m.rows) == 0 {
		return append(lines, m.theme.faint.Render(cut(m.nothing(), room)))
	}
	from, to := window(len(m.rows), m.cursor, height-1)
	highest := map[int]float64{} // of the servers' sparks, by service: these are there to be compared
	for i := from; i < to; i++ {
		r := m.rows[i]
		var cells []cell
		if r.server < 0 {
			cells = m.serviceCells(r, f.width("LAST MINUTE"))
		} else {
			if _, ok := highest[r.service]; !ok {
				highest[r.service] = m.highest(r.service, f.width("LAST MINUTE"), from, to)
			}
			cells = m.serverCells(r, f.width("LAST MINUTE"), highest[r.service])
		}
		if i == m.cursor && m.focus == servicesPane {
			lines = append(lines, f.line(cells, &m.theme.selected))
		} else {
			lines = append(lines, f.line(cells, nil))
		}
	}
	return lines
}

// nothing says why there is no row.
func (m *Model) nothing() string {
	switch {
	case m.status.Daemon.Started.IsZero():
		return "waiting for the first answer"
	case m.filter != "":
		return fmt.Sprintf("nothing has %q in it; esc ends the filter", m.filter)
	}
	return "no services: `tunlb reload` or `tunlb ipvsadm` brings some"
}

func (m *Model) serviceCells(r row, sparkWidth int) []cell {
	svc, t := &m.status.Services[r.service], &m.theme
	active, inactive, serving, worst := 0, 0, 0, state{}
	for k := range svc.Servers {
		srv := &svc.Servers[k]
		active, inactive = active+srv.Active, inactive+srv.Inactive
		if s := stateOf(srv); s.rank > worst.rank {
			worst = s
		}
		if srv.Weight > 0 && srv.Down == "" && !srv.Overloaded && !srv.Sorry {
			serving++
		}
	}
	look := m.look(worst)
	if serving == 0 || svc.Below {
		look = t.bad
	}
	fold := "▾ "
	if m.folded[svc.Name] {
		fold = "▸ "
	}
	meter := m.history.of(r.key)
	values := meter.spark.columns(m.now, sparkWidth)
	return []cell{
		{fold + clean(svc.Name), t.strong},
		{fmt.Sprintf("%d/%d", serving, len(svc.Servers)), look},
		{"", t.plain},
		{number(float64(active)), t.strong},
		{number(float64(inactive)), t.strong},
		{perSecond(meter.rates.known, meter.rates.conns), t.strong},
		{bits(meter.rates.known, meter.rates.in), t.strong},
		{bits(meter.rates.known && !m.oneWay(svc), meter.rates.out), t.strong},
		{bars(values, slices.Max(append(values, 0))), t.head},
		{svc.Listens(), t.plain},
		{strings.TrimSpace(svc.Scheduler + " " + svc.Mode), t.faint},
	}
}

func (m *Model) serverCells(r row, sparkWidth int, highest float64) []cell {
	svc, t := &m.status.Services[r.service], &m.theme
	srv := &svc.Servers[r.server]
	s := stateOf(srv)
	meter := m.history.of(r.key)
	look := t.plain
	if srv.Weight == 0 || srv.Down != "" {
		look = t.faint
	}
	return []cell{
		{"  " + clean(srv.Name), t.plain},
		{s.name, m.look(s)},
		{weight(srv), look},
		{number(float64(srv.Active)), t.plain},
		{number(float64(srv.Inactive)), t.plain},
		{perSecond(meter.rates.known, meter.rates.conns), t.plain},
		{bits(meter.rates.known, meter.rates.in), t.plain},
		{bits(meter.rates.known && !unseen(srv), meter.rates.out), t.plain},
		{bars(meter.spark.columns(m.now, sparkWidth), highest), t.head},
		{srv.Address.String(), t.plain},
		{causeOf(srv, m.now), m.look(s)},
	}
}

// highest is that of the sparks of a service's servers which are shown.
func (m *Model) highest(service, sparkWidth, from, to int) (highest float64) {
	for _, r := range m.rows[from:to] {
		if r.service == service && r.server >= 0 {
			highest = max(highest, slices.Max(append(m.history.of(r.key).spark.columns(m.now, sparkWidth), 0)))
		}
	}
	return highest
}

// unseen says that a server's answers do not pass, so that nobody can count them.
func unseen(srv *tunlb.ServerStatus) bool { return srv.Mode == "dr" && srv.Passing == 0 }

func (m *Model) oneWay(svc *tunlb.ServiceStatus) bool {
	for k := range svc.Servers {
		if !unseen(&svc.Servers[k]) {
			return false
		}
	}
	return len(svc.Servers) > 0
}
