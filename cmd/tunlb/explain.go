package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:  "explain",
		Usage: "say which server a client would get, and why",
		Description: "It asks the running daemon, or with --config a file that nobody runs, and changes nothing. --without and --weight\n" +
			"suppose what is not so, and show both. A server is a name, an address, or address:port.\n\n" +
			"   tunlb explain --client 198.51.100.7:40000 --vip 203.0.113.22:80\n" +
			"   tunlb explain --client 198.51.100.7 --vip 203.0.113.22:53/udp --without rs2 --weight rs1=5",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "client", Usage: "the client's `IP[:PORT]`; without a port any"},
			&cli.StringFlag{Name: "vip", Usage: "what it asks for, `IP:PORT[/PROTOCOL]`; without a protocol tcp"},
			&cli.StringSliceFlag{Name: "without", Usage: fmt.Sprintf("suppose that there is no `SERVER`; may be repeated, %d at most with those of --weight", tunlb.MaxSupposed)},
			&cli.StringSliceFlag{Name: "weight", Usage: "suppose another weight, `SERVER=N`; may be repeated"},
			&cli.StringFlag{Name: "config", Aliases: []string{"f"}, Usage: "ask the services of a `FILE` instead of a daemon"},
			socketFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			asJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			q, err := questionOf(c)
			if err != nil {
				return err
			}
			x, err := answerTo(c, q)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.App.Writer, x)
			}
			return showExplanation(c.App.Writer, q, x, c.String("config"))
		},
	}
}

// answerTo asks the daemon or the file.
func answerTo(c *cli.Context, q tunlb.Question) (tunlb.Explanation, error) {
	if !c.IsSet("config") {
		x, err := client(c).Explain(c.Context, q)
		if err != nil {
			err = fmt.Errorf("explain: %w%s", err, hint(err))
		}
		return x, err
	}
	cfg, err := loadNamed(c, "tunlb explain --config FILE")
	if err != nil {
		return tunlb.Explanation{}, err
	}
	x, err := tunlb.ExplainConfig(cfg.Services, q)
	if err != nil {
		err = fmt.Errorf("explain: %s: %w", c.String("config"), err)
	}
	return x, err
}

// questionOf reads the options.
func questionOf(c *cli.Context) (q tunlb.Question, err error) {
	if c.IsSet("config") && (c.String("config") == "" || c.Args().Present()) {
		return q, usagef("--config: want a file")
	}
	if q.Client, err = clientAddress(c.String("client")); err != nil {
		return q, err
	}
	if q.VIP, q.Protocol, err = vipAddress(c.String("vip")); err != nil {
		return q, err
	}
	for _, server := range c.StringSlice("without") {
		if server == "" {
			return q, usagef("--without is empty: want a server, like rs2")
		}
		q.Without = append(q.Without, server)
	}
	for _, text := range c.StringSlice("weight") {
		at := strings.LastIndexByte(text, '=')
		weight, err := strconv.Atoi(text[at+1:])
		if at <= 0 || err != nil || weight < 0 || weight > policy.MaxWeight {
			return q, usagef("--weight %q: want a server and a number from 0 to %d, like rs1=5", text, policy.MaxWeight)
		}
		if q.Weights == nil {
			q.Weights = map[string]int{}
		}
		q.Weights[text[:at]] = weight
	}
	if err := q.Check(); err != nil {
		return q, usageError{err}
	}
	return q, nil
}

