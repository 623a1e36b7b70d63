package nft

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/tunlb/tunlb/labnet/netns"
	"golang.org/x/sys/unix"
)

// witness sends numbered frames to one of the box's interfaces and tells which of them get past what else is at its
// ingress, the latest there counting those that come that far by the number in their source MAC.
type witness struct {
	t       testing.TB
	socket  *socket
	table   string
	out     int // packet socket of the far end
	box     netns.MAC
	counted map[uint32]uint64
	rounds  uint64
}

const (
	witnessed  = 64     // numbers
	endOfRound = 0x88b5 // ethertype for experiments (IEEE 802)
	lastComer  = 300    // priority
)

func (l *lab) witness(t testing.TB) *witness {
	t.Helper()
	w := &witness{t: t, box: l.macs["clients"], counted: map[uint32]uint64{}}
	var err error
	w.socket, err = open(l.box.Path())
	must(t, err)
	t.Cleanup(func() { w.socket.close() })

	var b batch
	w.table = fmt.Sprint("witness", w.socket.port)
	w.socket.start(&b, w.table)
	b.ownTable()
	arrived := &set{name: "arrived", key: []field{fieldMark}, size: witnessed, counts: []string{"counter"}}
	b.set(1, arrived)
	var numbers [][]byte
	for n := range uint32(witnessed) {
		numbers = append(numbers, keyOf(n))
	}
	b.elements(1, arrived, numbers)
	b.ingress("clients", lastComer)
	b.rule(ingressChain("clients"), "count", load(ethernet, 8, 4, reg0), in("arrived", reg0))
	must(t, w.socket.apply(&b))

	must(t, l.client.Do(func() (err error) {
		w.out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(w.out) })
	link, err := l.client.Handle().LinkByName("eth0")
	must(t, err)
	must(t, unix.Bind(w.out, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}))
	return w
}

// pass sends Ethernet frames, whose source MAC it overwrites, and tells which get past.
func (w *witness) pass(frames [][]byte) []bool {
	w.t.Helper()
	if len(frames) >= witnessed {
		w.t.Fatalf("%d frames at a time", len(frames))
	}
	defer onOneCPU(w.t)() // each has a queue of its own, and frames are to come in their order
	for i, f := range frames {
		w.send(uint32(i+1), f)
	}
	w.rounds++
	end := make([]byte, 60)
	copy(end, w.box[:])
	binary.BigEndian.PutUint16(end[12:], endOfRound)
	w.send(0, end)
	before := w.counted
	eventually(w.t, "the end of a round", func() bool {
		w.counted = w.counts()
		return w.counted[0] == w.rounds
	})
	passed := make([]bool, len(frames))
	for i := range frames {
		passed[i] = w.counted[uint32(i+1)] > before[uint32(i+1)]
	}
	return passed
}

func (w *witness) send(number uint32, frame []byte) {
	copy(frame[6:], []byte{2, 0, 0, 0, 0, 0})
	binary.BigEndian.PutUint32(frame[8:], number)
	if err := unix.Send(w.out, frame, 0); err != nil {
		w.t.Fatal(err)
	}
}

func (w *witness) counts() map[uint32]uint64 {
	counts := map[uint32]uint64{}
	var b batch
	b.begin(w.table, w.socket.next)
	b.plain(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
	b.text(unix.NFTA_SET_ELEM_LIST_SET, "arrived")
	must(w.t, w.socket.dump(&b, func(m message) {
		for typ, list := range m.attributes() {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, element := range attributes(list) {
				number, packets := counted(element)
				counts[number] = packets
			}
		}
	}))
	return counts
}

func counted(element []byte) (key uint32, packets uint64) {
	for typ, value := range attributes(element) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			key = binary.BigEndian.Uint32(valueOf(value))
		case unix.NFTA_SET_ELEM_EXPR:
			for typ, value := range attributes(value) {
				if typ == unix.NFTA_EXPR_DATA {
					packets = number(value, unix.NFTA_COUNTER_PACKETS)
				}
			}
		}
	}
	return key, packets
}

// onOneCPU keeps the thread where it is until undone.
func onOneCPU(t testing.TB) (undo func()) {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	return func() {
		must(t, unix.SchedSetaffinity(0, &all))
		runtime.UnlockOSThread()
	}
}
