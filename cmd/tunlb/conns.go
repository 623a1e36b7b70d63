package main

import (
	"encoding/json"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/control"
)

func connsCommand() *cli.Command {
	return &cli.Command{
		Name:  "conns",
		Usage: "list the connections of the running daemon",
		Flags: append([]cli.Flag{
			socketFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, wide (with who carries it, the server's name, and the ID that kill takes), or json (one object a line)"},
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: -1, Usage: "at most `N` of them"},
			&cli.BoolFlag{Name: "templates", Usage: "those of persistence as well: a network of clients, with port 0"},
		}, filterFlags()...),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			filter, _, err := filterOf(c)
			if err != nil {
				return err
			}
			filter.Templates = c.Bool("templates")
			if c.IsSet("limit") && c.Int("limit") < 0 {
				return usagef("-n %d: want a number of connections", c.Int("limit"))
			}
			var show func(control.Conn) error
			done := func() error { return nil }
			switch format := c.String("output"); format {
			case "table", "wide":
				show, done = connsTable(c, format == "wide")
			case "json":
				enc := json.NewEncoder(c.App.Writer)
				show = func(conn control.Conn) error { return enc.Encode(conn) }
			default:
				return usagef("-o %q: want table, wide or json", format)
			}
			filter, unknown, err := resolve(c.Context, client(c), filter)
			if err != nil {
				return err
			}
			shown := false
			err = client(c).Conns(c.Context, filter, c.Int("limit"), func(conn control.Conn) error {
				shown = true
				return show(conn)
			})
			switch {
			case err != nil:
				return err
			case !shown && unknown != nil:
				return unknown
			}
			return done()
		},
	}
}

// connsTable shows connections for people, once it is done.
func connsTable(c *cli.Context, wide bool) (show func(control.Conn) error, done func() error) {
	head := []string{"PROTO", "EXPIRE", "STATE", "CLIENT", "VIP", "SERVER", "SOURCE", "IN", "OUT", "SERVICE"}
	if wide {
		head = append(head, "PATH", "NAME", "ID")
	}
	t := newTable(c.App.Writer, head...)
	return func(conn control.Conn) error {
		service := conn.Service
		switch {
		case conn.Check:
			service = "(health check)"
		case service == "":
			service = "(gateway)"
		}
		cells := []any{conn.Protocol, clock(conn.Expires), conn.State, conn.Client, conn.VIP, conn.Server,
			endpoint(conn.Source), size(conn.InBytes), size(conn.OutBytes), service}
		if wide {
			path := "tunlb"
			if conn.Fastpath {
				path = "kernel"
			}
			cells = append(cells, path, orDash(conn.ServerName), conn.ID)
		}
		t.row(cells...)
		return nil
	}, t.flush
}
