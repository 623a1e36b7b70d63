package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"os"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/watch"
)

var (
	client = netip.MustParseAddrPort("198.51.100.7:40000")
	vip    = netip.MustParseAddrPort("203.0.113.22:80")
	rs2    = netip.MustParseAddrPort("192.168.0.11:8080")
	begun  = time.Unix(1700000000, 123456789)

	macVIP    = packet.MAC{2, 0, 0, 0, 0, 1}
	macClient = packet.MAC{2, 0, 0, 0, 0, 2}
)

func frameOf(port string, data []byte) watch.Frame {
	return watch.Frame{Port: port, Length: len(data) - packet.VnetLen, Data: data}
}

func etherOf(port string, data []byte) watch.Frame {
	f := frameOf(port, packet.AppendEthernet(nil, data, macVIP, macClient))
	f.Ethernet = true
	return f
}

// records are a request, its answer, a drop with its answer, a super-packet that was cut off, ARP, and tunlb's own word.
func records(t testing.TB) []*watch.Record {
	syn := frameOf("tunlb0", pt.TCP(t, client, vip, pt.Flags(packet.TCPSyn), pt.PartialChecksum(), pt.PayloadLen(3)))
	rewritten := frameOf("tunlb0", pt.TCP(t, client, rs2, pt.Flags(packet.TCPSyn), pt.PartialChecksum(), pt.PayloadLen(3)))
	answer := etherOf("tunlb1", pt.TCP(t, rs2, client, pt.Flags(packet.TCPSyn|packet.TCPAck)))
	translated := frameOf("tunlb0", pt.TCP(t, vip, client, pt.Flags(packet.TCPSyn|packet.TCPAck)))
	refused := frameOf("tunlb0", pt.UDP(t, client, vip))
	long := frameOf("tunlb0", pt.TCP(t, client, vip, pt.Flags(packet.TCPAck), pt.PayloadLen(4000), pt.GSO(1400)))
	whole := long
	long.Data = long.Data[:packet.VnetLen+192]
	flow := watch.Record{Time: begun, Flow: 17, Service: "web", ServerName: "rs2", Server: rs2, Client: client, VIP: vip, Protocol: "tcp"}
	opened, reply, cut, kept := flow, flow, flow, flow
	opened.Seq, opened.In, opened.Out, opened.Opened, opened.Exit = 1, &syn, []watch.Frame{rewritten}, true, "port"
	opened.Why = &policy.Explanation{Scheduler: "rr", Why: "its turn\nis next"}
	reply.Seq, reply.In, reply.Out, reply.Reply, reply.Exit, reply.State = 2, &answer, []watch.Frame{translated}, true, "port", "ESTABLISHED"
	cut.Seq, cut.In, cut.Exit, cut.State, cut.Source = 4, &long, "host", "ESTABLISHED", netip.MustParseAddrPort("10.0.0.1:1025")
	kept.Seq, kept.In, kept.Drop = 5, &whole, "port-write"
	arp := etherOf("tunlb1", pt.UDP(t, client, vip))
	return []*watch.Record{
		&opened, &reply,
		{Seq: 3, Time: begun.Add(time.Second), In: &refused, Out: []watch.Frame{refused}, Drop: "no-server"},
		&cut, &kept,
		{Seq: 6, Time: begun, In: &arp, Exit: "neighbour"},
		{Seq: 7, Time: begun, Out: []watch.Frame{arp}, Exit: "port"},
	}
}

