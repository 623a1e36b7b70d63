package port

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// numberOf is what numbered has put in.
func numberOf(frame []byte) int {
	return int(binary.BigEndian.Uint32(frame[packet.VnetLen+packet.EthernetLen:]))
}

// duplicate is a port's descriptor as a successor has it.
func duplicate(t *testing.T, p Port) int {
	t.Helper()
	fd, ok := Descriptor(p)
	if !ok {
		t.Fatal("the port has no descriptor")
	}
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	must(t, err)
	return fd
}

// TestRingInherited: a ring goes from one port to the next, wherever it is just then, empty or full, with frames lent or not, and
// none is lost, comes twice or in another order but for those that were lent.
func TestRingInherited(t *testing.T) {
	y := newYard(t)
	random := rand.New(rand.NewPCG(6, 7))
	ring, frames := y.Ring, make([][]byte, 64)
	sent, got := 0, 0
	send := func(n int) {
		var out [][]byte
		for range n {
			out = append(out, numbered(sent, 60+random.IntN(100)))
			sent++
		}
		y.send(t, out...)
	}
	full := false
	// receive takes frames until the given one, and returns the first that is lent.
	receive := func(until int) (first int) {
		for got < until {
			first = got
			n, err := ring.TryReceive(frames)
			must(t, err)
			if n == 0 && full { // the others found no room
				if lost := sent - got; lost < 50 || lost > 50+100 {
					t.Errorf("%d frames found no room", lost)
				}
				got, full = sent, false
			}
			for _, frame := range experiments(frames[:n]) {
				if number := numberOf(frame); number != got {
					t.Fatalf("frame %d in place of %d", number, got)
				}
				got++
			}
		}
		return first
	}
	var killed []Ring
	for i := range 60 {
		switch i % 4 {
		case 0: // empty, all given back
			send(random.IntN(200))
			receive(sent)
			if n, err := ring.TryReceive(frames); err != nil || len(experiments(frames[:n])) > 0 {
				t.Fatalf("%d frames more: %v", n, err)
			}
		case 1: // with some lent and some waiting
			send(100)
			receive(sent - 64)
		case 2: // full; what does not fit is lost
			ring.TryReceive(frames) // gives back what is lent
			send(slots + 50)
			full = true
		}
		fd := duplicate(t, ring)
		switch i % 4 {
		case 3: // killed with frames in hand, which come again
			send(50)
			got = receive(got + 1)
			killed = append(killed, ring)
		case 2:
			killed = append(killed, ring)
		default:
			must(t, ring.Close())
			if n, err := ring.TryReceive(frames); n > 0 || err == nil {
				t.Fatalf("the closed one brings %d frames: %v", n, err)
			}
		}
		if i%4 != 2 {
			send(random.IntN(50)) // in the gap
		}
		p, err := OpenPacket(PacketConfig{Interface: "p0", NetNS: y.lan.path, Inherited: fd})
		must(t, err)
		ring = p.(Ring)
		if own, _ := Descriptor(ring); own != fd {
			t.Fatal("the port is not on the inherited socket")
		}
		receive(sent)
	}
	for _, ring := range append(killed, ring) {
		must(t, ring.Close())
		ring.TryReceive(frames)
	}
	if sent < 5000 {
		t.Errorf("only %d frames were sent", sent)
	}
}

// TestRingInheritedRefused: a socket on another interface, or something else, is closed, and the port is a new one.
func TestRingInheritedRefused(t *testing.T) {
	y, other := newYard(t), newYard(t)
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	for _, fd := range []int{duplicate(t, other.Ring), null} { // of the same number in another namespace
		p, err := OpenPacket(PacketConfig{Interface: "p0", NetNS: y.lan.path, Inherited: fd})
		must(t, err)
		if own, _ := Descriptor(p); own == fd && listed(t, fd) {
			var at unix.Stat_t
			must(t, unix.Fstat(fd, &at))
			if at.Mode&unix.S_IFMT != unix.S_IFSOCK {
				t.Error("the port is on what it can't be")
			}
		}
		y.send(t, numbered(1, 100))
		frames := make([][]byte, 8)
		for seen := false; !seen; {
			n, err := p.(Ring).Receive(frames)
			must(t, err)
			seen = len(experiments(frames[:n])) > 0
		}
		must(t, p.Close())
		p.(Ring).TryReceive(frames)
	}
}
