package top

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/tunlb/tunlb/tunlb"
)

// liner renders line i of a pane; whole means that it is the selected one.
type liner func(i int, whole bool) string

// liner renders cells with the look of a row.
func (m *Model) liner(f fitted, cells func(i int) []cell) liner {
	return func(i int, whole bool) string {
		if whole {
			return f.line(cells(i), &m.theme.selected)
		}
		return f.line(cells(i), nil)
	}
}

// dropLines is the pane of drops: those that grow on top.
func (m *Model) dropLines(room int) (head string, n int, line liner) {
	f := fit([]column{
		{name: "DROPPED", min: 12, max: 22, rank: 0},
		{name: "/S", min: 6, right: true, rank: 1},
		{name: "PACKETS", min: 7, max: 10, right: true, rank: 2},
	}, room)
	reasons := slices.SortedFunc(maps.Keys(m.history.drops), func(a, b string) int {
		x, y := m.history.drops[a], m.history.drops[b]
		return cmp.Or(cmp.Compare(y.rate, x.rate), cmp.Compare(y.last, x.last), strings.Compare(a, b))
	})
	return f.head(m.theme.head, ""), len(reasons), m.liner(f, func(i int) []cell {
		d, look, mark := m.history.drops[reasons[i]], m.theme.plain, "  "
		if d.rate > 0 {
			look, mark = m.theme.bad, "▲ "
		}
		return []cell{{mark + clean(reasons[i]), look}, {perSecond(d.known, d.rate), look}, {number(float64(d.last)), look}}
	})
}

// neighbourLines is the pane of who is on the segments. Who claims what is not theirs comes first.
func (m *Model) neighbourLines(room int) (head string, n int, line liner) {
	var rows [][]cell
	t := &m.theme
	for i := range m.status.Segments {
		for k := range m.status.Segments[i].Conflicts {
			c := &m.status.Segments[i].Conflicts[k]
			rows = append(rows, []cell{{c.VIP.String(), t.bad}, {"CONFLICT", t.bad}, {c.MAC.String(), t.bad}, {clean(c.Server), t.bad}, {clean(c.Port), t.bad}})
		}
	}
	for i := range m.status.Segments {
		for k := range m.status.Segments[i].Neighbours {
			p := &m.status.Segments[i].Neighbours[k]
			rows = append(rows, []cell{{p.Address.String(), t.plain}, {clean(p.State), m.lookOfNeighbour(p)}, {cmp.Or(clean(p.MAC), "-"), t.plain},
				{clean(p.Server), t.plain}, {clean(p.Port), t.plain}})
		}
	}
	if len(rows) == 0 {
		return t.faint.Render(cut("no segment here", room)), 0, nil
	}
	longest := func(column int) (n int) {
		for _, r := range rows {
			n = max(n, width(r[column].text))
		}
		return n
	}
	f := fit([]column{
		{name: "NEIGHBOUR", min: 13, max: longest(0), rank: 0},
		{name: "STATE", min: 10, rank: 1},
		{name: "MAC", min: 17, rank: 2},
		{name: "SERVER", min: 6, max: longest(3), rank: 3},
		{name: "PORT", min: 6, max: longest(4), rank: 4},
	}, room)
	return f.head(t.head, ""), len(rows), m.liner(f, func(i int) []cell { return rows[i] })
}

func (m *Model) lookOfNeighbour(p *tunlb.NeighbourStatus) lipgloss.Style {
	switch p.State {
	case "failed":
		return m.theme.bad
	case "incomplete", "probing":
		return m.theme.warn
	case "reachable", "static":
		return m.theme.good
	}
	return m.theme.plain
}

// eventLines is the pane of events, the newest on top.
func (m *Model) eventLines(room int) (head string, n int, line liner) {
	f := fit([]column{
		{name: "TIME", min: 8, rank: 1},
		{name: "EVENT", min: 10, max: 16, rank: 0},
		{name: "OF", min: 10, max: 26, rank: 2},
		{name: "CAUSE", min: 10, max: 400, rank: 3},
	}, room)
	return f.head(m.theme.head, ""), len(m.events), m.liner(f, func(i int) []cell {
		ev := &m.events[len(m.events)-1-i]
		return []cell{{ev.Time.In(m.now.Location()).Format(time.TimeOnly), m.theme.faint}, {clean(ev.Kind), m.lookOfEvent(ev.Kind)}, {clean(about(ev)), m.theme.plain}, {clean(ev.Cause), m.theme.plain}}
	})
}

func (m *Model) lookOfEvent(kind string) lipgloss.Style {
	switch kind {
	case "up", "undrained", "quorum-gained", "sorry-off", "server-up":
		return m.theme.good
	case "drained", "weight", "server-moved":
		return m.theme.warn
	}
	return m.theme.bad
}

// about is what an event is about.
func about(ev *tunlb.Event) string {
	server := ev.Server
	if server == "" && ev.Address.IsValid() {
		server = ev.Address.String()
		if ev.Address.Port() == 0 {
			server = ev.Address.Addr().String()
		}
	}
	if ev.Service == "" || server == "" {
		return ev.Service + server
	}
	return ev.Service + "/" + server
}
