package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// disk is where files go.
type disk struct {
	files map[int]*limited
	room  int
}

func (d *disk) create(n int) (io.WriteCloser, string, error) {
	if d.files == nil {
		d.files = map[int]*limited{}
	}
	d.files[n] = &limited{left: d.room}
	return d.files[n], fmt.Sprintf("file %d", n), nil
}

func (d *disk) remove(n int) error {
	if d.files[n] == nil {
		return errors.New("removed twice")
	}
	delete(d.files, n)
	return nil
}

// many are n records of one flow with 100 bytes of payload, by two ports.
func many(t testing.TB, n int) (list []*watch.Record) {
	in, out := frameOf("tunlb0", pt.TCP(t, client, vip, pt.PayloadLen(100))), frameOf("tunlb1", pt.TCP(t, client, rs2, pt.PayloadLen(100)))
	for i := range n {
		list = append(list, &watch.Record{Seq: uint64(i), Time: begun.Add(time.Duration(i) * time.Second), In: &in, Out: []watch.Frame{out}, Exit: "port"})
	}
	return list
}

// TestRotation: each file is a whole one within its size, together they are the stream, and no more are kept.
func TestRotation(t *testing.T) {
	const records, size = 100, 8 << 10
	stream := write(t, Options{Header: header()}, many(t, records)...)
	for _, keep := range []int{0, 3} {
		d := &disk{room: 1 << 20}
		sum, err := (&Files{Create: d.create, Remove: d.remove, Size: size, Keep: keep}).Copy(iotest.HalfReader(bytes.NewReader(stream)))
		if err != nil || sum.Packets != 2*records || sum.Lost != 42 || sum.Files < 5 || sum.Name != fmt.Sprintf("file %d", sum.Files-1) {
			t.Errorf("keep %d: %+v, %v", keep, sum, err)
		}
		if keep > 0 && len(d.files) != keep {
			t.Errorf("%d files, want %d", len(d.files), keep)
		}
		var bytes, id int64
		for n := sum.Files - len(d.files); n < sum.Files; n++ {
			f := d.files[n]
			if f == nil || !f.closed || f.Len() > size || f.Len() < size/2 && n < sum.Files-1 {
				t.Fatalf("file %d: %+v", n, f)
			}
			bytes += int64(f.Len())
			for i, p := range read(t, f.Bytes()) {
				at := (p.Time - begun.UnixNano()) / 1e9
				if keep == 0 && at != id/2 || p.Port != []string{"tunlb0", "tunlb1"}[id%2] && keep == 0 || !p.Own {
					t.Fatalf("file %d, packet %d: %+v", n, i, p)
				}
				id++
			}
		}
		if keep == 0 && (bytes != sum.Bytes || id != 2*records) {
			t.Errorf("%d bytes and %d packets in files, %d told", bytes, id, sum.Bytes)
		}
	}
}

