package flow

import (
	"errors"
	"math/bits"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

func TestInsertTranslated(t *testing.T) {
	table := New(Options{})
	outer := tuple(packet.ProtoTCP, "192.168.0.11:40000", "203.0.113.22:80")
	inner := tuple(packet.ProtoTCP, "192.168.0.100:0", "192.168.0.10:8080")
	f, err := table.InsertTranslated(outer, inner, 32768, 60999, 0)
	if err != nil || f.Inner().SrcPort != 40000 || !f.Translated() {
		t.Fatalf("own port: %v, %v", f, err)
	}
	if _, err := table.InsertTranslated(outer, inner, 32768, 60999, 0); !errors.Is(err, ErrCollision) {
		t.Errorf("same client twice: %v", err)
	}
	for _, client := range []string{"192.168.0.12:40000", "192.168.0.12:1000"} { // taken; out of range
		outer := tuple(packet.ProtoTCP, client, "203.0.113.22:80")
		f, err := table.InsertTranslated(outer, inner, 32768, 60999, 0)
		if err != nil {
			t.Fatal(err)
		}
		if port := f.Inner().SrcPort; port == 40000 || port < 32768 || port > 60999 {
			t.Errorf("%s: port %d", client, port)
		}
		answer := f.Inner().Reverse()
		if got, d := table.Find(&answer); got != f || d != Reverse {
			t.Errorf("%s: answers are not found", client)
		}
	}
	checkTable(t, table)
}

func TestTranslatedEcho(t *testing.T) {
	table := New(Options{})
	inner := tuple(packet.ProtoICMP, "192.168.0.100:0", "192.168.0.10:0")
	for i, client := range []string{"192.168.0.11:77", "192.168.0.12:77"} {
		outer := tuple(packet.ProtoICMP, client, "203.0.113.22:0")
		f, err := table.InsertTranslated(outer, inner, 1, 65535, 0)
		if err != nil || (f.Inner().SrcPort == 77) != (i == 0) || f.Inner().DstPort != 0 {
			t.Errorf("%s: %v, %v", client, f.Inner(), err)
		}
	}
}

// All ports of a small range are used; then it is exhausted, and a freed one is found again.
func TestPortsExhausted(t *testing.T) {
	table := New(Options{})
	const first, last = 50000, 50000 + portProbes - 1
	inner := tuple(packet.ProtoTCP, "192.168.0.100:0", "192.168.0.10:8080")
	ports := map[uint16]bool{}
	var any *Flow
	for i := range uint32(portProbes) {
		outer, _ := tuples(i)
		f, err := table.InsertTranslated(outer, inner, first, last, 0)
		if err != nil {
			t.Fatalf("after %d ports: %v", i, err)
		}
		ports[f.Inner().SrcPort] = true
		any = f
	}
	if len(ports) != portProbes {
		t.Errorf("%d ports", len(ports))
	}
	outer, _ := tuples(10_000)
	if _, err := table.InsertTranslated(outer, inner, first, last, 0); !errors.Is(err, ErrPorts) {
		t.Fatalf("got %v", err)
	}
	elsewhere := tuple(packet.ProtoTCP, "192.168.0.100:0", "192.168.0.11:8080")
	if _, err := table.InsertTranslated(outer, elsewhere, first, last, 0); err != nil {
		t.Errorf("another server's ports are free: %v", err)
	}
	free := any.Inner().SrcPort
	table.Delete(any)
	outer, _ = tuples(10_001)
	if f, err := table.InsertTranslated(outer, inner, first, last, 0); err != nil || f.Inner().SrcPort != free {
		t.Errorf("freed port %d: %v", free, err)
	}
	if _, err := table.InsertTranslated(families[0].outer, inner, 2, 1, 0); !errors.Is(err, ErrPorts) {
		t.Errorf("empty range: %v", err)
	}
	checkTable(t, table)
}

// Ports are spread, and a range that is nine tenths full still serves.
func TestTranslatedPortsSpread(t *testing.T) {
	table := New(Options{})
	inner := tuple(packet.ProtoTCP, "192.168.0.100:0", "192.168.0.10:8080")
	const first, last, size = 32768, 65535, 32768
	var eighths [8]int
	for i := range uint32(size * 9 / 10) {
		outer, _ := tuples(i << 15) // all clients have port 1024
		f, err := table.InsertTranslated(outer, inner, first, last, 0)
		if err != nil {
			t.Fatalf("after %d ports: %v", i, err)
		}
		if i < 8000 {
			eighths[(f.Inner().SrcPort-first)>>(bits.Len(size-1)-3)]++
		}
	}
	for _, n := range eighths {
		if n < 850 || n > 1150 {
			t.Errorf("ports by eighth of the range: %v", eighths)
		}
	}
}
