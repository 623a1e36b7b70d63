package doctor

import (
	"errors"
	"io/fs"
	"testing"
)

// TestLookInto: what is no network namespace is told from what is not there.
func TestLookInto(t *testing.T) {
	for path, want := range map[string]error{"/proc/self/ns/uts": errNotNetNS, "/proc/self/status": errNotNetNS, "/nowhere": fs.ErrNotExist, "": nil} {
		if got := lookInto(path).err; !errors.Is(got, want) {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
}
