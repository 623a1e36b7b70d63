package fdstore

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		wired, name string
		generation  int
	}{
		{"control", "control", 0},
		{"control@1", "control", 1},
		{"tun.tl0@12", "tun.tl0", 12},
		{"tun.a@2@1", "tun.a@2", 1}, // a device may be called a@2
		{"a@0", "a@0", 0},
		{"a@01", "a@01", 0},
		{"a@-1", "a@-1", 0},
		{"a@", "a@", 0},
		{"@3", "", 3},
	} {
		name, generation := parseWire(c.wired)
		if name != c.name || generation != c.generation {
			t.Errorf("parseWire(%q) = %q, %d; want %q, %d", c.wired, name, generation, c.name, c.generation)
		}
		if got := wire(name, generation); got != c.wired {
			t.Errorf("wire(%q, %d) = %q, want %q", name, generation, got, c.wired)
		}
	}
}

func TestInheritedNames(t *testing.T) {
	for _, c := range []struct {
		pid, parent, fds, names string
		want                    []string
	}{
		{"7", "", "2", "a:b", []string{"a", "b"}},
		{"8", "", "2", "a:b", nil}, // another's
		{"", "", "2", "a:b", nil},
		{"", "6", "1", "a", []string{"a"}},
		{"", "7", "1", "a", nil}, // meant for our children
		{"7", "", "3", "a", []string{"a", "unknown.1", "unknown.2"}},
		{"7", "", "1", "a:b:c", []string{"a"}},
		{"7", "", "0", "", nil},
		{"7", "", "-1", "", nil},
		{"7", "", "x", "", nil},
		{"7", "", strconv.Itoa(maxDescriptors + 1), "", nil},
	} {
		env := map[string]string{"LISTEN_PID": c.pid, parentVariable: c.parent, "LISTEN_FDS": c.fds, "LISTEN_FDNAMES": c.names}
		got := inheritedNames(func(v string) string { return env[v] }, 7, 6)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, want %q", env, got, c.want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"", "a:b", "a\nFDSTORE=1", "ü", strings.Repeat("a", 241)} {
		if err := checkName(name); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	for _, name := range []string{"a", "tun.a b", strings.Repeat("a", 240)} {
		if err := checkName(name); err != nil {
			t.Error(err)
		}
	}
}
