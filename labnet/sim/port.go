package sim

import (
	"io"
	"os"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/stack/port"
)

// tap is a port of tunlb's that hangs in a network.
type tap struct {
	name  string
	mtu   int
	queue *queue
	link  *link

	// What has been taken out of the queue and not been read; the reader's.
	frames []*buffer.View
	next   int
}

var _ port.Port = (*tap)(nil)

func (t *tap) Name() string      { return t.name }
func (t *tap) Link() packet.Link { return packet.LinkEthernet }
func (t *tap) MTU() int          { return t.mtu }

// Read implements port.Port. The frame is in the reader's hands until the next Read.
func (t *tap) Read(frame []byte) (int, error) {
	if t.next > 0 {
		t.queue.done()
	}
	if t.next == len(t.frames) {
		frames, ok := t.queue.take(t.frames)
		if !ok {
			t.frames, t.next = nil, 0
			return 0, os.ErrClosed
		}
		t.frames, t.next = frames, 0
	}
	f := t.frames[t.next]
	t.frames[t.next] = nil
	t.next++
	n := copy(frame, f.AsSlice())
	short := n < f.Size()
	f.Release()
	if short {
		return 0, io.ErrShortBuffer
	}
	return n, nil
}

// Write implements port.Port.
func (t *tap) Write(frame []byte) error {
	t.link.send(buffer.NewViewWithData(frame))
	return nil
}

// Close implements port.Port.
func (t *tap) Close() error {
	t.queue.close()
	return nil
}
