package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/tunlb/tunlb/tunlb"
)

// row is a service or a server in the first pane, by its place in the status.
type row struct {
	service, server int // server -1: the service itself
	key             key
}

// sorting is what services, and servers within them, are ordered by.
type sorting uint8

const (
	byFile sorting = iota // as configured
	byName
	byState
	byActive
	byConns
	byTraffic
	sortings
)

// sortNames are for the line at the bottom, sortColumns the columns that are marked.
var (
	sortNames   = [sortings]string{"the file's order", "name", "state", "active connections", "new connections", "traffic"}
	sortColumns = [sortings]string{byName: "NAME", byState: "STATE", byActive: "ACTIVE", byConns: "CONN/S", byTraffic: "IN b/s"}
)

// arrange makes the rows anew, and keeps the selection where it was if that is still there.
func (m *Model) arrange() {
	m.rows, m.widest.name, m.widest.address = m.rows[:0], 0, 0
	services := m.status.Services
	order := make([]int, len(services))
	for i := range order {
		order[i] = i
	}
	m.sort(order, func(i int) sortable {
		svc := &services[i]
		active, trouble := 0, 0
		for k := range svc.Servers {
			active += svc.Servers[k].Active
			trouble = max(trouble, stateOf(&svc.Servers[k]).rank)
		}
		return sortable{svc.Name, trouble, active, key{service: svc.Name}}
	})
	for _, i := range order {
		m.arrangeService(i)
	}
	at := slices.IndexFunc(m.rows, func(r row) bool { return r.key == m.at })
	if at < 0 {
		at = min(m.cursor, len(m.rows)-1)
	}
	m.choose(at)
}

// arrangeService adds a service and its servers, if the filter takes it or one of them.
func (m *Model) arrangeService(i int) {
	svc := &m.status.Services[i]
	whole := m.filter == "" || contains(m.filter, svc.Name, svc.Listens(), svc.Scheduler, svc.Mode)
	var order []int
	for k := range svc.Servers {
		srv := &svc.Servers[k]
		if whole || contains(m.filter, srv.Name, srv.Address.String(), stateOf(srv).name, srv.Mode, causeOf(srv, m.now)) {
			order = append(order, k)
		}
	}
	if !whole && len(order) == 0 {
		return
	}
	m.rows = append(m.rows, row{i, -1, key{service: svc.Name}})
	m.widen(svc.Name, svc.Listens())
	if m.folded[svc.Name] {
		return
	}
	m.sort(order, func(k int) sortable {
		srv := &svc.Servers[k]
		return sortable{srv.Name, stateOf(srv).rank, srv.Active, keyOf(svc, srv)}
	})
	for _, k := range order {
		m.rows = append(m.rows, row{i, k, keyOf(svc, &svc.Servers[k])})
		m.widen(svc.Servers[k].Name, svc.Servers[k].Address.String())
	}
}

// widen notes how wide columns have to be. Names have two columns for the tree.
func (m *Model) widen(name, address string) {
	const longest = 40
	m.widest.name = min(longest, max(m.widest.name, 2+width(clean(name))))
	m.widest.address = min(longest, max(m.widest.address, width(address)))
}

// sortable is what a service or server is sorted by.
type sortable struct {
	name    string
	trouble int
	active  int
	key     key
}

// sort orders indices; the order of the file decides among equals.
func (m *Model) sort(order []int, of func(int) sortable) {
	if m.sorting == byFile {
		return
	}
	slices.SortStableFunc(order, func(i, k int) int {
		a, b := of(i), of(k)
		switch m.sorting {
		case byName:
			return strings.Compare(a.name, b.name)
		case byState:
			return cmp.Compare(b.trouble, a.trouble)
		case byActive:
			return cmp.Compare(b.active, a.active)
		}
		x, y := m.history.of(a.key).rates, m.history.of(b.key).rates
		if m.sorting == byConns {
			return cmp.Compare(y.conns, x.conns)
		}
		return cmp.Compare(y.in+y.out, x.in+x.out)
	})
}

// choose selects a row by its index.
func (m *Model) choose(i int) {
	m.cursor, m.at = max(0, min(i, len(m.rows)-1)), key{}
	if len(m.rows) > 0 {
		m.at = m.rows[m.cursor].key
	}
}

// selected is the service and server of the row that is selected; nil where there is none.
func (m *Model) selected() (svc *tunlb.ServiceStatus, srv *tunlb.ServerStatus) {
	if m.cursor >= len(m.rows) {
		return nil, nil
	}
	r := m.rows[m.cursor]
	svc = &m.status.Services[r.service]
	if r.server >= 0 {
		srv = &svc.Servers[r.server]
	}
	return svc, srv
}

// contains says whether a text is in one of others, in whatever case.
func contains(text string, in ...string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(in, func(s string) bool { return strings.Contains(strings.ToLower(s), text) })
}

// state is how a server stands, in a word.
type state struct {
	name string
	rank int // of trouble: the higher the worse
}

// stateOf says what counts most. An operator who has drained a server knows why it takes nothing.
func stateOf(srv *tunlb.ServerStatus) state {
	switch {
	case srv.Sorry:
		return state{"sorry", 5}
	case srv.Drained:
		return state{"drained", 2}
	case srv.Down != "", srv.Health == "down":
		return state{"down", 6}
	case srv.Health == "checking":
		return state{"checking", 3}
	case srv.Overloaded:
		return state{"overloaded", 4}
	case srv.Configured == 0:
		return state{"quiesced", 2}
	case srv.Health == "":
		return state{"unchecked", 0}
	}
	return state{"up", 0}
}

// look is the style of a state.
func (m *Model) look(s state) lipgloss.Style {
	switch {
	case s.rank >= 5:
		return m.theme.bad
	case s.rank >= 2:
		return m.theme.warn
	case s.name == "up":
		return m.theme.good
	}
	return m.theme.plain
}

// causeOf is why a server is in its state, and since when.
func causeOf(srv *tunlb.ServerStatus, now time.Time) string {
	var parts []string
	if srv.Down != "" {
		parts = append(parts, srv.Down)
	}
	if srv.Overloaded {
		parts = append(parts, fmt.Sprintf("%d of %d connections", srv.Active+srv.Inactive, srv.Upper))
	}
	if srv.Health != "up" && srv.Cause != "" {
		parts = append(parts, srv.Cause)
	}
	if srv.Passing > 0 {
		parts = append(parts, "its answers pass the LB")
	}
	if srv.Health != "" && !srv.Since.IsZero() {
		parts = append(parts, srv.Health+" for "+span(now.Sub(srv.Since)))
	}
	return clean(strings.Join(parts, ", "))
}

// weight is the one in force, and the one that is wanted where that is another, in the measure of the file: while a
// server rises those of its whole service are multiplied.
func weight(srv *tunlb.ServerStatus) string {
	scale := max(1, srv.Scale)
	if srv.Weight == scale*srv.Configured {
		return fmt.Sprint(srv.Configured)
	}
	if srv.Weight%scale == 0 {
		return fmt.Sprintf("%d/%d", srv.Weight/scale, srv.Configured)
	}
	return fmt.Sprintf("%.1f/%d", float64(srv.Weight)/float64(scale), srv.Configured)
}
