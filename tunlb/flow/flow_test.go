package flow

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/tunlb/tunlb/stack/packet"
)

func TestFlowLayout(t *testing.T) {
	typ := reflect.TypeFor[Flow]()
	if typ.Size() != 128 {
		t.Errorf("Flow has %d bytes, want two cache lines of 64", typ.Size())
	}
	if at := unsafe.Offsetof(Flow{}.outerSrcPort); at != 64 {
		t.Errorf("the second line begins at %d", at)
	}
	used := uintptr(0)
	for i := range typ.NumField() {
		field := typ.Field(i)
		if !pointerFree(field.Type) {
			t.Errorf("%s has pointers: the collector would scan every slab", field.Name)
		}
		used += field.Type.Size()
	}
	if used != typ.Size() {
		t.Errorf("%d bytes of padding", typ.Size()-used)
	}
}

func pointerFree(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return pointerFree(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !pointerFree(t.Field(i).Type) {
				return false
			}
		}
		return true
	default:
		return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Float64
	}
}

func tuple(proto uint8, src, dst string) packet.Tuple {
	return packet.TupleOf(proto, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
}

var families = []struct {
	name         string
	outer, inner packet.Tuple
}{
	{
		"IPv4",
		tuple(packet.ProtoTCP, "198.51.100.7:40000", "203.0.113.22:80"),
		tuple(packet.ProtoTCP, "198.51.100.7:40000", "192.168.0.10:8080"),
	},
	{
		"IPv6, source translated",
		tuple(packet.ProtoTCP, "[2001:db8::7]:40000", "[2001:db8::22]:80"),
		tuple(packet.ProtoTCP, "[fd00::100]:41000", "[fd00::10]:8080"),
	},
}

func TestFlowIsFoundFromBothSides(t *testing.T) {
	for _, c := range families {
		table := New(Options{})
		f := mustInsert(t, table, c.outer, c.inner, 0)
		if f.Outer() != c.outer || f.Inner() != c.inner {
			t.Errorf("%s: flow is %v, %v", c.name, f.Outer(), f.Inner())
		}
		answer := c.inner.Reverse()
		for d, tu := range []packet.Tuple{c.outer, answer} {
			got, dir := table.Find(&tu)
			if got != f || dir != Direction(d) {
				t.Errorf("%s: Find(%v) = %p, %v, want %p, %v", c.name, tu, got, dir, f, Direction(d))
			}
		}
		if got, want := f.Edit(Forward), packet.NewEdit(c.outer, c.inner); got != want {
			t.Errorf("%s: forward edit %v, want %v", c.name, got, want)
		}
		want := packet.NewEdit(answer, c.outer.Reverse())
		got := f.Edit(Reverse)
		if got.To != want.To || !sameDelta(got.Delta, want.Delta) {
			t.Errorf("%s: reverse edit %v, want %v", c.name, got, want)
		}
		if got, want := f.Translated(), c.outer.Src != c.inner.Src; got != want {
			t.Errorf("%s: Translated %v, want %v", c.name, got, want)
		}
	}
}

// sameDelta knows that one's complement has two zeros.
func sameDelta(a, b packet.Delta) bool {
	same := func(a, b uint16) bool { return a == b || a == ^b && (a == 0 || b == 0) }
	return same(a.Addr, b.Addr) && same(a.Port, b.Port)
}

func TestSnapshot(t *testing.T) {
	table := New(Options{})
	c := families[0]
	f := mustInsert(t, table, c.outer, c.inner, 1000)
	f.SetServer(7)
	f.SetExit(Forward, 2)
	f.SetExit(Reverse, 3)
	table.Track(f, Forward, tcpView(packet.TCPSyn, 1, 0, 0), 2000)
	f.addBytes(Reverse, 1<<40)
	f.addBytes(Reverse, 1<<31)
	f.addBytes(Reverse, 1<<31)
	want := Snapshot{
		Proto: packet.ProtoTCP, State: StateSynRecv,
		Client: c.outer.Source(), Virtual: c.outer.Destination(),
		Source: c.inner.Source(), Server: c.inner.Destination(),
		Expires: 59500 * time.Millisecond, Bytes: [2]uint64{40, 1<<40 + 1<<32},
		ServerID: 7, Exits: [2]uint8{2, 3},
	}
	if got := table.Snapshot(f, 2500); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := table.Snapshot(f, 1<<20); got.Expires != 0 {
		t.Errorf("overdue: expires %v", got.Expires)
	}
}

func TestTimeouts(t *testing.T) {
	custom := Timeouts{Established: 5 * time.Second, UDP: 1500 * time.Microsecond, FinWait: 10 * MaxTimeout}
	table := New(Options{Timeouts: custom})
	table.SetClass(FirstClass, Timeouts{Established: time.Second})
	for _, c := range []struct {
		class uint8
		state State
		want  Tick
	}{
		{0, StateEstablished, 5000},
		{0, StateUDP, 2}, // rounded up
		{0, StateFinWait, ticks(MaxTimeout)},
		{0, StateClose, 10_000},
		{0, StateICMP, 60_000},
		{1, StateEstablished, (2*60 + 4) * 60_000},
		{1, StateSynRecv, 240_000},
		{1, StateTimeWait, 240_000},
		{1, StateUDP, 2},
		{FirstClass, StateEstablished, 1000},
		{FirstClass, StateUDP, 300_000},
	} {
		if got := table.timeouts[c.class][c.state]; got != c.want {
			t.Errorf("class %d, %v: %d ms, want %d", c.class, c.state, got, c.want)
		}
	}
}
