package port

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tunlb/tunlb/stack/packet"
)

// fallbackPort moves frames by wireguard's Device.Read and Device.Write: one
// plain packet a frame, checksums complete, the vnet header zero. It is the
// port of `offload: off` and of every system but Linux.
type fallbackPort struct {
	*device
	gone   func() bool // asks the system whether the device has vanished
	fd     int         // dev's, for Descriptor; -1 where it has none
	closed atomic.Bool

	// The reader's. A Device that splits super-packets returns several
	// packets a call: the first goes straight to the caller, bufs keep the rest.
	bufs        [][]byte // bufs[0] is the caller's frame during a call
	sizes       []int
	next, count int   // the packets bufs[next:count] wait
	readErr     error // came with the last batch, due after it

	writeMu   sync.Mutex
	scratch   []byte    // Device.Write scribbles on what it is given
	batch     [1][]byte // so does it here
	emit      func([]byte) error
	segmented atomic.Uint64
}

// newFallbackPort takes over d. batch is how many packets one Device.Read may
// return.
func newFallbackPort(d *device, batch int, gone func() bool) *fallbackPort {
	p := &fallbackPort{
		device:  d,
		gone:    gone,
		fd:      -1,
		bufs:    make([][]byte, batch),
		sizes:   make([]int, batch),
		scratch: make([]byte, packet.VnetLen+packet.MaxPacket),
	}
	for i := 1; i < batch; i++ {
		p.bufs[i] = make([]byte, packet.VnetLen+packet.MaxPacket)
	}
	p.emit = p.writeOne
	return p
}

func (p *fallbackPort) Read(frame []byte) (int, error) {
	if len(frame) < packet.VnetLen+packet.MaxPacket {
		return 0, io.ErrShortBuffer
	}
	for p.next == p.count {
		if err := p.readErr; err != nil {
			p.readErr = nil
			return 0, p.wrap("read", err)
		}
		p.bufs[0] = frame
		p.next = 0
		p.count, p.readErr = p.dev.Read(p.bufs, p.sizes, packet.VnetLen)
		p.bufs[0] = nil // the caller's again
		if p.count > 0 {
			p.next = 1
			clear(frame[:packet.VnetLen])
			return packet.VnetLen + p.sizes[0], nil
		}
	}
	if p.closed.Load() {
		return 0, os.ErrClosed
	}
	n := packet.VnetLen + p.sizes[p.next]
	copy(frame[:n], p.bufs[p.next])
	clear(frame[:packet.VnetLen])
	p.next++
	return n, nil
}

func (p *fallbackPort) Write(frame []byte) error {
	if len(frame) <= packet.VnetLen || len(frame) > len(p.scratch) {
		return fmt.Errorf("write %s: a frame of %d bytes: %w", p.name, len(frame), syscall.EINVAL)
	}
	p.writeMu.Lock()
	defer p.writeMu.Unlock()
	if isGSO(frame) {
		p.segmented.Add(1)
	} else { // Segment completes a checksum in place, and the frame is not ours
		frame = p.scratch[:copy(p.scratch, frame)]
	}
	if err := packet.Segment(packet.LinkIP, frame, p.emit); err != nil {
		return p.wrap("write", err)
	}
	return nil
}

// writeOne writes a plain packet. The caller holds writeMu.
func (p *fallbackPort) writeOne(frame []byte) error {
	n := copy(p.scratch, frame)
	p.batch[0] = p.scratch[:n]
	_, err := p.dev.Write(p.batch[:], packet.VnetLen)
	return err
}

func (p *fallbackPort) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	return p.device.close()
}

func (p *fallbackPort) descriptor() (int, bool) { return p.fd, p.fd >= 0 }

func (p *fallbackPort) stats() Stats { return Stats{Segmented: p.segmented.Load()} }

// wrap tells from a Device's error what the contract of Port promises.
func (p *fallbackPort) wrap(op string, err error) error {
	switch {
	case p.closed.Load():
		return os.ErrClosed
	case errors.Is(err, os.ErrClosed) || p.gone(): // Device calls a vanished device closed
		return fmt.Errorf("%s %s: %w", op, p.name, ErrGone)
	case op == "write" && errors.Is(err, syscall.EIO):
		return fmt.Errorf("%s %s: %w", op, p.name, ErrDown)
	}
	return fmt.Errorf("%s %s: %w", op, p.name, err)
}

func isGSO(frame []byte) bool {
	return packet.DecodeVnet(frame).GSOType&^packet.GSOECN != packet.GSONone
}
