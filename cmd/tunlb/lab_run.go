package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
)

func labRunCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "bring labs up, try their steps, and take them down",
		ArgsUsage: "FILE|NAME...",
		Description: "It exits with 1 if a step did not come to what it wants, and with 77 if this machine cannot have a lab of the driver asked for.\n\nExamples:\n" +
			"   tunlb lab run nat\n" +
			"   tunlb lab run my.yaml --driver both   # the same steps in namespaces and simulated",
		Flags: []cli.Flag{
			driverFlag("`DRIVER`: netns, sim, both, or auto, which is netns where that works", driverAuto),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT`: text, or json, an object a step"},
			&cli.BoolFlag{Name: "keep-going", Usage: "take the other steps and labs, too, when a step has failed"},
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usagef("run wants labs: tunlb lab run FILE..., or tunlb lab run nat")
			}
			if format := c.String("output"); format != "text" && format != "json" {
				return usagef("-o %q: want text or json", format)
			}
			var files []*scenario.File
			for _, path := range c.Args().Slice() {
				f, err := scenario.Load(path)
				if err != nil {
					return showConfigErrors(c, err)
				}
				files = append(files, f)
			}
			drivers, note, cannot, err := runDrivers(c)
			if err != nil {
				return err
			}
			if slices.Contains(drivers, driverNetNS) {
				switch code, ran, err := netns.Enter(); {
				case err != nil:
					return err
				case ran && code != 0:
					return cli.Exit(errReported, code)
				case ran:
					return nil
				}
			}
			// Once, and not on both sides of Enter.
			for _, f := range files {
				warn(c, f)
			}
			if note != "" {
				fmt.Fprintln(c.App.ErrWriter, note)
			}
			if err := runLabs(c, files, drivers); err != nil {
				return err
			}
			return cannot
		},
	}
}

// runDrivers settles the drivers. With both, cannot says why one of them is left out.
func runDrivers(c *cli.Context) (drivers []string, note string, cannot, err error) {
	asked := c.String("driver")
	if !slices.Contains([]string{driverAuto, driverNetNS, driverSim, driverBoth}, asked) {
		return nil, "", nil, usagef("--driver %q: want auto, netns, sim or both", asked)
	}
	if asked != driverBoth {
		driver, why, err := chooseDriver(c.Context, asked)
		if asked == driverAuto {
			note = fmt.Sprintf("driver %s: %s", driver, why)
		}
		return []string{driver}, note, nil, err
	}
	var unsupported *netns.Unsupported
	switch err := checkNetNS(c.Context); {
	case errors.As(err, &unsupported):
		return []string{driverSim}, "", fmt.Errorf("the driver netns was left out: %w", err), nil
	case err != nil:
		return nil, "", nil, err
	}
	return []string{driverNetNS, driverSim}, "", nil, nil
}

// runLabs runs each lab by each driver.
func runLabs(c *cli.Context, files []*scenario.File, drivers []string) error {
	failed := 0
	for _, f := range files {
		for _, driver := range drivers {
			r := &labRun{file: f, driver: driver, out: c.App.Writer, json: c.String("output") == "json", all: c.Bool("keep-going")}
			err := r.run(c.Context)
			var steps *scenario.Failed
			switch {
			case err == nil:
			case !errors.As(err, &steps):
				return err
			case !r.all:
				return fmt.Errorf("%w: %w", errReported, err)
			default:
				failed++
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %s failed", failed, count(len(files)*len(drivers), "run"))
	}
	return nil
}

// labRun is one lab by one driver.
type labRun struct {
	file   *scenario.File
	driver string
	out    io.Writer
	json   bool
	all    bool

	passed, failed int
}

// stepLine is a step's result for programs.
type stepLine struct {
	Lab    string `json:"lab"`
	Driver string `json:"driver"`
	scenario.StepResult
}

// runLine is what a run has come to, for programs.
type runLine struct {
	Lab    string  `json:"lab"`
	Driver string  `json:"driver"`
	Passed int     `json:"passed"`
	Failed int     `json:"failed"`
	Took   float64 `json:"took_s"`
	// Stopped is the step that an interrupt has ended the run in, from 1.
	Stopped int `json:"stopped_at,omitempty"`
}

func (r *labRun) run(ctx context.Context) (err error) {
	began := time.Now()
	up, cancel := context.WithTimeoutCause(ctx, upTime, fmt.Errorf("lab %s is not up after %v", r.file.Name, upTime))
	lab, err := makeDriver(r.driver, nil).Up(up, r.file)
	cancel()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if !r.json {
		fmt.Fprintf(r.out, "%s, %s\n", r.file.Name, r.driver)
	}
	show := scenario.Run
	if r.all {
		show = scenario.RunAll
	}
	err = show(ctx, lab, r.file, r.report)
	took, stopped := time.Since(began), 0
	if ctx.Err() != nil && err != nil {
		stopped = r.passed + r.failed + 1
		err = fmt.Errorf("%w: %w", errReported, err)
	}
	if r.json {
		return errors.Join(err, r.line(runLine{r.file.Name, r.driver, r.passed, r.failed, took.Seconds(), stopped}))
	}
	if stopped > 0 {
		fmt.Fprintf(r.out, "%s, %s: stopped at step %d of %d: %d passed, %d failed, in %v\n", r.file.Name, r.driver, stopped, len(r.file.Steps), r.passed, r.failed, took.Round(time.Millisecond))
		return err
	}
	fmt.Fprintf(r.out, "%s, %s: %d passed, %d failed, in %v\n", r.file.Name, r.driver, r.passed, r.failed, took.Round(time.Millisecond))
	return err
}

func (r *labRun) report(s scenario.StepResult) {
	if s.OK {
		r.passed++
	} else {
		r.failed++
	}
	if r.json {
		_ = r.line(stepLine{r.file.Name, r.driver, s}) // the last line says it if the output is broken
		return
	}
	fmt.Fprintln(r.out, s.Text())
}

func (r *labRun) line(v any) error { return json.NewEncoder(r.out).Encode(v) }

func labGraphCommand() *cli.Command {
	return &cli.Command{
		Name:      "graph",
		Usage:     "draw a lab",
		ArgsUsage: "FILE|NAME",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "ascii", Usage: "`FORMAT`: ascii, dot, mermaid or svg"}},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef("graph wants one lab: tunlb lab graph FILE, or tunlb lab graph nat")
			}
			if format := c.String("output"); !slices.Contains(scenario.Formats(), format) {
				return usagef("-o %q: want ascii, dot, mermaid or svg", format)
			}
			f, err := loadLab(c, c.Args().First())
			if err != nil {
				return err
			}
			picture, err := scenario.Graph(f, c.String("output"))
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.App.Writer, picture)
			return err
		},
	}
}