// clientAddress reads an address with or without a port.
func clientAddress(s string) (netip.AddrPort, error) {
	const want = "want an address, and a port if it matters, like 198.51.100.7:40000 or [2001:db8::7]:40000"
	if s == "" {
		return netip.AddrPort{}, usagef("--client is missing: %s", want)
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		addr, addrErr := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		if addrErr != nil {
			return at, usagef("--client %q: %s", s, want)
		}
		at = netip.AddrPortFrom(addr, 0)
	}
	if at.Addr().Zone() != "" {
		return at, usagef("--client %q: without the zone: packets carry none", s)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// vipAddress reads an address, a port and a protocol.
func vipAddress(s string) (at netip.AddrPort, protocol string, err error) {
	const want = "want an address and a port, like 203.0.113.22:80, 203.0.113.22:53/udp or [2001:db8::22]:80"
	place, protocol, found := strings.Cut(s, "/")
	if !found {
		protocol = "tcp"
	}
	if s == "" {
		return at, "", usagef("--vip is missing: %s", want)
	}
	if _, ok := policy.ParseProto(protocol); !ok {
		return at, "", usagef("--vip %q: protocol %q: want tcp or udp", s, protocol)
	}
	if last := strings.LastIndexByte(place, ':'); last > 0 {
		addr, addrErr := netip.ParseAddr(place[:last])
		port, portErr := strconv.ParseUint(place[last+1:], 10, 16)
		if addrErr == nil && addr.Is6() && portErr == nil && port > 0 && place[0] != '[' {
			return at, "", usagef("--vip %q: an IPv6 address with a port has brackets: write %s", s, netip.AddrPortFrom(addr, uint16(port)))
		}
	}
	if addr, err := netip.ParseAddr(place); err == nil {
		return at, "", usagef("--vip %q: the port is missing: write %s", s, netip.AddrPortFrom(addr, 80))
	}
	if at, err = netip.ParseAddrPort(place); err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
		return at, "", usagef("--vip %q: %s", s, want)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), protocol, nil
}

// showExplanation answers which and why, and then lists the candidates. file is the one that was asked, or "".
func showExplanation(w io.Writer, q tunlb.Question, x tunlb.Explanation, file string) error {
	fmt.Fprintf(w, "%s -> %s/%s: %s\n", askedBy(q.Client), q.VIP, q.Protocol, outcomeOf(q, &x))
	facts := newTable(w, "service", fmt.Sprintf("%s, scheduler %s%s", x.Service, x.Scheduler, modeText(&x)))
	if x.Flow != nil {
		facts.row("exists", fmt.Sprintf("a connection to %s, %s for another %s, %s in, %s out", flowText(x.Flow), x.Flow.State, clock(x.Flow.Expires), size(x.Flow.InBytes), size(x.Flow.OutBytes)))
	}
	switch {
	case x.Before != nil:
		facts.row("as it is", x.Before.Why)
		facts.row("then", x.Why)
	case x.Flow != nil:
		facts.row("a new one", fmt.Sprintf("would get %s: %s", pickText(&x.Explanation), x.Why))
	default:
		facts.row("why", x.Why)
	}
	if x.State != "" {
		facts.row("state", x.State)
	}
	if x.SourceWhy != "" && x.Source.IsValid() {
		facts.row("source", fmt.Sprintf("%s instead of %s: %s", x.Source, q.Client.Addr(), x.SourceWhy))
	}
	for _, note := range x.Notes {
		facts.row("note", note)
	}
	if err := facts.flush(); err != nil {
		return err
	}
	if len(x.Servers) > 0 {
		fmt.Fprintln(w)
		if err := showCandidates(w, &x); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", nextCommand(q, file))
	return err
}

// askedBy is the client as it was named.
func askedBy(client netip.AddrPort) string {
	if client.Port() == 0 {
		return client.Addr().String()
	}
	return client.String()
}

// outcomeOf is what becomes of the client's packet.
func outcomeOf(q tunlb.Question, x *tunlb.Explanation) string {
	switch {
	case x.Flow == nil && x.Dropped == "":
		return picksText(q, x)
	case x.Flow == nil && x.Server == "":
		return "dropped (" + x.Dropped + ")"
	case x.Flow == nil:
		return fmt.Sprintf("dropped (%s), or else %s", x.Dropped, picksText(q, x))
	}
	opened := "a new connection would get " + picksText(q, x)
	switch {
	case x.Dropped != "":
		opened = "a new connection would be dropped (" + x.Dropped + ")"
	case x.FlowEnds && x.Server != "" && x.Before == nil:
		opened = "a new connection would be opened, to " + picksText(q, x)
	}
	switch {
	case x.FlowEnds:
		return opened
	case x.Before == nil:
		return flowText(x.Flow) + ", by the connection that there is"
	}
	return flowText(x.Flow) + ", by the connection that there is; " + opened
}

// picksText is what the scheduler says, of what is supposed as well.
func picksText(q tunlb.Question, x *tunlb.Explanation) string {
	switch {
	case x.Before == nil:
		return pickText(&x.Explanation)
	case x.Before.Address == x.Address:
		return fmt.Sprintf("%s, as it is and %s", pickText(&x.Explanation), supposition(q))
	}
	return fmt.Sprintf("%s; %s: %s", pickText(x.Before), supposition(q), pickText(&x.Explanation))
}

func flowText(c *tunlb.Conn) string {
	return fmt.Sprintf("%s (%s)", cmp.Or(c.ServerName, "its server"), c.Server)
}

func pickText(x *policy.Explanation) string {
	if x.Server == "" {
		return "no server"
	}
	return fmt.Sprintf("%s (%s)", x.Server, x.Address)
}

func modeText(x *tunlb.Explanation) string {
	if x.Mode == "" {
		return ""
	}
	return ", mode " + x.Mode
}

// supposition is what a question supposes.
func supposition(q tunlb.Question) string {
	var parts []string
	for _, server := range slices.Sorted(maps.Keys(q.Weights)) {
		parts = append(parts, fmt.Sprintf("with %s=%d", server, q.Weights[server]))
	}
	if len(q.Without) > 0 {
		parts = append(parts, "without "+strings.Join(q.Without, ", "))
	}
	return strings.Join(parts, " and ")
}

func showCandidates(w io.Writer, x *tunlb.Explanation) error {
	var text strings.Builder
	t := newTable(&text, "", "SERVER", "ADDRESS", "WEIGHT", "ACTIVE", "INACT", "SCORE", "")
	for _, c := range x.Servers {
		mark := ""
		switch {
		case c.Server == x.Server:
			mark = "->"
		case x.Before != nil && c.Server == x.Before.Server:
			mark = "was"
		}
		about := c.Remark
		if c.Excluded != "" {
			about = "excluded: " + strings.Trim(c.Excluded+"; "+c.Remark, "; ")
		}
		t.row(mark, c.Server, c.Address, c.Weight, c.Active, c.Inactive, orDash(c.Score), about)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) { // most have nothing in the last column
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// nextCommand is the command that goes on from here.
func nextCommand(q tunlb.Question, file string) string {
	if file != "" {
		return fmt.Sprintf("next: tunlb run -f %s, and ask it without --config", file)
	}
	vip := q.VIP.String()
	if q.Protocol != "tcp" {
		vip += "/" + q.Protocol
	}
	return fmt.Sprintf("next: tunlb trace --client %s --vip %s", askedBy(q.Client), vip)
}
