package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfileCPU(t *testing.T) {
	end, err := profileCPU("")
	if err != nil || end() != nil {
		t.Fatalf("no profile: %v, then %v; want nothing to happen", err, end())
	}
	path := filepath.Join(t.TempDir(), "cpu.pprof")
	end, err = profileCPU(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) { // gzip, which go tool pprof reads
		t.Errorf("a profile of %d bytes that is no gzip", len(b))
	}
	if _, err := profileCPU(filepath.Join(path, "below")); err == nil || !strings.Contains(err.Error(), "--cpuprofile") {
		t.Errorf("a file that cannot be made: %v, want an error that names the flag", err)
	}
}
