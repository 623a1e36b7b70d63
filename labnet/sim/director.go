package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/labnet/scenario"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
	"github.com/tunlb/tunlb/tunlb/health"
	"github.com/tunlb/tunlb/tunlb/wiring"
)

// tickEvery is how often the engine looks at its clock by itself.
const tickEvery = 250 * time.Millisecond

// director is the whole of tunlb but for what it tells kernels: engine, health checks, control socket.
type director struct {
	name    string // of the lab
	clock   *clock
	cfg     *config.Config
	started time.Time
	engine  *tunlb.Engine
	checker *health.Checker
	dir     string // of the socket; "" where it needs none
	control net.Listener
	client  *control.Client

	ticks   chan time.Time
	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	err     error // of closing
}

// newDirector starts tunlb on taps, one for each of its attachments. On an error nothing is left of it.
func newDirector(f *scenario.File, c *clock, taps []*tap, macs []packet.MAC) (_ *director, err error) {
	d := &director{name: f.Name, clock: c, started: time.Now(), ticks: make(chan time.Time, 1), stop: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	text, err := configuration(f, taps)
	if err != nil {
		return nil, err
	}
	if d.cfg, err = config.Parse(f.Name, text); err != nil {
		return nil, err
	}
	options := tunlb.Options{MaxFlows: d.cfg.Flows.Max, Log: zerolog.Nop(), Now: c.now, Ticks: d.ticks, HostClock: c}
	for i, t := range taps {
		options.Attachments = append(options.Attachments, wiring.Attachment(d.cfg.Ports[i], t, macs[i]))
	}
	if d.engine, err = tunlb.New(options, wiring.Config(d.cfg)); err != nil {
		return nil, err
	}
	socket, err := d.place()
	if err != nil {
		return nil, err
	}
	if d.control, err = control.Listen(socket, fs.FileMode(0o600), control.Allow{}); err != nil {
		return nil, err
	}
	d.client = control.NewClient(socket)
	d.run()
	return d, nil
}

// place finds one for the socket. That of Linux is in no folder, so that a killed process leaves nothing behind; control
// asks the kernel who speaks there.
func (d *director) place() (socket string, err error) {
	if runtime.GOOS == "linux" {
		return fmt.Sprintf("@tunlb-lab-%d-%08x", os.Getpid(), rand.Uint32()), nil
	}
	d.dir, err = os.MkdirTemp("", "tunlb-lab-")
	return filepath.Join(d.dir, "sock"), err
}

// run starts all that close ends.
func (d *director) run() {
	var ctx context.Context
	ctx, d.stop = context.WithCancel(context.Background())
	d.running.Go(func() { _ = d.engine.Run(ctx) }) // ports in memory do not fail
	d.running.Go(func() { _ = control.Serve(ctx, d.control, daemon{d.engine, d}, zerolog.Nop()) })
	d.tick(ctx)
	d.checker = health.NewOn(d.clock, func(r health.Result) { d.engine.Report(r.Service, r.Server, r.OK, r.Cause) })
	d.checker.Set(wiring.Targets(d.cfg.Services, d.engine, unreachable{}))
}

// tick ticks for the engine until ctx ends.
func (d *director) tick(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	select {
	case d.ticks <- d.clock.Now():
	default: // as a time.Ticker drops those that nobody takes
	}
	d.clock.AfterFunc(tickEvery, func() { d.tick(ctx) })
}

// close ends all. Idempotent.
func (d *director) close() error {
	d.closing.Do(func() {
		if d.checker != nil {
			d.checker.Close()
		}
		d.stop()
		d.running.Wait()
		var errs []error
		if d.engine != nil {
			errs = append(errs, d.engine.Close())
		}
		if d.control != nil {
			if err := d.control.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		if d.dir != "" {
			errs = append(errs, os.RemoveAll(d.dir))
		}
		d.err = errors.Join(errs...)
	})
	return d.err
}

// configuration is the file's for tunlb with the ports that the lab gives it. A box is given none of its kernel's
// parts: tunlb's port in each network is the box's interface itself.
func configuration(f *scenario.File, taps []*tap) ([]byte, error) {
	type port struct {
		Name      string         `json:"name"`
		Type      string         `json:"type"`
		Addresses []netip.Prefix `json:"addresses,omitempty"`
		MTU       int            `json:"mtu"`
		Side      string         `json:"side,omitempty"`
	}
	ports := make([]port, len(taps))
	for i, a := range f.Director.Attachments {
		ports[i] = port{taps[i].name, config.TAP, a.Addresses, taps[i].mtu, a.Side}
	}
	list, err := json.Marshal(ports) // which YAML takes
	if err != nil {
		return nil, err
	}
	return []byte(f.Director.With("ports: " + string(list) + "\n")), nil
}

// unreachable is the way to servers that tunlb is no neighbour of, where the box's kernel would know one.
type unreachable struct{}

var errNoKernel = errors.New("no way to it: in a simulated lab tunlb reaches the networks that it is in, and no kernel knows more")

func (unreachable) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errNoKernel
}

func (unreachable) Ping(context.Context, netip.Addr) error { return errNoKernel }
