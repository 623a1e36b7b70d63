//go:build unix

package keeper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRoot refuses directories that others could have put there, or look into.
func TestRoot(t *testing.T) {
	run := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	parent := filepath.Join(run, "tunlb")
	root, err := Root()
	if err != nil || root != filepath.Join(parent, "labs") {
		t.Fatalf("%s, %v", root, err)
	}
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"readable", func() error { return os.Chmod(root, 0o755) }, "open to others"},
		{"writable", func() error { return os.Chmod(parent, 0o777) }, "others can write"},
		{"a link", func() error {
			if err := os.Rename(parent, parent+"2"); err != nil {
				return err
			}
			return os.Symlink(parent+"2", parent)
		}, "no directory"},
	} {
		if err := tt.do(); err != nil {
			t.Fatal(err)
		}
		if _, err := Root(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	strange := filepath.Join(t.TempDir(), "strange")
	if err := os.Mkdir(strange, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(strange, 12345, 12345); err != nil {
		t.Skip(err) // a user namespace
	}
	if err := owned(strange); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("somebody else's: %v", err)
	}
	t.Setenv("XDG_RUNTIME_DIR", strange)
	t.Setenv("TMPDIR", run)
	if root, err := Root(); err != nil || !strings.HasPrefix(root, run+"/") {
		t.Errorf("with somebody else's runtime directory: %s, %v", root, err)
	}
}
