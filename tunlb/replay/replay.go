package replay

// The way of a replay:
//
//  1. read the file once, for what it is like                      look (survey.go)
//  2. make the engine, with ports in memory and a clock that waits newRun
//  3. take the packets in order of their times                     Run
//     move the clock there, with all the engine's ticks between    run.until
//     find the port that it came in by, and its form there         run.frame (place.go, layers.go, super.go)
//     have the engine take it all the way, write down what it did  run.inject
//  4. sum up                                                       summary.go

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/stack"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Options are what a replay depends on, and nothing else does.
type Options struct {
	File   string // a capture, pcap or pcapng
	Config *config.Config
	Seed   uint64         // of what tunlb draws; 0 means DefaultSeed
	Out    io.Writer      // gets the packets before and after as pcapng; nil: nobody wants them
	Header capture.Header // of Out
}

// DefaultSeed is not 0, which would be at random.
const DefaultSeed = 1

// Run replays a file. What is wrong with it is a *capture.Error. ctx ends it early, with its error.
func Run(ctx context.Context, o Options) (_ *Summary, err error) {
	f, err := openFile(o.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	known, err := look(f, o.Config)
	if err != nil {
		return nil, err
	}
	r, err := newRun(&o, known)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	packets, err := f.inOrder()
	if err != nil {
		return nil, err
	}
	if err := r.step(r.engine.Advance); err != nil {
		return nil, err
	}
	for {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = r.take(ctx, p)
		}
		if err != nil {
			return nil, err
		}
	}
	return r.finish()
}

// run is a replay under way.
type run struct {
	*Options
	known  *survey
	places *places
	engine *tunlb.Engine
	watch  *watch.Subscription
	idle   context.Context // has ended: with it nobody waits for a record
	out    *capture.Writer // nil: nobody wants it
	sum    *Summary
	mac    packet.MAC

	now     time.Duration // since the first packet
	ticked  time.Duration // when the engine last ticked
	host    *stack.SteppedClock
	view    packet.View
	buf     []byte
	records []*watch.Record
	fed     bool     // the next record of a packet that came in is one of the file's
	asked   []answer // that the file has to what tunlb has just asked
}

// slots is how many records one step may bring: its packet's, answers to what it released, announcements of VIPs. They
// are read after each step, and what they take meanwhile watch.DefaultMemory bounds.
const slots = 1 << 13

func newRun(o *Options, known *survey) (*run, error) {
	if o.Seed == 0 {
		o.Seed = DefaultSeed
	}
	r := &run{Options: o, known: known, mac: macOf(o.Config, known), sum: newSummary(o.Seed), host: stack.NewSteppedClock(), buf: make([]byte, packet.BufferSize)}
	r.places = newPlaces(o.Config, r.mac)
	r.sum.First = time.Unix(0, known.first).UTC()
	var stop context.CancelFunc
	r.idle, stop = context.WithCancel(context.Background())
	stop()
	var err error
	if o.Out != nil {
		if r.out, err = capture.NewWriter(o.Out, capture.Options{Header: o.Header}); err != nil {
			return nil, err
		}
	}
	r.engine, err = tunlb.New(tunlb.Options{
		Attachments: attachments(o.Config, r.mac),
		MaxFlows:    o.Config.Flows.Max,
		Direct:      direct{},
		Log:         zerolog.Nop(),
		Now:         func() time.Duration { return r.now },
		HostClock:   r.host,
		Seed:        o.Seed,
	}, engineConfig(o.Config))
	if err != nil {
		return nil, err
	}
	if err := r.engine.SetBox(box(o.Config)); err != nil {
		return nil, errors.Join(err, r.engine.Close())
	}
	r.watch = r.engine.Watch(watch.Options{Snap: capture.MaxSnap, Slots: slots, Why: true})
	return r, nil
}

func (r *run) close() error {
	r.watch.Close()
	return r.engine.Close()
}

// macOf is tunlb's own on segments: the one that those use who ask a VIP, or the file would be others' business.
func macOf(cfg *config.Config, known *survey) packet.MAC {
	if !known.mac.IsZero() {
		return known.mac
	}
	for i := range cfg.Ports {
		if mac := packet.MAC(cfg.Ports[i].MAC); !mac.IsZero() {
			return mac
		}
	}
	return ownMAC()
}

// take replays one packet of the file.
func (r *run) take(ctx context.Context, p *capture.Packet) error {
	r.sum.Read++
	at := time.Duration(p.Time - r.known.first)
	if err := r.until(ctx, at); err != nil {
		return err
	}
	port, frame, skip, err := r.frame(p)
	switch {
	case err != nil:
		return err
	case skip != "":
		r.sum.Skipped[skip]++
		return nil
	}
	return r.inject(port, frame)
}

// maxTicks bounds what a long silence costs: beyond, the engine ticks seldom.
const maxTicks = 4 * 3600

// until moves the clock, with all the engine's ticks between.
func (r *run) until(ctx context.Context, at time.Duration) error {
	step := max(tunlb.StepPeriod, (at-r.ticked)/maxTicks/tunlb.StepPeriod*tunlb.StepPeriod)
	for r.ticked+step <= at {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("replay of %s ended early: %w", r.File, err)
		}
		r.ticked += step
		r.set(r.ticked)
		if err := r.step(r.engine.Advance); err != nil {
			return err
		}
	}
	r.set(at)
	return nil
}