// TestOneFile: without rotation the file is the stream; with a number of packets it ends there.
func TestOneFile(t *testing.T) {
	stream := write(t, Options{Header: header()}, many(t, 10)...)
	d := &disk{room: 1 << 20}
	if sum, err := (&Files{Create: d.create}).Copy(bytes.NewReader(stream)); err != nil || sum.Packets != 20 || len(read(t, d.files[0].Bytes())) != 20 || sum.Lost != 42 {
		t.Errorf("%+v, %v", sum, err)
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(d.files[0].Bytes()), pcapgo.DefaultNgReaderOptions)
	for err == nil {
		_, _, err = r.ReadPacketData()
	}
	if face, _ := r.Interface(0); !errors.Is(err, io.EOF) || face.Statistics.PacketsDropped != 42 || face.Statistics.PacketsReceived != 10+42 {
		t.Errorf("the file says %+v, %v", face.Statistics, err)
	}
	if sum, err := (&Files{Create: d.create, Packets: 7}).Copy(bytes.NewReader(stream)); err != nil || sum.Packets != 7 || len(read(t, d.files[0].Bytes())) != 7 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// TestBrokenStreams: what has come is kept.
func TestBrokenStreams(t *testing.T) {
	stream := write(t, Options{Header: header()}, many(t, 10)...)
	pulled := errors.New("cable pulled")
	for name, test := range map[string]struct {
		stream  io.Reader
		packets int
		want    string
	}{
		"cut":      {bytes.NewReader(stream[:2000]), 8, "unexpected EOF"},
		"failing":  {io.MultiReader(bytes.NewReader(stream[:2000]), iotest.ErrReader(pulled)), 8, pulled.Error()},
		"no head":  {bytes.NewReader(block(le, blockPacket, make([]byte, 40))), 0, "does not begin with a section"},
		"nonsense": {strings.NewReader("HTTP/1.1 200 OK\r\n\r\n"), 0, "this is no capture of a tunlb"},
		"stranger": {bytes.NewReader(append(section(le), block(le, blockPacket, make([]byte, 40))...)), 0, "nobody has described"},
	} {
		d := &disk{room: 1 << 20}
		sum, err := (&Files{Create: d.create}).Copy(test.stream)
		if err == nil || !strings.Contains(err.Error(), test.want) || int(sum.Packets) != test.packets {
			t.Errorf("%s: %+v, %v, want %d packets and %q", name, sum, err, test.packets, test.want)
		}
		if f := d.files[0]; f != nil && (!f.closed || len(read(t, f.Bytes())) != test.packets) {
			t.Errorf("%s: the file has %d packets", name, len(read(t, f.Bytes())))
		}
	}
}

// TestFull: the error names the file and how much of it there is.
func TestFull(t *testing.T) {
	stream := write(t, Options{Header: header()}, many(t, 1000)...)
	d := &disk{room: 100_000}
	sum, err := (&Files{Create: d.create}).Copy(bytes.NewReader(stream))
	if !errors.Is(err, errFull) || !strings.Contains(err.Error(), fmt.Sprintf("write file 0: no space left after %d bytes", sum.Bytes)) || !d.files[0].closed {
		t.Errorf("%+v, %v", sum, err)
	}
	for _, room := range []int{100_000, 65_536, 70_001} { // the file ends with a whole block, and has as much as there is room for
		d := &disk{room: room}
		sum, err := (&Files{Create: d.create}).Copy(bytes.NewReader(stream))
		n := len(read(t, d.files[0].Bytes()))
		if err == nil || n == 0 || uint64(n) != sum.Packets || sum.Bytes != int64(d.files[0].Len()) || d.files[0].Len() > room || d.files[0].Len() < room-300 {
			t.Errorf("room for %d: %d packets in %d bytes, told %+v, %v", room, n, d.files[0].Len(), sum, err)
		}
	}
	refused := errors.New("permission denied")
	_, err = (&Files{Create: func(int) (io.WriteCloser, string, error) { return nil, "", refused }}).Copy(bytes.NewReader(stream))
	if !errors.Is(err, refused) {
		t.Errorf("a file that cannot be made: %v", err)
	}
	d = &disk{room: 1 << 20}
	_, err = (&Files{Create: d.create, Remove: func(int) error { return refused }, Size: 8 << 10, Keep: 1}).Copy(bytes.NewReader(stream))
	if !errors.Is(err, refused) {
		t.Errorf("a file that cannot be removed: %v", err)
	}
	d = &disk{room: 1 << 20}
	gone := func(int) error { return &fs.PathError{Op: "remove", Path: "file 0", Err: fs.ErrNotExist} }
	sum, err = (&Files{Create: d.create, Remove: gone, Size: 8 << 10, Keep: 1}).Copy(bytes.NewReader(stream))
	if err != nil || sum.Files < 3 {
		t.Errorf("files that somebody has moved: %v, %+v", err, sum)
	}
}

// TestFollow: what is offered is written, flushed when there is nothing more, and what is lost is told.
func TestFollow(t *testing.T) {
	s := watch.NewSubscription(watch.Options{Snap: 60, Slots: 4}, nil)
	list := many(t, 10)
	for _, r := range list {
		s.Offer(r) // four are taken
	}
	ctx, cancel := context.WithCancel(t.Context())
	var b bytes.Buffer
	w, err := NewWriter(&b, Options{Header: header(), Snap: 60})
	if err != nil {
		t.Fatal(err)
	}
	var flushes atomic.Int32
	var told atomic.Bool
	flushed := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- Follow(ctx, s, w, func() error {
			flushes.Add(1)
			told.Store(bytes.Contains(b.Bytes(), []byte("6 records lost, of all ports")))
			flushed <- struct{}{}
			return nil
		})
	}()
	<-flushed
	if n := flushes.Load(); n != 1 {
		t.Errorf("flushed %d times for what was there at once", n)
	}
	s.Offer(list[9])
	for w := 0; w < 3; w++ { // the next comes with the record, or with the clock before it
		<-flushed
	}
	if !told.Load() {
		t.Error("what was lost is not told while the capture goes on")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	packets := read(t, b.Bytes())
	if len(packets) != 10 || len(packets[0].Data) != 60 || packets[0].Length <= 60 {
		t.Errorf("%d packets, the first is %+v", len(packets), packets[0])
	}
	d := &disk{room: 1 << 20}
	if sum, err := (&Files{Create: d.create}).Copy(bytes.NewReader(b.Bytes())); err != nil || sum.Lost != 6 {
		t.Errorf("%+v, %v, want 6 lost", sum, err)
	}
	// The subscription's end is one as well, and so is a failed flush.
	s.Close()
	if err := Follow(t.Context(), s, w, func() error { return nil }); err != nil {
		t.Errorf("a subscription that has ended: %v", err)
	}
	if err := Follow(t.Context(), watch.NewSubscription(watch.Options{}, nil), w, func() error { return errFull }); !errors.Is(err, errFull) {
		t.Errorf("a flush that fails: %v", err)
	}
}

// TestSlots: a queue full of the longest frames takes what it may, and one of headers is long. So it is where
// packets leave by several ports, with fewer records then.
func TestSlots(t *testing.T) {
	if n := Slots(192); n != 1<<14 {
		t.Errorf("%d slots of headers", n)
	}
	n := Slots(MaxSnap)
	for _, outs := range []int{1, 3} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := watch.NewSubscription(watch.Options{Snap: MaxSnap, Slots: n}, nil)
		f := watch.Frame{Port: "tunlb0", Ethernet: true, Length: MaxSnap, Data: make([]byte, packet.VnetLen+MaxSnap)}
		r := &watch.Record{In: &f}
		for range outs {
			r.Out = append(r.Out, f)
		}
		for range n + 1 {
			s.Offer(r)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		took := after.HeapAlloc - before.HeapAlloc
		if lost := s.Lost(); lost == 0 || outs == 1 && lost > 1 || took > watch.DefaultMemory*5/4 || took < watch.DefaultMemory/2 {
			t.Errorf("%d slots for %d ports: %d bytes, %d lost", n, outs, took, lost)
		}
	}
}
