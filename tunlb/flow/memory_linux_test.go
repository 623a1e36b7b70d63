package flow

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// The pages of the last slab may be huge ones, by the flag that the kernel shows of their mapping.
func TestHugePagesAreAsked(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this kernel has no transparent huge pages")
	}
	table := New(Options{})
	for i := range uint32(3 << slabBits) {
		outer, inner := tuples(i)
		mustInsert(t, table, outer, inner, 0)
	}
	for name, at := range map[string]unsafe.Pointer{
		"slab": unsafe.Pointer(&table.slabs[2][0]),
		"page": unsafe.Pointer(table.index.dir[len(table.index.dir)-1]),
	} {
		if flags := mappingFlags(t, uintptr(at)+1<<14); !slices.Contains(flags, "hg") {
			t.Errorf("%s: flags %v, want hg among them", name, flags)
		}
	}
}

// mappingFlags are those of the mapping that has an address, see proc_pid_smaps(5).
func mappingFlags(t *testing.T, at uintptr) []string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("no mapping has %x", at)
	return nil
}

// Less than a page, and what does not begin or end with one.
func TestAdviceOfAnySize(t *testing.T) {
	b := make([]byte, 1<<16)
	for _, size := range []int{1, 4095, 4096, 4097, 1<<16 - 1, 1 << 16} {
		for _, start := range []int{0, 1, 4095} {
			if start < size {
				adviseHuge(b[start:size])
			}
		}
	}
}
