package flow

import (
	"runtime"
	"testing"
)

// A million flows are what the table is sized for. What they take is all live heap, and the collector scans
// none of it.
func TestMemoryOfAMillionFlows(t *testing.T) {
	if testing.Short() {
		t.Skip("150 MiB")
	}
	const most, scanned = 160, 1 << 20
	for _, c := range []Options{{Cap: 1 << 20}, {Cap: 1 << 22}} {
		before, scan := heap(), sample("/gc/scan/heap:bytes").Uint64()
		table := New(c)
		const n = 1 << 20
		for i := range uint32(n) {
			outer, inner := tuples(i)
			mustInsert(t, table, outer, inner, 0)
		}
		if got := float64(heap()-before) / n; got > most {
			t.Errorf("cap %d: %.1f bytes of heap for each flow, want at most %d", c.Cap, got, most)
		}
		if got := int64(sample("/gc/scan/heap:bytes").Uint64() - scan); got > scanned {
			t.Errorf("cap %d: the collector scans %d bytes", c.Cap, got)
		}
		runtime.KeepAlive(table)
	}
}
