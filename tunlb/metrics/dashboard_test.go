package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// dashboard is what the tests look at of docs/grafana.json.
type dashboard struct {
	Title      string
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type, Definition string
		}
	}
}

type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr, LegendFormat string }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	b, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// selector is a metric in a query: its name, the labels that it is asked for with, and whether as a rate.
var (
	selector = regexp.MustCompile(`\b((?:tunlb|go|process)_[a-z0-9_]+)(?:\{([^}]*)\})?(\[[^\]]*\])?`)
	matcher  = regexp.MustCompile(`([a-z_]+)(=~|=)"([^"]*)"`)
	grouped  = regexp.MustCompile(`\b(?:by|on|without|ignoring) \(([^)]*)\)`)
	legend   = regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}`)
)

// scraped are the labels that Prometheus adds to every series.
var scraped = []string{"job", "instance"}

// catalogue lists the metrics by name: those of the list, and what the other collectors have.
func catalogue(t *testing.T) map[string]Metric {
	t.Helper()
	list := map[string]Metric{}
	families, err := NewRegistry(full(), options).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		list[f.GetName()] = Metric{Name: f.GetName(), Type: map[bool]prometheus.ValueType{true: prometheus.CounterValue, false: prometheus.GaugeValue}[f.Metric[0].Counter != nil]}
	}
	for _, s := range Catalogue() {
		for _, m := range s.Metrics {
			list[m.Name] = m
		}
	}
	return list
}

// wrong says what is wrong with a query, given the metrics that there are, and which of them it uses.
func wrong(query, legendFormat string, list map[string]Metric, values map[string]float64) (faults, used []string) {
	fault := func(words ...string) { faults = append(faults, strings.Join(words, " ")) }
	labels := slices.Clone(scraped)
	found := selector.FindAllStringSubmatch(query, -1)
	if len(found) == 0 {
		fault("asks for no metric")
	}
	for _, s := range found {
		m, known := list[s[1]]
		if !known {
			fault(s[1], "is no metric")
			continue
		}
		used = append(used, m.Name)
		labels = append(labels, m.Labels...)
		if isRate := s[3] != ""; isRate != (m.Type == prometheus.CounterValue) {
			fault(s[1], "is a", m.Kind(), "and asked for as something else")
		}
		var fixed []string
		for _, l := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(m.Labels, l[1]) && !slices.Contains(scraped, l[1]) {
				fault(s[1], "has no label", l[1])
			}
			if !strings.Contains(l[3], "$") {
				fixed = append(fixed, l[1]+`="`+l[3]+`"`)
			}
		}
		if len(fixed) > 0 && !slices.ContainsFunc(slices.Collect(keys(values)), func(name string) bool {
			return strings.HasPrefix(name, s[1]+"{") && !slices.ContainsFunc(fixed, func(f string) bool { return !strings.Contains(name, f) })
		}) {
			fault("nothing is", s[1], strings.Join(fixed, ","))
		}
	}
	for _, g := range grouped.FindAllStringSubmatch(query, -1) {
		for _, l := range strings.Split(g[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(labels, l) {
				fault("groups by", l, "which nothing in it has")
			}
		}
	}
	for _, l := range legend.FindAllStringSubmatch(legendFormat, -1) {
		if !slices.Contains(labels, l[1]) {
			fault("the legend names", l[1], "which nothing in it has")
		}
	}
	return faults, used
}

func keys(m map[string]float64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// TestDashboard: every metric that docs/grafana.json asks for is there, with the labels and values that it asks for.
func TestDashboard(t *testing.T) {
	d, list, values := readDashboard(t), catalogue(t), series(t, full(), options)
	seen := map[int]bool{}
	used := map[string]bool{}
	var rows []string
	for _, p := range d.Panels {
		if seen[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q has no title, or the number of another", p.ID, p.Title)
		}
		seen[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
		} else if len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			faults, names := wrong(target.Expr, target.LegendFormat, list, values)
			for _, f := range faults {
				t.Errorf("panel %q: %s: %s", p.Title, target.Expr, f)
			}
			for _, n := range names {
				used[n] = true
			}
		}
	}
	if want := []string{"Overview", "Services", "Servers", "Drops and errors", "Ports and lanes", "Ethernet segments"}; !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		inner, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), "}, ")
		if !ok {
			inner, label, _ = strings.Cut(inner, ", ")
		} else {
			inner += "}"
		}
		faults, _ := wrong(inner, "{{"+label+"}}", list, values)
		for _, f := range faults {
			t.Errorf("variable %q: %s: %s", v.Name, v.Definition, f)
		}
	}
	if len(used) < 25 {
		t.Errorf("the dashboard uses %d metrics only: looking in the wrong place?", len(used))
	}
}

// TestOverlap: no panel covers another.
func TestOverlap(t *testing.T) {
	panels := readDashboard(t).Panels
	for i, a := range panels {
		for _, b := range panels[:i] {
			p, q := a.GridPos, b.GridPos
			if p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H || p.X+p.W > 24 {
				t.Errorf("panels %q and %q are in one place", a.Title, b.Title)
			}
		}
	}
}

// TestWrong: the checks of the dashboard find what they are there for.
func TestWrong(t *testing.T) {
	list, values := catalogue(t), series(t, full(), options)
	for _, test := range []struct{ query, legend, want string }{
		{`tunlb_flows{job="$job"}`, "{{instance}}", ""},
		{`sum by (service) (rate(tunlb_service_bytes_total{direction="in",service=~"$service"}[1m]))`, "{{service}}", ""},
		{`tunlb_flow`, "", "tunlb_flow is no metric"},
		{`1 + 1`, "", "asks for no metric"},
		{`tunlb_flows{server="x"}`, "", "tunlb_flows has no label server"},
		{`rate(tunlb_flows[1m])`, "", "tunlb_flows is a gauge and asked for as something else"},
		{`tunlb_flows_opened_total`, "", "tunlb_flows_opened_total is a counter and asked for as something else"},
		{`sum by (reason) (tunlb_server_up)`, "", "groups by reason which nothing in it has"},
		{`tunlb_server_up`, "{{port}}", "the legend names port which nothing in it has"},
		{`tunlb_server_connections{state="alive"}`, "", `nothing is tunlb_server_connections state="alive"`},
	} {
		faults, _ := wrong(test.query, test.legend, list, values)
		if got := strings.Join(faults, "; "); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s: %q, want %q", test.query, got, test.want)
		}
	}
}
