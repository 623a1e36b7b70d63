package port

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// The ring holds 255 frames of any length, in 17 MiB. With 64, bulk cost retransmits and requests 190 ms at the 99th
// percentile. Blocks are what the kernel allocates in one piece, if it can: of one frame they would waste half of it.
const (
	slotSize      = 17 << 12 // the longest frame and what the kernel puts before it, in pages
	slotsPerBlock = 15
	blockSize     = 1 << 20
	blocks        = 17
	slots         = blocks * slotsPerBlock
)

// ring is the memory that a packet socket shares with the kernel (TPACKET_V2, packet_mmap.rst), which fills a slot after
// the other and passes none over that has not been given back. It is the reader's.
type ring struct {
	memory []byte
	next   int  // the slot to be filled next
	lent   int  // how many slots before it have been taken and not given back
	lost   bool // next is not known: the ring was another process's
}

func openRing(fd int) (*ring, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("TPACKET_V2: %w", err)
	}
	request := unix.TpacketReq{Block_size: blockSize, Block_nr: blocks, Frame_size: slotSize, Frame_nr: slots}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request); err != nil {
		return nil, fmt.Errorf("a ring of %d MiB: %w", blocks*blockSize>>20, err)
	}
	return mapRing(fd)
}

// adoptRing goes on with the ring that another process has made, and with the frames in it.
func adoptRing(fd int) (*ring, error) {
	version, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION)
	if err != nil || version != unix.TPACKET_V2 {
		return nil, fmt.Errorf("inherited socket: its ring has version %d: %w", version, err)
	}
	r, err := mapRing(fd) // of another size it can't be mapped
	if err != nil {
		return nil, err
	}
	r.lost = true
	return r, nil
}

func mapRing(fd int) (*ring, error) {
	memory, err := unix.Mmap(fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map a ring of %d MiB: %w", blocks*blockSize>>20, err)
	}
	return &ring{memory: memory}, nil
}

func (r *ring) slot(i int) *slot {
	return (*slot)(unsafe.Pointer(&r.memory[i/slotsPerBlock*blockSize+i%slotsPerBlock*slotSize]))
}

// slot is a frame's place: header, address, vnet header, frame.
type slot struct {
	header unix.Tpacket2Hdr
	_      [slotSize - unsafe.Sizeof(unix.Tpacket2Hdr{})]byte
}

// take returns the next frame, nil if there is none. fit is false of one that is not there as a whole.
func (r *ring) take() (frame []byte, fit bool) {
	if r.lent == slots || r.lost && !r.find() {
		return nil, false
	}
	s := r.slot(r.next)
	if atomic.LoadUint32(&s.header.Status)&unix.TP_STATUS_USER == 0 {
		return nil, false
	}
	if r.next++; r.next == slots {
		r.next = 0
	}
	r.lent++
	memory := (*[slotSize]byte)(unsafe.Pointer(s))
	at := int(s.header.Mac) - packet.VnetLen
	length := int(s.header.Snaplen)
	fit = length == int(s.header.Len) && length <= packet.EthernetLen+packet.MaxPacket
	return memory[at : at+packet.VnetLen+length], fit
}

// find looks for the oldest frame, which the kernel has put behind a slot that it has still to fill. As long as there is none nothing
// tells which slot that is.
func (r *ring) find() bool {
	for i := range slots {
		if r.filled(i) {
			r.next, r.lost = r.oldest(i), false
			return true
		}
	}
	return false
}

// oldest goes back from a frame to the first in its row. In a full ring that is the one that came first.
func (r *ring) oldest(i int) int {
	first := i
	for range slots {
		if i = (i + slots - 1) % slots; !r.filled(i) {
			return (i + 1) % slots
		}
		if r.slot(i).came() < r.slot(first).came() {
			first = i
		}
	}
	return first
}

func (r *ring) filled(i int) bool {
	return atomic.LoadUint32(&r.slot(i).header.Status)&unix.TP_STATUS_USER != 0
}

// came is when a frame came, in nanoseconds.
func (s *slot) came() uint64 { return uint64(s.header.Sec)*1e9 + uint64(s.header.Nsec) }

// giveBack returns all slots to the kernel.
func (r *ring) giveBack() {
	for ; r.lent > 0; r.lent-- {
		i := r.next - r.lent
		if i < 0 {
			i += slots
		}
		atomic.StoreUint32(&r.slot(i).header.Status, unix.TP_STATUS_KERNEL)
	}
}

func (r *ring) close() error { return unix.Munmap(r.memory) }

// lending says who has the memory of a ring: frames outlive the call that brought them, and the socket lives as long as its
// memory. Where a port closes with frames lent it is the reader's next call that ends it all.
type lending struct{ state atomic.Uint32 }

const (
	lentNone uint32 = iota
	lentSome
	lentLast // the port is closed but for what is lent
)

// set says whether the reader has frames from now on. It is called inside the gate, where there is no Close.
func (l *lending) set(some bool) {
	if some == l.some() {
		return
	}
	state := lentNone
	if some {
		state = lentSome
	}
	l.state.Store(state)
}

func (l *lending) some() bool { return l.state.Load() == lentSome }

// postpone is Close's question whether to leave the end to the reader.
func (l *lending) postpone() bool { return l.state.CompareAndSwap(lentSome, lentLast) }

// end is said by a reader who has found the port closed: nothing is lent any more. It returns whether the end is left to it.
func (l *lending) end() bool { return l.state.Swap(lentNone) == lentLast }

// ringPort is the port of a packet socket.
type ringPort struct {
	*rawPort
	socket *packetSocket
}

// Receive implements Ring. It waits only when there is no frame: under load it makes no system call.
func (p *ringPort) Receive(frames [][]byte) (int, error) {
	if len(frames) == 0 {
		return 0, io.ErrShortBuffer
	}
	if !p.calls.enter() {
		return 0, p.ended()
	}
	defer p.calls.leave()
	for {
		n, err := p.socket.take(frames)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			if err := p.awaitFrame(-1); err != nil {
				return 0, err
			}
		default:
			return 0, p.wrap("read", err)
		}
	}
}

// TryReceive implements Ring.
func (p *ringPort) TryReceive(frames [][]byte) (int, error) {
	if len(frames) == 0 {
		return 0, io.ErrShortBuffer
	}
	if !p.calls.enter() {
		return 0, p.ended()
	}
	defer p.calls.leave()
	n, err := p.socket.take(frames)
	if err != nil && err != unix.EAGAIN {
		return 0, p.wrap("read", err)
	}
	return n, nil
}

// TryRead copies one frame.
func (p *ringPort) TryRead(frame []byte) (int, error) {
	n, err := p.rawPort.TryRead(frame)
	if err == os.ErrClosed {
		err = p.ended()
	}
	return n, err
}

// Read copies one frame.
func (p *ringPort) Read(frame []byte) (int, error) {
	n, err := p.rawPort.Read(frame)
	if err == os.ErrClosed {
		err = p.ended()
	}
	return n, err
}

func (p *ringPort) ended() error {
	if p.socket.lending.end() {
		p.socket.release()
	}
	return os.ErrClosed
}

// SetClaim implements Claimer.
func (p *ringPort) SetClaim(claim packet.Claim) error {
	if !p.calls.enter() {
		return os.ErrClosed
	}
	defer p.calls.leave()
	if !p.socket.claims {
		return fmt.Errorf("set the claim of %s: the port was opened without one", p.Name())
	}
	if err := attachClaim(p.in, claim); err != nil {
		return fmt.Errorf("set the claim of %s: %w", p.Name(), err)
	}
	return nil
}
