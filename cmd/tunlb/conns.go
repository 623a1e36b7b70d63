package main

import (
	"encoding/json"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb"
)

func connsCommand() *cli.Command {
	return &cli.Command{
		Name:  "conns",
		Usage: "list the connections of the running daemon",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, or json (one object a line)"},
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: -1, Usage: "at most `N` of them"},
		},
		Action: func(c *cli.Context) error {
			asJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(c.App.Writer)
				return client(c).Conns(c.Context, c.Int("limit"), func(conn tunlb.Conn) error { return enc.Encode(conn) })
			}
			t := newTable(c.App.Writer, "PROTO", "EXPIRE", "STATE", "CLIENT", "VIP", "SERVER", "SOURCE", "IN", "OUT", "SERVICE")
			err = client(c).Conns(c.Context, c.Int("limit"), func(conn tunlb.Conn) error {
				service := conn.Service
				if service == "" {
					service = "(gateway)"
				}
				t.row(conn.Protocol, clock(conn.Expires), conn.State, conn.Client, conn.VIP, conn.Server,
					endpoint(conn.Source), size(conn.InBytes), size(conn.OutBytes), service)
				return nil
			})
			if err != nil {
				return err
			}
			return t.flush()
		},
	}
}
