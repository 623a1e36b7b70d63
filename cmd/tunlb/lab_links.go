package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/keeper"
	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/control"
)

func labImpairCommand() *cli.Command {
	return &cli.Command{
		Name:        "impair",
		Usage:       "have a host's link delay, lose or reorder packets, in both directions",
		ArgsUsage:   "HOST NETWORK",
		Description: "It replaces what the link did before.\n\nExamples:\n   tunlb lab impair client outside --delay 20ms --loss 1%\n   tunlb lab impair client outside --none",
		Flags: []cli.Flag{
			labFlag(),
			&cli.DurationFlag{Name: "delay", Usage: "each packet arrives `TIME` later, like 20ms"},
			&cli.StringFlag{Name: "loss", Usage: "this `PART` of the packets is lost, like 1% or 0.01"},
			&cli.StringFlag{Name: "reorder", Usage: "this `PART` of the packets overtakes the others by not being delayed; wants --delay"},
			&cli.BoolFlag{Name: "none", Usage: "nothing of that any more"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef("impair wants a host and a network, as in: tunlb lab impair client outside --delay 20ms")
			}
			i, err := impairment(c)
			if err != nil {
				return err
			}
			place, err := placeOf(c.String("lab"))
			if err != nil {
				return err
			}
			if err := place.Client().Impair(c.Context, c.Args().Get(0), c.Args().Get(1), i); err != nil {
				return err
			}
			what := describe(i)
			fmt.Fprintf(c.App.Writer, "the link of %s to %s: %s\n", c.Args().Get(0), c.Args().Get(1), what)
			return nil
		},
	}
}

func impairment(c *cli.Context) (i scenario.Impairment, err error) {
	asked := c.IsSet("delay") || c.IsSet("loss") || c.IsSet("reorder")
	switch {
	case c.Bool("none") && asked:
		return i, usagef("--none is without --delay, --loss and --reorder")
	case c.Bool("none"):
		return i, nil
	case !asked:
		return i, usagef("impair wants --delay, --loss or --reorder, or --none")
	}
	if i.Delay = c.Duration("delay"); i.Delay < 0 || i.Delay > scenario.MaxDelay {
		return i, usagef("--delay %v: want 0 to %v", i.Delay, scenario.MaxDelay)
	}
	if i.Loss, err = part(c, "loss"); err != nil {
		return i, err
	}
	if i.Reorder, err = part(c, "reorder"); err != nil {
		return i, err
	}
	if i.Reorder > 0 && i.Delay == 0 {
		return i, usagef("--reorder wants --delay: packets overtake others by not being delayed")
	}
	return i, nil
}

// part reads 1% or 0.01.
func part(c *cli.Context, name string) (float64, error) {
	text := c.String(name)
	if text == "" {
		return 0, nil
	}
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, usagef("--%s %q: want 0%% to 100%%, or 0 to 1", name, text)
	}
	return v, nil
}

func describe(i scenario.Impairment) string {
	if i == (scenario.Impairment{}) {
		return "as it was made"
	}
	return i.String() + ", in each direction"
}

func labPublishCommand() *cli.Command {
	return &cli.Command{
		Name:        "publish",
		Usage:       "have a port of this machine lead to a service in a lab, for its browser",
		ArgsUsage:   "PORT:VIP:PORT",
		Description: "The port is 127.0.0.1's, and open until the lab is down. Connections into the lab come from its first client.\n\nExample:\n   tunlb lab publish 8080:203.0.113.22:80   # http://127.0.0.1:8080/",
		Flags: []cli.Flag{
			labFlag(),
			&cli.StringFlag{Name: "from", Usage: "connect from the `HOST` instead"},
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usagef("publish wants PORT:VIP:PORT, as in: tunlb lab publish 8080:203.0.113.22:80")
			}
			publications, err := parsePublications(c.Args().Slice())
			if err != nil {
				return err
			}
			place, err := placeOf(c.String("lab"))
			if err != nil {
				return err
			}
			info, err := place.Client().Info(c.Context)
			if err != nil {
				return err
			}
			for _, p := range publications {
				p.From = c.String("from")
				if p, err = place.Client().Publish(c.Context, p); err != nil {
					return err
				}
				tellPublished(c, place, info.Director, p)
			}
			return nil
		},
	}
}

// tellPublished says where a port leads, and warns if nobody is at the other end.
func tellPublished(c *cli.Context, place keeper.Place, director string, p keeper.Publication) {
	fmt.Fprintf(c.App.Writer, "http://%s/ leads to %s, from %s\n", p.Listen, p.To, p.From)
	var answer bytes.Buffer
	var status control.Status
	to, err := netip.ParseAddrPort(p.To)
	if err != nil {
		return // it was read before
	}
	code, err := place.Client().Exec(c.Context, director, []string{"tunlb", "status", "-o", "json"}, scenario.Stdio{Out: &answer})
	if err != nil || code != 0 || json.Unmarshal(answer.Bytes(), &status) != nil {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s of lab %s does not say which services it has; `tunlb lab ls` may say why\n", director, place.Name)
		return
	}
	var all []string
	for _, s := range status.Services {
		for _, l := range s.Listen {
			if l.Addr == to.Addr() && l.Proto == policy.TCP && l.Has(to.Port()) {
				return
			}
			all = append(all, l.String())
		}
	}
	fmt.Fprintf(c.App.ErrWriter, "warning: no service of lab %s listens on %s; there is %s\n", place.Name, p.To, cmp.Or(strings.Join(all, ", "), "none"))
}
