package flow

import (
	"errors"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

func TestEvictOldestUnassured(t *testing.T) {
	var gone []packet.Tuple
	table := New(Options{Cap: 100, Gone: func(f *Flow) { gone = append(gone, f.Outer()) }})
	now := Tick(0)
	add := func(i uint32) *Flow {
		outer, inner := tuples(i)
		f := mustInsert(t, table, outer, inner, now)
		table.Track(f, Forward, tcpView(syn, 1, 0, 0), now)
		return f
	}
	var flows []*Flow
	for i := range uint32(100) {
		flows = append(flows, add(i))
		now += 100
	}
	for _, f := range flows[:50] { // the oldest get an answer, and finish the handshake
		table.Track(f, Reverse, tcpView(synAck, 7, 2, 0), now)
		table.Track(f, Forward, tcpView(ack, 2, 8, 0), now)
	}
	table.Track(flows[50], Forward, tcpView(syn, 1, 0, 0), now) // the next is heard of again
	for i := range uint32(50) {
		add(1000 + i)
		want, _ := tuples(51 + i)
		if i == 49 {
			want, _ = tuples(50)
		}
		if len(gone) != int(i)+1 || gone[i] != want {
			t.Fatalf("insert %d: gone %v, want %v", i, gone[len(gone)-1], want)
		}
		checkTable(t, table)
	}
	if got := table.Stats().Evicted; got != 50 {
		t.Errorf("%d evicted", got)
	}
}

// Datagrams with their long timeout do not outlive half-open connections.
func TestEvictRegardlessOfTimeout(t *testing.T) {
	table := New(Options{Cap: 10})
	for i := range uint32(10) {
		outer, inner := udpFlow(i)
		mustInsert(t, table, outer, inner, 0)
	}
	outer, inner := tuples(100)
	f := mustInsert(t, table, outer, inner, 2000)
	table.Track(f, Forward, tcpView(syn, 1, 0, 0), 2000)
	for i := range uint32(9) {
		o, in := udpFlow(200 + i)
		mustInsert(t, table, o, in, 4000)
	}
	if got, _ := table.Find(&outer); got != f {
		t.Error("evicted before datagrams that are older")
	}
}

func TestFullOfAssured(t *testing.T) {
	gone := 0
	table := New(Options{Cap: 1000, Gone: func(*Flow) { gone++ }})
	establish(t, table, 1000)
	outer, inner := tuples(5000)
	if _, err := table.Insert(outer, inner, 0); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if _, err := table.InsertTranslated(outer, inner, 1, 65535, 0); !errors.Is(err, ErrFull) {
		t.Fatalf("translated: %v", err)
	}
	if gone != 0 || table.Len() != 1000 || table.Stats().Full != 2 {
		t.Errorf("%d gone, %+v", gone, table.Stats())
	}
	// A connection that is over makes room.
	tu, _ := tuples(17)
	f, _ := table.Find(&tu)
	table.Track(f, Reverse, tcpView(rst, 1, 0, 0), 0)
	if mustInsert(t, table, outer, inner, 0); gone != 1 {
		t.Errorf("%d gone", gone)
	}
	checkTable(t, table)
}
