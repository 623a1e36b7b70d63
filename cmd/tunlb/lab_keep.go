package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/keeper"
	"github.com/tunlb/tunlb/labnet/namespaces"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// labKeepCommand is what `tunlb lab up` starts, and nobody else.
func labKeepCommand() *cli.Command {
	return &cli.Command{
		Name:   "keep",
		Usage:  "hold a lab",
		Hidden: true,
		Flags: []cli.Flag{
			driverFlag("`DRIVER`: netns or sim", driverSim),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the lab"},
			&cli.BoolFlag{Name: "leash", Usage: "end with the standard input"},
		},
		Action: func(c *cli.Context) error {
			inherit()
			if c.String("driver") == driverNetNS {
				switch code, ran, err := netns.Enter(); {
				case err != nil && !ran:
					return notReady(err)
				case ran:
					return errors.Join(err, cli.Exit(errReported, code))
				}
			}
			return keep(c)
		},
	}
}

// notReady tells `tunlb lab up` why, and with which exit code.
func notReady(err error) error {
	return errors.Join(json.NewEncoder(os.Stdout).Encode(readiness{Error: err.Error(), Code: exitCode(err)}), cli.Exit(errReported, exitCode(err)))
}

func keep(c *cli.Context) error {
	place, err := keeper.At(c.String("name"))
	if err != nil {
		return notReady(err)
	}
	f, err := scenario.Load(c.Args().First())
	if err != nil {
		return notReady(err)
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	if c.Bool("leash") {
		go func() { // ends with the process
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	if c.String("driver") == driverSim {
		// Its director's socket is a file: there it goes with the place, however we end.
		if err := os.Setenv("TMPDIR", place.Dir); err != nil {
			return notReady(err)
		}
	}
	forgetScreen() // the commands of a lab have that of those who ask for them
	driver := makeDriver(c.String("driver"), os.Stderr)
	if d, ok := driver.(namespaces.Driver); ok {
		d.Dir = place.Dir // it goes with the place, however we end
		driver = d
	}
	lab, err := driver.Up(ctx, f)
	if err != nil {
		return notReady(err)
	}
	listener, err := net.Listen("unix", place.Socket())
	if err != nil {
		return notReady(errors.Join(err, lab.Close()))
	}
	info := keeper.Info{Name: place.Name, Driver: c.String("driver"), File: c.Args().First(), Began: time.Now(), Director: f.Director.Name, Client: clientOf(f)}
	for _, h := range f.Hosts {
		info.Hosts = append(info.Hosts, h.Name)
	}
	server := keeper.NewServer(lab, info)
	if err := json.NewEncoder(os.Stdout).Encode(readiness{}); err != nil {
		cancel() // nobody knows that it is up
	}
	err = server.Serve(ctx, listener)
	server.Close()
	// A lab that was broken goes like any other; what its end says of that is no failure of going.
	broken, closed := lab.Ended(), lab.Close()
	if broken != nil {
		broken, closed = closed, nil
	}
	err = errors.Join(err, closed, os.RemoveAll(place.Dir))
	server.Farewell(err, broken)
	if err != nil {
		return fmt.Errorf("lab %s: %w", place.Name, err)
	}
	return nil
}
