package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/scripts/torture/packets"
	"github.com/tunlb/tunlb/tunlb/control"
)

// patience bounds every wait for something that has to happen.
const patience = 30 * time.Second

// configuration is the file that tunlb runs with.
const configuration = `services:
  - name: echo
    listen: 203.0.113.22:7/tcp
    scheduler: rr
    servers:
      - {name: rs1, address: 192.168.0.10:7}
      - {name: rs2, address: 192.168.0.11:7}
`

// site is a network, and tunlb on its node lb.
//
//	client ---- lb ---+--- rs1
//	                  +--- rs2
type site struct {
	lab    *labnet.Lab
	dir    string
	socket string
	file   string
	cmd    *netns.Cmd
	ended  chan error // has tunlb's end
	client *control.Client
	result packets.Result
}

// open starts tunlb with its log going to log; nil is a file in the site's folder. wrap, which may be nil, changes how it is
// started.
func open(ctx context.Context, binary string, log *os.File, wrap func(dir string, cmd *netns.Cmd)) (_ *site, err error) {
	s := &site{ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "tunlb-torture-"); err != nil {
		return nil, err
	}
	s.socket, s.file = filepath.Join(s.dir, "control.sock"), filepath.Join(s.dir, "tunlb.yaml")
	if err := s.write(configuration); err != nil {
		return nil, err
	}
	if s.lab, err = labnet.Open(labnet.Story(labnet.StoryOptions{Servers: 2})); err != nil {
		return nil, err
	}
	if log == nil {
		if log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
			return nil, err
		}
		defer log.Close()
	}
	s.cmd = s.lab.NS("lb").Command(ctx, binary, "run", "--log-json", "--socket", s.socket, "-f", s.file)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if wrap != nil {
		wrap(s.dir, s.cmd)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.cmd.Wait() }() // ends with tunlb
	s.client = control.NewClient(s.socket)
	return s, s.until(ctx, "an answer of tunlb", func() error {
		_, err := s.client.Status(ctx)
		return err
	})
}

func (s *site) write(config string) error { return os.WriteFile(s.file, []byte(config), 0o600) }

// until asks again and again, for as long as patience.
func (s *site) until(ctx context.Context, what string, ask func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%s has not come: %w", what, err)
		}
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("%s has not come: tunlb has ended: %v\n%s", what, err, s.log())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *site) log() []byte {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log")) // for people
	return b
}

// stop ends tunlb as a service manager does, and says how long that took.
func (s *site) stop() (time.Duration, error) {
	began := time.Now()
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case err := <-s.ended:
		s.ended <- err
		return time.Since(began), err
	case <-time.After(patience):
		return 0, errors.New("tunlb does not end")
	}
}

func (s *site) close() error {
	var errs []error
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // fails if it has ended
		<-s.ended
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func (s *site) figure(name string, value float64, unit string) {
	s.result.Figures = append(s.result.Figures, packets.Figure{Name: name, Value: value, Unit: unit})
}

func (s *site) check(c packets.Check) { s.result.Checks = append(s.result.Checks, c) }

func (s *site) atLeast(what string, got, limit float64, unit string) {
	s.check(packets.Check{What: what, Unit: unit, Got: got, Limit: limit})
}

func (s *site) atMost(what string, got, limit float64, unit string) {
	s.check(packets.Check{What: what, Unit: unit, Got: got, Limit: limit, Most: true})
}

// prove is what shows that the attack happened.
func (s *site) prove(what string, got, limit float64, unit string) {
	s.check(packets.Check{What: what, Unit: unit, Got: got, Limit: limit, Proof: true})
}

// want fails the case unless the condition holds.
func (s *site) want(holds bool, format string, args ...any) {
	if !holds {
		s.result.Failures = append(s.result.Failures, fmt.Sprintf(format, args...))
	}
}

// memory is what the process has in memory (VmRSS), and the most that it had since forget (VmHWM), in bytes.
func (s *site) memory() (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		kB, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			now = kB << 10
		case "VmHWM":
			peak = kB << 10
		}
	}
	if now == 0 || peak == 0 {
		return 0, 0, errors.New("the kernel does not say how much memory tunlb takes")
	}
	return now, peak, nil
}

// forget has the kernel find out anew how much the most is: see proc_pid_clear_refs(5).
func (s *site) forget() error {
	const peak = "5"
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte(peak), 0)
}

// cut is how many connections the control socket has ended for a reason.
func (s *site) cut(ctx context.Context, reason string) (float64, error) {
	status, err := s.client.Status(ctx)
	return float64(status.Control.Cut[reason]), err
}

// endure measures a load, then the same load while attack goes on, and holds one against the other. The attack may end as soon
// as it likes; it is measured for long enough all the same.
func (s *site) endure(ctx context.Context, attack func(ctx context.Context) error) error {
	const least = 2 * time.Second
	l, err := startLoad(ctx, s.lab.NS("client"))
	if err != nil {
		return err
	}
	defer l.stop()
	// What comes first with the first requests is none of the attack's doing.
	for range 20 {
		if _, err := s.client.Status(ctx); err != nil {
			return err
		}
	}
	l.measure(ctx, least/4)
	before := l.measure(ctx, least)
	if err := s.forget(); err != nil {
		return err
	}
	rss, _, err := s.memory()
	if err != nil {
		return err
	}
	attacked := make(chan error, 1)
	l.begin()
	began := time.Now()
	go func() { attacked <- attack(ctx) }()
	err = <-attacked
	if left := least - time.Since(began); left > 0 {
		wait(ctx, left)
	}
	during := l.end()
	if err != nil {
		return err
	}
	_, peak, err := s.memory()
	if err != nil {
		return err
	}
	after := l.measure(ctx, least)
	s.prove("echoes without it", before.rate(), echoers*10, "/s")
	s.atLeast("echoes, of those without it", during.rate()/min(before.rate(), after.rate()), leastRatio, "")
	s.atMost("longest echo", during.longest.Seconds()*1e3, longest, "ms")
	s.atLeast("connections opened meanwhile", float64(during.conns), 1, "")
	s.atMost("connections failed", float64(len(during.errs)), 0, "")
	s.atMost("memory above that before (RSS, peak)", float64(peak-rss)/(1<<20), mostMemory>>20, "MiB")
	s.figure("longest echo before", before.longest.Seconds()*1e3, "ms")
	s.figure("attacked for", during.took.Seconds(), "s")
	if len(during.errs) > 0 {
		s.want(false, "connections failed: %v", during.errs)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
