package scenario

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGraph draws what is shipped in every format. `go test ./labnet/scenario -run TestGraph -update` writes the files.
func TestGraph(t *testing.T) {
	for _, name := range Shipped() {
		f, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range Formats() {
			got, err := Graph(f, format)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "graph", name+"."+format)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s: %s", golden, diff)
			}
			for _, h := range f.Hosts {
				if !strings.Contains(got, h.Name) {
					t.Errorf("%s in %s has no %s", name, format, h.Name)
				}
			}
			if format == "svg" {
				wellFormed(t, got)
			}
		}
	}
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Errorf("no XML: %v", err)
			return
		}
	}
}

// TestGraphSaysLinks: what links and servers do is in the picture.
func TestGraphSaysLinks(t *testing.T) {
	f, err := Parse("f", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range Formats() {
		got, err := Graph(f, format)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"outside (delay 1ms, loss 0.1%, reorder 1%)", "delay 2ms", "mtu 9000", "http 80, failing with 503, slow by 100ms", "udp-echo 7, silent", "203.0.113.22", "203.0.113.9"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s has no %q:\n%s", format, want, got)
			}
		}
	}
	if _, err := Graph(f, "svgx"); err == nil || !strings.Contains(err.Error(), `write "svg"`) {
		t.Errorf("unknown format: %v", err)
	}
}
