package replay

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	links "github.com/gopacket/gopacket/layers"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/capture"
)

// TestRepeatable: the same file, configuration and seed are the same bytes, whatever the machine does meanwhile. Another
// seed draws other ports.
func TestRepeatable(t *testing.T) {
	path := save(t, links.LinkTypeRaw, story(t))
	first, out := rerun(t, path, boxConfig, 7)
	for range 3 {
		again, outAgain := rerun(t, path, boxConfig, 7)
		if diff := differ(first, again); diff != "" {
			t.Errorf("another summary (-first +again):\n%s", diff)
		}
		if !bytes.Equal(out, outAgain) {
			a, b := packets(t, out), packets(t, outAgain)
			for i := range min(len(a), len(b)) {
				if diff := cmp.Diff(a[i], b[i]); diff != "" {
					t.Fatalf("packet %d (-first +again):\n%s", i+1, diff)
				}
			}
			t.Fatalf("%d packets, then %d", len(a), len(b))
		}
	}
	other, outOther := rerun(t, path, boxConfig, 8)
	gateway, full := sources(t, out)
	if otherGateway, otherFull := sources(t, outOther); slices.Equal(gateway, otherGateway) || slices.Equal(full, otherFull) {
		t.Errorf("another seed, but the same source ports: %v, %v", gateway, full)
	}
	other.Seed = first.Seed
	if diff := differ(first, other); diff != "" {
		t.Errorf("the seed changes what is counted (-7 +8):\n%s", diff)
	}
	zero, outZero := rerun(t, path, boxConfig, 0)
	if _, one := rerun(t, path, boxConfig, DefaultSeed); zero.Seed != DefaultSeed || !bytes.Equal(one, outZero) {
		t.Error("no seed is not the default one")
	}
}

// sources are the ports that tunlb gave: the gateway's, and those of fullnat.
func sources(t *testing.T, out []byte) (gateway, full []uint16) {
	for _, p := range packets(t, out) {
		if p.Side != capture.Out || len(p.Data) < 22 {
			continue
		}
		switch from := be.Uint16(p.Data[20:]); {
		case bytes.Equal(p.Data[12:16], []byte{203, 0, 113, 50}):
			gateway = append(gateway, from)
		case bytes.Equal(p.Data[12:16], []byte{10, 255, 0, 2}) && p.Data[9] == packet.ProtoTCP:
			full = append(full, from)
		}
	}
	if len(gateway) != 40 || len(full) != 40 {
		t.Errorf("%d ports of the gateway, %d of fullnat", len(gateway), len(full))
	}
	return gateway, full
}

// TestCounted: the summary's numbers, some of them by hand.
func TestCounted(t *testing.T) {
	list := story(t)
	sum, out := rerun(t, save(t, links.LinkTypeRaw, list), boxConfig, 1)
	in, written := 0, 0
	for _, p := range packets(t, out) {
		if p.Side == capture.In {
			in++
		} else {
			written++
		}
	}
	if sum.Read != len(list) || sum.In != len(list) || in != len(list) || written != sum.Out || len(sum.Skipped) > 0 {
		t.Errorf("%d packets: %+v; the file has %d in, %d out", len(list), sum, in, written)
	}
	total := sum.Dropped
	for _, n := range sum.Exits {
		total += n
	}
	if total != sum.In {
		t.Errorf("%d of %d packets have an end: %+v", total, sum.In, sum)
	}
	// By the file's clock, 100 of each 200 are answered at once; the host answers 50 of each 70, 2 pings and resets 2.
	// What goes back to the kernel is nobody's, or the answer of a server that the connection is not with.
	if sum.Drops["no-server"] != 400 || sum.Drops["rate-limited"] != 200 || sum.Drops["too-big"] != 0 || sum.Own != 2*50+2+2 || sum.Exits["kernel"] != 1+13 {
		t.Errorf("%d own, exits %v, drops %v", sum.Own, sum.Exits, sum.Drops)
	}
	// A SYN, SYN6, SYN to full, DNS and what a server begins: five flows a round.
	if sum.Flows != 5*40 {
		t.Errorf("%d flows", sum.Flows)
	}
	conns := map[string]uint64{}
	for _, s := range sum.Services {
		share := 0.0
		for _, srv := range s.Servers {
			conns[s.Name+" "+srv.Name] += srv.Conns
			share += srv.Share
		}
		if s.Conns > 0 && (share < 0.999 || share > 1.001) {
			t.Errorf("%s: the shares make %v", s.Name, share)
		}
	}
	if conns["web rs1"] != 27 || conns["web rs2"] != 13 {
		t.Errorf("wrr 2:1 of 40: %v", conns)
	}
	last := list[len(list)-1]
	if sum.Duration != last.after || !sum.First.Equal(begun) {
		t.Errorf("from %v for %v, want %v and %v", sum.First, sum.Duration, begun, last.after)
	}
	// The flow of the last packet has ended twenty minutes ago by the file's clock: its packet is a stray.
	all := packets(t, out)
	if p := all[len(all)-2]; p.Side != capture.In || !strings.Contains(p.Comment, "to tunlb's own stack") || p.Time != begun.Add(last.after).UnixNano() {
		t.Errorf("the last packet in: %+v", p)
	}
	if p := all[len(all)-1]; p.Comment != "own: tunlb speaks for itself" || p.Data[33]&packet.TCPRst == 0 {
		t.Errorf("the last packet out: %+v", p)
	}
}

