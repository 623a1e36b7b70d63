package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/labnet/keeper"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// upTime is more than a lab takes to come up.
const upTime = time.Minute

func labUpCommand() *cli.Command {
	return &cli.Command{
		Name:      "up",
		Usage:     "bring a lab up; it stays until `tunlb lab down`",
		ArgsUsage: "FILE|NAME",
		Description: "With the driver netns the hosts are network namespaces, and have this machine's programs; with sim they are simulated in\n" +
			"one process, without any privilege, and have a few commands of their own (tunlb lab exec HOST -- help).\n\nExamples:\n" +
			"   tunlb lab up nat\n" +
			"   tunlb lab up my.yaml --name mine --publish 8080:203.0.113.22:80   # http://127.0.0.1:8080/",
		Flags: []cli.Flag{
			driverFlag("`DRIVER`: netns, sim, or auto, which is netns where that works", driverAuto),
			&cli.StringSliceFlag{Name: "publish", Usage: "`PORT:VIP:PORT`: a port of 127.0.0.1, and the service that it leads to, as seen from the first client; may be repeated"},
			&cli.StringFlag{Name: "name", Usage: "call it `NAME` instead of as its file does"},
			&cli.BoolFlag{Name: "foreground", Usage: "stay, show what is logged, and take it down on ctrl-C"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef("up wants one lab: tunlb lab up FILE, or tunlb lab up nat")
			}
			publications, err := parsePublications(c.StringSlice("publish"))
			if err != nil {
				return err
			}
			f, err := loadLab(c, c.Args().First())
			if err != nil {
				return err
			}
			name := c.String("name")
			if name == "" {
				name = f.Name
			}
			if err := keeper.CheckName(name); err != nil {
				return usagef("%w; --name gives it another", err)
			}
			place, err := keeper.At(name)
			if err != nil {
				return err
			}
			driver, why, err := chooseDriver(c.Context, c.String("driver"))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.ErrWriter, "driver %s: %s\n", driver, why)
			up := &upping{Context: c, place: place, file: f, driver: driver, publications: publications}
			return up.run()
		},
	}
}

// upping is a lab that comes up.
type upping struct {
	*cli.Context
	place        keeper.Place
	file         *scenario.File
	driver       string
	publications []keeper.Publication
}

func (u *upping) run() error {
	claim, err := u.place.Claim()
	if errors.Is(err, keeper.ErrClaimed) {
		return fmt.Errorf("%w; `tunlb lab down %s` ends it, --name brings up another", err, u.place.Name)
	}
	if err != nil {
		return err
	}
	k, err := u.start(claim)
	if err != nil {
		return errors.Join(err, claim.Remove())
	}
	// From here on the keeper holds the place.
	if err := claim.Release(); err != nil {
		return errors.Join(err, k.stop())
	}
	if err := k.await(u.Context.Context); err != nil {
		return errors.Join(err, k.stop(), forget(u.place))
	}
	if err := u.publish(); err != nil {
		return errors.Join(err, k.stop(), forget(u.place))
	}
	u.tell()
	if !u.Bool("foreground") {
		return k.leave()
	}
	select {
	case <-k.ended:
	case <-u.Done():
	}
	return errors.Join(k.stop(), forget(u.place))
}

// forget removes what a keeper that has ended leaves.
func forget(p keeper.Place) error {
	claim, err := p.Claim()
	if err != nil {
		return err
	}
	return claim.Remove()
}

// publish opens the ports where the user is.
func (u *upping) publish() error {
	for _, p := range u.publications {
		ctx, cancel := context.WithTimeout(u.Context.Context, upTime)
		p, err := u.place.Client().Publish(ctx, p)
		cancel()
		if err != nil {
			return err
		}
		tellPublished(u.Context, u.place, u.file.Director.Name, p)
	}
	return nil
}

// tell says what there is, and how to go on.
func (u *upping) tell() {
	var hosts []string
	for _, h := range u.file.Hosts {
		hosts = append(hosts, h.Name)
	}
	d, which := u.file.Director.Name, ""
	if u.place.Name != u.file.Name {
		which = " --lab " + u.place.Name
	}
	fmt.Fprintf(u.App.Writer, "lab %s is up: director %s, hosts %s\n", u.place.Name, d, strings.Join(hosts, ", "))
	fmt.Fprintf(u.App.Writer, "  tunlb lab exec%s %s -- tunlb status\n  tunlb lab down %s\n", which, d, u.place.Name)
}

// kept is a keeper as a child process.
type kept struct {
	cmd    *exec.Cmd
	place  keeper.Place
	leash  io.Closer     // ends it, in the foreground; else nil
	answer *os.File      // where it says that it is ready
	ended  chan struct{} // closed
	err    error         // valid once ended is closed
}

// readiness is the one thing that a keeper writes.
type readiness struct {
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
}

func (u *upping) start(claim *keeper.Claim) (*kept, error) {
	if err := claim.Prepare(); err != nil {
		return nil, err
	}
	path := u.Args().First()
	if _, err := os.Stat(path); err == nil {
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	args := []string{"lab", "keep", "--driver", u.driver, "--name", u.place.Name, path}
	foreground := u.Bool("foreground")
	if foreground {
		args = append(args[:2:2], append([]string{"--leash"}, args[2:]...)...)
	}
	cmd, err := ourselves(context.WithoutCancel(u.Context.Context), args...)
	if err != nil {
		return nil, err
	}
	k := &kept{cmd: cmd, place: u.place, ended: make(chan struct{})}
	bequeath(cmd, claim.File)
	if foreground {
		if k.leash, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
		cmd.Stderr = u.App.ErrWriter
	} else {
		log, err := os.OpenFile(u.place.Log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		cmd.Stderr = log
		detachChild(cmd)
	}
	answer, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.Stdout, k.answer = theirs, answer
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, answer.Close())
	}
	go k.wait() // ends with the keeper, or with this process
	return k, claim.Note(cmd.Process.Pid)
}

func (k *kept) wait() {
	defer close(k.ended)
	k.err = k.cmd.Wait()
}

// await waits until the lab is up.
func (k *kept) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, upTime, fmt.Errorf("lab %s is not up after %v", k.place.Name, upTime))
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = k.answer.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReader(k.answer).ReadBytes('\n')
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		log, _ := os.ReadFile(k.place.Log()) // it says more than we know
		return fmt.Errorf("lab %s: its keeper ended before it was up\n%s", k.place.Name, log)
	}
	var r readiness
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	if r.Error != "" {
		return cli.Exit(errors.New(r.Error), r.Code)
	}
	return nil
}

// leave lets the keeper go on without us.
func (k *kept) leave() error { return errors.Join(k.answer.Close(), k.cmd.Process.Release()) }

// stop ends the keeper in good order, or kills it, and waits.
func (k *kept) stop() error {
	defer k.answer.Close()
	if k.leash != nil {
		k.leash.Close()
	} else {
		terminate(k.cmd.Process)
	}
	patience := time.NewTimer(downTime)
	defer patience.Stop()
	select {
	case <-k.ended:
		return nil
	case <-patience.C:
		err := k.cmd.Process.Kill()
		<-k.ended
		return err
	}
}

// parsePublications reads PORT:ADDRESS:PORT.
func parsePublications(specs []string) (all []keeper.Publication, err error) {
	for _, spec := range specs {
		port, to, ok := strings.Cut(spec, ":")
		n, err := strconv.ParseUint(port, 10, 16)
		target, err2 := netip.ParseAddrPort(to)
		if !ok || err != nil || err2 != nil || target.Port() == 0 {
			return nil, usagef("publish %q: want PORT:VIP:PORT, like 8080:203.0.113.22:80 or 8080:[2001:db8:113::22]:80", spec)
		}
		all = append(all, keeper.Publication{Listen: fmt.Sprintf("127.0.0.1:%d", n), To: target.String()})
	}
	return all, nil
}
