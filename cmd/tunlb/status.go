package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show services, servers, ports, connections and drops of the running daemon",
		Flags: []cli.Flag{socketFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			asJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			status, err := client(c).Status(c.Context)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.App.Writer, status)
			}
			return showStatus(c.App.Writer, status)
		},
	}
}

func showStatus(w io.Writer, s control.Status) error {
	fmt.Fprintf(w, "tunlb %s, process %d, up %s, %s\n", s.Daemon.Version, s.Daemon.PID,
		time.Since(s.Daemon.Started).Round(time.Second), cmp.Or(s.Daemon.Config, "services by ipvsadm"))
	evicted := ""
	if s.Flows.Evicted > 0 {
		evicted = fmt.Sprintf(", %d half-open ones evicted", s.Flows.Evicted)
	}
	fmt.Fprintf(w, "%d of %d connections%s\n", s.Flows.Count, s.Flows.Cap, evicted)
	showFastpath(w, s.Fastpath)
	fmt.Fprintln(w)
	if len(s.Services) > 0 {
		if err := showServices(w, s); err != nil {
			return err
		}
	}
	if len(s.Gateways) > 0 {
		t := newTable(w, "GATEWAY", "MASQUERADE", "MAPPINGS")
		for _, g := range s.Gateways {
			t.row(g.Inside, g.Masquerade, g.Mappings)
		}
		if err := t.flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	for _, segment := range s.Segments {
		if err := showSegment(w, segment); err != nil {
			return err
		}
	}
	t := newTable(w, "PORT", "NETNS", "MTU", "RX PACKETS", "RX", "TX PACKETS", "TX")
	for _, p := range s.Ports {
		name := p.Name
		if p.Box {
			name += " (box)"
		}
		t.row(name, namespace(p.NetNS), p.MTU, p.RxPackets, size(p.RxBytes), p.TxPackets, size(p.TxBytes))
	}
	if err := t.flush(); err != nil || len(s.Drops) == 0 {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "DROPPED", "PACKETS")
	for _, reason := range slices.Sorted(maps.Keys(s.Drops)) {
		t.row(reason, s.Drops[reason])
	}
	return t.flush()
}

// showFastpath says what the kernel carries, and what it does not.
func showFastpath(w io.Writer, s *tunlb.FastpathStatus) {
	if s == nil {
		return
	}
	fmt.Fprintf(w, "fast path: the kernel carries %s; %d handed over, %s carried", count(s.Carried, "connection"), s.HandedOver, size(s.Bytes))
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		fmt.Fprintf(w, ", %d refused (%s)", s.Refused[reason], reason)
	}
	fmt.Fprintln(w)
	if s.Error != "" {
		fmt.Fprintf(w, "fast path: %s, the last one: %s\n", count(int(s.Errors), "error"), s.Error)
	}
}