// TestAgain: what a replay writes can be replayed, and comes out as it is.
func TestAgain(t *testing.T) {
	sum, out := rerun(t, save(t, links.LinkTypeRaw, story(t)), boxConfig, 3)
	again, outAgain := rerun(t, saved(t, out), boxConfig, 3)
	if !bytes.Equal(out, outAgain) {
		t.Error("other bytes")
	}
	if again.Skipped[skipOut] != sum.Out || again.In != sum.In {
		t.Errorf("%+v, want %d replayed and %d skipped", again, sum.In, sum.Out)
	}
	// So it is of a file whose packets are in any order: only those of one moment stay as they are.
	list := story(t)
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b timed) int { return -int(a.after.Milliseconds()/100 - b.after.Milliseconds()/100) })
	shuffled, _ := rerun(t, save(t, links.LinkTypeRaw, list), boxConfig, 3)
	if shuffled.In != sum.In || shuffled.Flows != sum.Flows || shuffled.Duration != sum.Duration {
		t.Errorf("of a file out of order: %+v\nof one in order: %+v", shuffled, sum)
	}
}

// TestAsLive: the servers get what they get of an engine that runs.
func TestAsLive(t *testing.T) {
	list := story(t)
	list = list[:40*7]
	for _, name := range []string{"rr", "wrr", "lc", "wlc", "sh", "mh", "p2c", "twos"} {
		text := strings.NewReplacer("scheduler: wrr", "scheduler: "+name, "scheduler: p2c", "scheduler: "+name).Replace(boxConfig)
		sum, _ := rerun(t, save(t, links.LinkTypeRaw, list), text, 5)
		cfg := parse(t, text)
		near, far := port.Pipe("tunlb0", packet.LinkIP, 1500)
		live := attachments(cfg, packet.MAC{})
		live[0].Port = near
		e, err := tunlb.New(tunlb.Options{Attachments: live, MaxFlows: cfg.Flows.Max}, engineConfig(cfg))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.SetBox(box(cfg)); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		for _, p := range list {
			if err := far.Write(p.frame); err != nil {
				t.Fatal(err)
			}
			if _, err := far.Read(make([]byte, packet.BufferSize)); err != nil { // each of them is answered or passed on
				t.Fatal(err)
			}
		}
		want := newSummary(5)
		want.finish(e.Status())
		stop()
		if err := errors.Join(<-ended, far.Close()); err != nil {
			t.Fatal(err)
		}
		if diff := differ(want.Services, sum.Services); diff != "" {
			t.Errorf("%s (-live +replayed):\n%s", name, diff)
		}
	}
}

// TestSuperPackets: what is longer than the MTU was one of the kernel's super-packets, and is no packet too big.
func TestSuperPackets(t *testing.T) {
	for name, family := range map[string][2]string{"v4": {"198.51.100.7", "203.0.113.22"}, "v6": {"2001:db8:1::7", "2001:db8:113::22"}} {
		client, vip := at(family[0], 40000), at(family[1], 80)
		list := []timed{
			{frame: pt.TCP(t, client, vip, pt.Flags(packet.TCPSyn))},
			{after: time.Millisecond, frame: pt.TCP(t, client, vip, pt.Flags(packet.TCPAck), pt.PayloadLen(20_001), pt.DontFragment())},
		}
		sum, out := rerun(t, save(t, links.LinkTypeRaw, list), boxConfig, 1)
		all := packets(t, out)
		last := all[len(all)-1]
		if sum.Dropped != 0 || last.Side != capture.Out || last.Segment == 0 || last.Segment > 1460 || last.Length < 20_001 {
			t.Errorf("%s: %+v: %+v", name, sum, last)
		}
		t.Run(name, func(t *testing.T) {
			pt.Check(t, append(make([]byte, packet.VnetLen), last.Data...), pt.ValidChecksums())
		})
		// Replayed again, the length of the segments is the one that the file says.
		if _, again := rerun(t, saved(t, bytes.ReplaceAll(out, []byte("segments of 14"), []byte("segments of 11"))), boxConfig, 1); !bytes.Contains(again, []byte("segments of 11")) {
			t.Errorf("%s: the file's segments are not those that were replayed", name)
		}
	}
}

// TestEnds: a replay that is ended, a writer that fails, a long silence.
func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := save(t, links.LinkTypeRaw, story(t))
	if _, err := Run(ctx, Options{File: path, Config: parse(t, boxConfig)}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended one: %v", err)
	}
	full := errors.New("no space left")
	if _, err := Run(t.Context(), Options{File: path, Config: parse(t, boxConfig), Out: failing{full}}); !errors.Is(err, full) {
		t.Errorf("a full disk: %v", err)
	}
	list := []timed{{frame: story(t)[0].frame}, {after: 90 * 365 * 24 * time.Hour, frame: story(t)[0].frame}}
	begin := time.Now()
	if sum, _ := rerun(t, save(t, links.LinkTypeRaw, list), boxConfig, 1); sum.Flows != 2 || time.Since(begin) > time.Minute {
		t.Errorf("ninety years of silence: %+v, in %v", sum, time.Since(begin))
	}
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }
