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

// Whoever has forged addresses makes one-way flows established with two packets, and datagrams' flows assured with three. They keep nobody out
// for longer than they are kept alive; connections whose clients have shown that they hear the server stay.
func TestEvictFeigned(t *testing.T) {
	for name, feign := range map[string]func(*Table, uint32, Tick) *Flow{
		"one-way": func(table *Table, i uint32, now Tick) *Flow {
			outer, _ := tuples(i)
			f := mustInsert(t, table, outer, outer, now)
			f.SetOneWay()
			table.Track(f, Forward, tcpView(syn, 100, 0, 0), now)
			table.Track(f, Forward, tcpView(ack, 101, 77, 0), now)
			return f
		},
		"datagrams": func(table *Table, i uint32, now Tick) *Flow {
			outer, inner := udpFlow(i)
			f := mustInsert(t, table, outer, inner, now)
			table.Track(f, Forward, udpView(10), now)
			table.Track(f, Reverse, udpView(10), now)
			table.Track(f, Forward, udpView(10), now)
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := New(Options{Cap: 100})
			firm := established(t, table, 1000, 5000)
			var flows []*Flow
			for i := range uint32(99) {
				f := feign(table, 1000+i, 0)
				if !f.Assured() {
					t.Fatal("not assured")
				}
				flows = append(flows, f)
			}
			lively := flows[:9]
			insert := func(i uint32, now Tick) error {
				outer, inner := tuples(i)
				_, err := table.Insert(outer, inner, now)
				return err
			}
			if err := insert(5000, feignedIdle-1); !errors.Is(err, ErrFull) {
				t.Fatalf("while all are in use: %v", err)
			}
			for _, f := range lively {
				table.Track(f, Forward, tcpView(ack, 101, 77, 0), feignedIdle-1)
			}
			for i := range uint32(90) {
				if err := insert(5000+i, feignedIdle); err != nil {
					t.Fatalf("insert %d: %v", i, err)
				}
				outer, _ := tuples(5000 + i)
				f, _ := table.Find(&outer)
				table.Track(f, Forward, tcpView(syn, 1, 0, 0), feignedIdle)
				table.Track(f, Reverse, tcpView(synAck, 7, 2, 0), feignedIdle)
				table.Track(f, Forward, tcpView(ack, 2, 8, 0), feignedIdle)
				checkTable(t, table)
			}
			for _, f := range append(lively, firm) {
				if outer := f.Outer(); f.flags == 0 || table.Len() != 100 {
					t.Errorf("%v was evicted", outer)
				}
			}
			if err := insert(7000, feignedIdle); !errors.Is(err, ErrFull) {
				t.Errorf("with none that gives way: %v", err)
			}
		})
	}
}