// TestWaited: what was held and goes on is not what tunlb has to say itself.
func TestWaited(t *testing.T) {
	list := records(t)
	waited := *list[0]
	waited.In, waited.Waited, waited.Opened, waited.Why = nil, true, false, nil
	for name, test := range map[string]struct {
		edit func(*watch.Record)
		side Side
		want string
	}{
		"sent on":     {func(*watch.Record) {}, Out, "after waiting: flow 00000011 web -> rs2 192.168.0.11:8080"},
		"of nobody":   {func(r *watch.Record) { *r = watch.Record{Waited: true, Exit: "port"} }, Out, "after waiting: routed"},
		"given up":    {func(r *watch.Record) { r.Drop = "unresolved" }, Out, "answer: drop unresolved, flow 00000011 web -> rs2 192.168.0.11:8080"},
		"tunlb's own": {func(r *watch.Record) { *r = watch.Record{Exit: "port"} }, Out, "own: tunlb speaks for itself"},
		"held":        {func(r *watch.Record) { *r = watch.Record{Exit: "held"} }, In, "before: held until its next hop's MAC is known"},
		"a fragment":  {func(r *watch.Record) { *r = watch.Record{Exit: "parked"} }, In, "before: held until its first fragment comes"},
	} {
		r := waited
		test.edit(&r)
		r.State = ""
		if got := Comment(&r, test.side); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// told are the comments of records' frames.
var told = []string{
	"before: flow 00000011 opened web -> rs2 192.168.0.11:8080 (rr: its turn is next)",
	"after: flow 00000011 opened web -> rs2 192.168.0.11:8080 (rr: its turn is next)",
	"before: flow 00000011 reply of rs2 192.168.0.11:8080, ESTABLISHED",
	"after: flow 00000011 reply of rs2 192.168.0.11:8080, ESTABLISHED",
	"before: drop no-server",
	"answer: drop no-server",
	"before: flow 00000011 web -> rs2 192.168.0.11:8080, as 10.0.0.1:1025, ESTABLISHED, to tunlb's own stack; stands for segments of 1400 bytes; checksum left to the device",
	"before: drop port-write, flow 00000011 web -> rs2 192.168.0.11:8080; stands for segments of 1400 bytes",
	"before: taken in as a neighbour's word",
	"own: tunlb speaks for itself",
}

func write(t testing.TB, o Options, list ...*watch.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Stats(begun.Add(time.Minute), 42); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func header() Header { return Header{Hardware: "amd64", OS: "linux", Application: Application + "1.2"} }

// TestWriter: another reader finds all that was written, where it belongs.
func TestWriter(t *testing.T) {
	list := records(t)
	r, err := pcapgo.NewNgReader(bytes.NewReader(write(t, Options{Header: header()}, list...)), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	info := r.SectionInfo()
	if got := (Header{info.Hardware, info.OS, info.Application}); got != header() {
		t.Errorf("the head says %+v", got)
	}
	type row struct {
		Port, Comment string
		Link          layers.LinkType
		Direction     pcapgo.NgEpbFlag
		ID            uint64
		Time          time.Time
		Captured, Len int
	}
	var got, want []row
	for _, rec := range list {
		add := func(f *watch.Frame, d pcapgo.NgEpbFlag) {
			link := layers.LinkTypeRaw
			if f.Ethernet {
				link = layers.LinkTypeEthernet
			}
			want = append(want, row{f.Port, told[len(want)], link, d, rec.Seq, rec.Time.UTC(), len(f.Data) - packet.VnetLen, f.Length})
		}
		if rec.In != nil {
			add(rec.In, pcapgo.NgEpbFlagDirectionInbound)
		}
		for i := range rec.Out {
			add(&rec.Out[i], pcapgo.NgEpbFlagDirectionOutbound)
		}
	}
	for {
		_, ci, opts, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		face, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		if face.SnapLength != MaxSnap {
			t.Errorf("snap length %d", face.SnapLength)
		}
		got = append(got, row{face.Name, strings.Join(opts.Comments, "|"), face.LinkType, opts.Flags.Direction, *opts.PacketID, ci.Timestamp.UTC(), ci.CaptureLength, ci.Length})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for i, packets := range []uint64{7, 3} {
		face, _ := r.Interface(i)
		lost := uint64(0)
		if i == 0 {
			lost = 42
		}
		if s := face.Statistics; s.PacketsDropped != lost || s.PacketsReceived != packets+lost || !s.StartTime.Equal(begun) || !s.EndTime.Equal(begun.Add(time.Second)) {
			t.Errorf("statistics of interface %d: %+v, want %d packets and %d lost", i, s, packets, lost)
		}
	}
}

// TestFinishedChecksums: what a device would have finished is whole in the file, if the file has all of it.
func TestFinishedChecksums(t *testing.T) {
	for name, frame := range map[string][]byte{
		"tcp":      pt.TCP(t, client, vip, pt.PartialChecksum(), pt.PayloadLen(101)),
		"udp":      pt.UDP(t, client, vip, pt.PartialChecksum(), pt.PayloadLen(7)),
		"tcp6":     pt.TCP(t, netip.MustParseAddrPort("[2001:db8::7]:1"), netip.MustParseAddrPort("[2001:db8::22]:80"), pt.PartialChecksum(), pt.PayloadLen(2)),
		"super":    pt.TCP(t, client, vip, pt.PayloadLen(9001), pt.GSO(1400)),
		"finished": pt.TCP(t, client, vip, pt.PayloadLen(5)),
	} {
		f := frameOf("tunlb0", frame)
		r, err := NewReader(bytes.NewReader(write(t, Options{}, &watch.Record{Time: begun, In: &f})), name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p.Segment != 0 {
			t.Errorf("%s: segments of %d bytes, in a file that says nothing of tunlb", name, p.Segment)
		}
		t.Run(name, func(t *testing.T) {
			pt.Check(t, append(make([]byte, packet.VnetLen), p.Data...), pt.ValidChecksums())
		})
	}
}

// TestSides: only what is asked for is written, and an interface only with its first packet.
func TestSides(t *testing.T) {
	list := records(t)[:2]
	for side, want := range map[Side][]string{In: {told[0], told[2]}, Out: {told[1], told[3]}, Both: told[:4]} {
		var got, ports []string
		for _, p := range read(t, write(t, Options{Header: header(), Side: side}, list...)) {
			got, ports = append(got, p.Comment), append(ports, p.Port)
			if side != Both && p.Side != side {
				t.Errorf("%v: a packet of side %v", side, p.Side)
			}
		}
		if !slices.Equal(got, want) || slices.Contains(ports, "tunlb1") != (side != Out) {
			t.Errorf("%v: %q by %q, want %q", side, got, ports, want)
		}
		if parsed, err := ParseSide(side.String()); parsed != side || err != nil {
			t.Errorf("ParseSide(%q) = %v, %v", side, parsed, err)
		}
	}
	if _, err := ParseSide("both"); err == nil || !strings.Contains(err.Error(), "in,out") {
		t.Errorf("side both: %v", err)
	}
}

// read is all of a file by our own reader.
func read(t testing.TB, b []byte) (all []Packet) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b), "test.pcapng")
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		kept := *p
		kept.Data = bytes.Clone(p.Data)
		all = append(all, kept)
	}
}

// TestTshark: the tool that people use shows comments, interfaces and directions, and finds nothing wrong.
func TestTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed")
	}
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(path, write(t, Options{Header: header()}, records(t)...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tshark, "-n", "-r", path, "-o", "tcp.check_checksum:TRUE", "-T", "json",
		"-e", "frame.comment", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "tcp.checksum.status", "-e", "_ws.malformed")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var rows []struct {
		Source struct {
			Layers map[string][]string `json:"layers"`
		} `json:"_source"`
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(rows) != len(told) {
		t.Fatalf("tshark sees %d packets, want %d", len(rows), len(told))
	}
	const good = "1"
	for i, row := range rows {
		l := row.Source.Layers
		if got := l["frame.comment"]; !slices.Equal(got, []string{told[i]}) {
			t.Errorf("packet %d: comment %q, want %q", i+1, got, told[i])
		}
		if l["_ws.malformed"] != nil {
			t.Errorf("packet %d is malformed", i+1)
		}
		cut := strings.HasSuffix(told[i], "left to the device")
		if sum := l["tcp.checksum.status"]; sum != nil && !cut && sum[0] != good {
			t.Errorf("packet %d: checksum status %q, want good: %s", i+1, sum, told[i])
		}
	}
}

// TestFailedWriter: the first error stays.
func TestFailedWriter(t *testing.T) {
	w, err := NewWriter(&limited{left: 200}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, r := range records(t) {
			err = w.Write(r)
		}
		if !errors.Is(err, errFull) {
			t.Errorf("got %v, want %v", err, errFull)
		}
	}
	if err := w.Stats(begun, 0); w.Packets() > 0 && !errors.Is(err, errFull) {
		t.Errorf("statistics: %v", err)
	}
}

var errFull = errors.New("no space left")

// limited is a disk that gets full.
type limited struct {
	bytes.Buffer
	left   int
	closed bool
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.left {
		n, _ := l.Buffer.Write(b[:l.left])
		l.left = 0
		return n, errFull
	}
	l.left -= len(b)
	return l.Buffer.Write(b)
}

func (l *limited) Close() error { l.closed = true; return nil }

// Truncate is a file's.
func (l *limited) Truncate(n int64) error { l.Buffer.Truncate(int(n)); return nil }
