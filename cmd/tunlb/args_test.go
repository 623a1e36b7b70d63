package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestFlagsFirst(t *testing.T) {
	commands := []*cli.Command{
		{Name: "drain", Flags: []cli.Flag{&cli.BoolFlag{Name: "wait"}, &cli.StringFlag{Name: "service", Aliases: []string{"s"}}}},
		{Name: "demo", Subcommands: []*cli.Command{{Name: "nat", Flags: []cli.Flag{&cli.BoolFlag{Name: "plain"}}}}},
		{Name: "ipvsadm", SkipFlagParsing: true},
	}
	for in, want := range map[string]string{
		"tunlb":                          "tunlb",
		"tunlb --help":                   "tunlb --help",
		"tunlb drain rs1 --wait":         "tunlb drain --wait -- rs1",
		"tunlb drain rs1 -s web rs2":     "tunlb drain -s web -- rs1 rs2",
		"tunlb drain rs1 --service=web":  "tunlb drain --service=web -- rs1",
		"tunlb drain --wait -- --odd":    "tunlb drain --wait -- --odd",
		"tunlb drain rs1 -1 -":           "tunlb drain -- rs1 -1 -",
		"tunlb drain rs1 --nosuch":       "tunlb drain --nosuch -- rs1",
		"tunlb drain rs1 --service":      "tunlb drain --service -- rs1",
		"tunlb demo nat x --plain":       "tunlb demo nat --plain -- x",
		"tunlb ipvsadm -A -t x:80 -s rr": "tunlb ipvsadm -A -t x:80 -s rr",
		"tunlb nosuch --wait":            "tunlb nosuch --wait",
	} {
		if got := flagsFirst(commands, strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s:\n got %s\nwant %s", in, strings.Join(got, " "), want)
		}
	}
}
