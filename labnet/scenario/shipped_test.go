package scenario

import (
	"slices"
	"testing"
)

// TestShipped reads what comes with tunlb: without errors and without warnings.
func TestShipped(t *testing.T) {
	want := []string{"dr-inline", "dr-one-arm", "drain", "hairpin", "nat", "server-failure"}
	if got := Shipped(); !slices.Equal(got, want) {
		t.Errorf("shipped: %v, want %v", got, want)
	}
	for _, name := range Shipped() {
		f, err := Load(name)
		if err != nil {
			t.Errorf("%s:\n%v", name, err)
			continue
		}
		if f.Name != name {
			t.Errorf("%s calls itself %q", name, f.Name)
		}
		for _, w := range f.Warnings {
			t.Error(w)
		}
		if len(f.Steps) < 10 {
			t.Errorf("%s has %d steps only", name, len(f.Steps))
		}
	}
}
