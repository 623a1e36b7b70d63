package port

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/tunlb/tunlb/stack/packet"
)

// fakeDevice is a wireguard device that reads what it is told to and, like
// the real ones, scribbles on what it is given to write.
type fakeDevice struct {
	reads    []fakeRead
	written  []string
	writeErr error
	events   chan tun.Event
}

type fakeRead struct {
	packets []string
	err     error
}

func (d *fakeDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(d.reads) == 0 {
		return 0, os.ErrClosed
	}
	r := d.reads[0]
	d.reads = d.reads[1:]
	for i, p := range r.packets {
		copy(bufs[i], "scribble scribble")
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(r.packets), r.err
}

func (d *fakeDevice) Write(bufs [][]byte, offset int) (int, error) {
	for i, b := range bufs {
		if cap(b) < offset+65535 {
			return 0, errors.New("no room to coalesce")
		}
		d.written = append(d.written, string(b[offset:]))
		clear(b)
		bufs[i] = nil
	}
	return len(bufs), d.writeErr
}

func (d *fakeDevice) File() *os.File           { return nil }
func (d *fakeDevice) MTU() (int, error)        { return 1500, nil }
func (d *fakeDevice) Name() (string, error)    { return "fake0", nil }
func (d *fakeDevice) Events() <-chan tun.Event { return d.events }
func (d *fakeDevice) BatchSize() int           { return 8 }
func (d *fakeDevice) Close() error             { close(d.events); return nil }

func newFakePort(t *testing.T, dev *fakeDevice) *fallbackPort {
	dev.events = make(chan tun.Event)
	p := newFallbackPort(newDevice(dev, "fake0", 1500, dev.MTU, func() {}), dev.BatchSize(), func() bool { return false })
	t.Cleanup(func() {
		p.Close()
		<-p.drained
	})
	return p
}

func TestFallbackReadHandsOutBatches(t *testing.T) {
	transient := errors.New("too many segments")
	p := newFakePort(t, &fakeDevice{reads: []fakeRead{
		{packets: []string{"first", "second", "third"}},
		{},
		{packets: []string{"a", "longer one"}, err: transient},
		{packets: []string{"after"}},
	}})
	buf := make([]byte, packet.VnetLen+packet.MaxPacket)
	var got []string
	for {
		n, err := p.Read(buf)
		if errors.Is(err, ErrGone) {
			break
		}
		if err != nil {
			got = append(got, "error: "+fmt.Sprint(errors.Is(err, transient)))
			continue
		}
		if vnet := packet.DecodeVnet(buf); vnet != (packet.Vnet{}) {
			t.Errorf("vnet header of %q is %+v, want zero", buf[:n], vnet)
		}
		got = append(got, string(buf[packet.VnetLen:n]))
	}
	want := []string{"first", "second", "third", "a", "longer one", "error: true", "after"}
	if !slices.Equal(got, want) {
		t.Errorf("read %q\nwant %q", got, want)
	}
}

func TestFallbackReadNeedsRoom(t *testing.T) {
	p := newFakePort(t, &fakeDevice{})
	if _, err := p.Read(make([]byte, packet.VnetLen+packet.MaxPacket-1)); err != io.ErrShortBuffer {
		t.Errorf("got %v", err)
	}
}

func TestFallbackWriteSplitsAndBorrows(t *testing.T) {
	dev := &fakeDevice{}
	p := newFakePort(t, dev)
	src, dst := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("203.0.113.22:53")
	frame := udpFrame(src, dst, make([]byte, 2500), 1000)
	before := slices.Clone(frame)
	if err := p.Write(frame); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(frame, before) {
		t.Error("Write changed the frame")
	}
	if len(dev.written) != 3 {
		t.Fatalf("a super-packet of 3 came as %d packets", len(dev.written))
	}
	for i, pkt := range dev.written {
		if want := 28 + min(1000, 2500-i*1000); len(pkt) != want {
			t.Errorf("packet %d has %d bytes, want %d", i, len(pkt), want)
		}
		if err := checkUDP([]byte(pkt)); err != nil {
			t.Errorf("packet %d: %v", i, err)
		}
	}
	if got := StatsOf(p).Segmented; got != 1 {
		t.Errorf("%d segmented, want 1", got)
	}
}

func TestFallbackErrors(t *testing.T) {
	frame := udpFrame(netip.MustParseAddrPort("[2001:db8::7]:40000"), netip.MustParseAddrPort("[2001:db8::22]:53"), []byte("x"), 0)
	for _, tt := range []struct {
		device, want error
	}{
		{os.ErrClosed, ErrGone}, // wireguard's word for EBADFD
		{syscall.EIO, ErrDown},
		{syscall.ENOBUFS, syscall.ENOBUFS},
	} {
		p := newFakePort(t, &fakeDevice{writeErr: tt.device})
		if err := p.Write(frame); !errors.Is(err, tt.want) {
			t.Errorf("device says %v: got %v, want %v", tt.device, err, tt.want)
		}
		p.Close()
		if err := p.Write(frame); err != os.ErrClosed {
			t.Errorf("write after close: %v", err)
		}
		if _, err := p.Read(make([]byte, packet.BufferSize)); err != os.ErrClosed {
			t.Errorf("read after close: %v", err)
		}
	}
}

func TestParseOffload(t *testing.T) {
	for _, o := range []Offload{OffloadAuto, OffloadTCP, OffloadOff} {
		if got, err := ParseOffload(o.String()); err != nil || got != o {
			t.Errorf("%s: got %s, %v", o, got, err)
		}
	}
	if got, err := ParseOffload(""); err != nil || got != OffloadAuto {
		t.Errorf("empty: got %s, %v", got, err)
	}
	if _, err := ParseOffload("on"); err == nil {
		t.Error("on is no offload")
	}
}