// set moves the clocks.
func (r *run) set(at time.Duration) {
	r.host.Advance(at - r.now)
	r.now = at
}

// frame is a packet in the form of the port that it came in by, in r.buf.
func (r *run) frame(p *capture.Packet) (port int, frame []byte, skip string, err error) {
	refuse := func(what, instead string) error {
		return &capture.Error{File: r.File, Packet: p.Number, Offset: p.Offset, What: what, Instead: instead}
	}
	l, err := peel(p.Link, p.Data)
	if err != nil {
		return 0, nil, "", refuse(err.Error(), "want Ethernet, raw IP, Linux cooked or BSD loopback: capture on the interface itself")
	}
	if port, skip = r.places.of(p, l); skip != "" {
		return 0, nil, skip, nil
	}
	if len(p.Data) < p.Length {
		return 0, nil, CutOff, nil
	}
	to, link, data := &r.Config.Ports[port], packet.LinkIP, l.ip
	switch {
	case to.Ethernet() && l.ethernet == nil:
		return 0, nil, "", refuse(fmt.Sprintf("it has no Ethernet header, and port %s of the configuration is one of type %s", to.Name, to.Type),
			"capture on an Ethernet interface, or replay with a configuration whose ports are of type tun")
	case to.Ethernet():
		link, data = packet.LinkEthernet, l.ethernet
	case data == nil:
		return 0, nil, skipNoIP, nil
	case to.Box() && l.ethernet == nil: // nobody looks at its MACs
		head := packet.AppendEthernet(nil, append(make([]byte, packet.VnetLen), data...), r.mac, packet.MAC{})
		link, data = packet.LinkEthernet, head[packet.VnetLen:]
	case to.Box():
		link, data = packet.LinkEthernet, l.ethernet
	}
	if packet.VnetLen+len(data) > len(r.buf)-packet.Headroom {
		return 0, nil, skipTooBig, nil
	}
	frame = append(append(r.buf[:0], make([]byte, packet.VnetLen)...), data...)
	mtu := to.MTU
	if mtu == 0 {
		mtu = config.DefaultMTU
	}
	superPacket(&r.view, link, frame, p.Segment, mtu)
	return port, frame, "", nil
}

// inject has the engine take a frame of the file.
func (r *run) inject(port int, frame []byte) error {
	var failed error
	err := r.step(func() { r.fed, failed = true, r.engine.Inject(port, frame) })
	return errors.Join(failed, err)
}

// step has the engine do something and writes down what it did. What tunlb has asked meanwhile of its neighbours is
// answered at once, if the file has the answer.
func (r *run) step(do func()) error {
	do()
	if err := r.collect(); err != nil {
		return err
	}
	asked := r.asked
	r.asked = nil // what is asked for that is answered with the next step, or there might be no end
	for _, a := range asked {
		r.sum.Answers++
		if err := r.engine.Inject(a.port, a.frame); err != nil {
			return err
		}
		if err := r.collect(); err != nil {
			return err
		}
	}
	return nil
}

// collect takes what the engine has done since the last time. It is sorted: the host's answer to a packet may be
// offered before that packet's own record, from another goroutine.
func (r *run) collect() error {
	r.records = r.records[:0]
	for {
		record, ok := r.watch.Next(r.idle)
		if !ok {
			break
		}
		r.records = append(r.records, record)
	}
	if lost := r.watch.Lost(); lost > 0 {
		return fmt.Errorf("replay: %d of the engine's records were lost in one step: this is a fault of tunlb's, please report it", lost)
	}
	slices.SortFunc(r.records, func(a, b *watch.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, record := range r.records {
		record.Time = r.sum.First.Add(record.At)
		r.sum.note(record)
		if r.fed && record.In != nil {
			r.sum.noteIn(record)
			r.fed = false
		}
		r.noteQuestions(record)
		if r.out != nil {
			if err := r.out.Write(record); err != nil {
				return fmt.Errorf("write the replay's packets: %w", err)
			}
		}
		r.watch.Release(record)
	}
	return nil
}

// answer is a frame that comes in by a port.
type answer struct {
	port  int
	frame []byte
}

// noteQuestions finds among tunlb's own words the questions that the file has an answer to.
func (r *run) noteQuestions(record *watch.Record) {
	if record.In != nil || record.Waited {
		return
	}
	for i := range record.Out {
		f := &record.Out[i]
		port, known := r.places.byName[f.Port]
		if !f.Ethernet || !known {
			continue
		}
		target, frame := r.known.answerTo(f.Data, r.mac)
		if frame != nil && (r.Config.Ports[port].Side == "" || r.places.behind(target) == port) {
			r.asked = append(r.asked, answer{port, frame})
		}
	}
}

// finish sums up.
func (r *run) finish() (*Summary, error) {
	r.sum.Duration = r.now
	r.sum.finish(r.engine.Status())
	if r.out != nil {
		if err := r.out.Stats(r.sum.First.Add(r.now), 0); err != nil {
			return nil, fmt.Errorf("write the replay's packets: %w", err)
		}
	}
	return r.sum, nil
}