func showServices(w io.Writer, s control.Status) error {
	t := newTable(w, "SERVICE", "LISTEN", "SCHED", "MODE", "VIP OF", "WEIGHT", "HEALTH", "ACTIVE", "INACT", "CONNS", "IN", "OUT", "")
	for _, svc := range s.Services {
		modes := modesOf(svc)
		t.row(svc.Name, svc.Listens(), svc.Scheduler, strings.Join(modes, ","), svc.Owner,
			"", "", "", "", svc.Traffic.Conns, size(svc.Traffic.InBytes), size(svc.Traffic.OutBytes), "")
		for _, srv := range svc.Servers {
			mode := ""
			if len(modes) > 1 {
				mode = srv.Mode
			}
			t.row("  "+srv.Name, srv.Address, "", mode, "", weightOf(srv), healthOf(srv), srv.Active, srv.Inactive,
				srv.Traffic.Conns, size(srv.Traffic.InBytes), size(srv.Traffic.OutBytes), remark(srv))
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// modesOf are the modes of a service's servers, or its own if it has none.
func modesOf(svc tunlb.ServiceStatus) (modes []string) {
	for _, srv := range svc.Servers {
		if srv.Mode != "" && !slices.Contains(modes, srv.Mode) {
			modes = append(modes, srv.Mode)
		}
	}
	if len(modes) == 0 {
		return []string{svc.Mode}
	}
	return modes
}

// weightOf is the one in force, and the one that is wanted where that is another. While somebody's weight rises those
// of the whole service are multiplied; people count in what they have configured.
func weightOf(srv tunlb.ServerStatus) string {
	scale := max(1, srv.Scale)
	full := scale * srv.Configured
	switch {
	case srv.Weight == full:
		return strconv.Itoa(srv.Configured)
	case scale > 1 && 0 < srv.Weight && srv.Weight < full:
		return fmt.Sprintf("%d%% of %d", max(1, 100*srv.Weight/full), srv.Configured)
	}
	tenths := (10*srv.Weight + scale/2) / scale
	if tenths%10 == 0 {
		return fmt.Sprintf("%d of %d", tenths/10, srv.Configured)
	}
	return fmt.Sprintf("%d.%d of %d", tenths/10, tenths%10, srv.Configured)
}

// shortened cuts what is too long for a table; JSON has all of it.
func shortened(s string) string {
	const longest, dots = 60, "..."
	runes := []rune(s)
	if len(runes) <= longest {
		return s
	}
	return strings.TrimRight(string(runes[:longest-len(dots)]), " ") + dots
}

// healthOf is a server's state and since when.
func healthOf(srv tunlb.ServerStatus) string {
	if srv.Health == "" || srv.Since.IsZero() {
		return orDash(srv.Health)
	}
	return fmt.Sprintf("%s %s", srv.Health, time.Since(srv.Since).Round(time.Second))
}

// remark is what a server needs somebody to look at.
func remark(srv tunlb.ServerStatus) string {
	var remarks []string
	if srv.Drained {
		remarks = append(remarks, "drained")
	}
	if srv.Carried > 0 {
		remarks = append(remarks, fmt.Sprintf("%d by the kernel", srv.Carried))
	}
	if srv.Sorry {
		remarks = append(remarks, "serves as the last resort")
	}
	if srv.Overloaded {
		remarks = append(remarks, fmt.Sprintf("overloaded: %d of %d", srv.Active+srv.Inactive, srv.Upper))
	}
	switch {
	case srv.Down != "":
		remarks = append(remarks, "DOWN: "+shortened(srv.Down))
	case srv.Health != "" && srv.Health != "up" && srv.Cause != "":
		remarks = append(remarks, shortened(srv.Cause))
	}
	if srv.Passing > 0 {
		remarks = append(remarks, "its answers pass the LB")
	}
	return strings.Join(remarks, "; ")
}

// showSegment prints who is on an Ethernet segment, and who claims what is not theirs.
func showSegment(w io.Writer, s tunlb.SegmentStatus) error {
	fmt.Fprintf(w, "segment of %s: tunlb is %s at %s, %s heard\n", strings.Join(s.Ports, ", "), s.MAC, join(s.Own), count(s.Stations, "station"))
	if len(s.Neighbours) > 0 {
		t := newTable(w, "NEIGHBOUR", "MAC", "STATE", "SERVER", "PORT")
		for _, n := range s.Neighbours {
			t.row(n.Address, orDash(n.MAC), n.State, orDash(n.Server), orDash(n.Port))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Suppressed)) {
		fmt.Fprintf(w, "suppressed %s: %d\n", kind, s.Suppressed[kind])
	}
	for _, c := range s.Conflicts {
		fmt.Fprintf(w, "CONFLICT: %s %s has claimed %s (%s, %s, the last one %s ago)\n  fix: %s\n",
			orDash(c.Server), c.MAC, c.VIP, c.Kind, count(int(c.Count), "time"), c.Age.Round(time.Second), strings.ReplaceAll(c.Fix, "\n", "\n       "))
	}
	_, err := fmt.Fprintln(w)
	return err
}

// join lists values with commas.
func join[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// namespace is the short name of a network namespace, "-" for our own.
func namespace(path string) string {
	if path == "" {
		return "-"
	}
	return filepath.Base(path)
}
