package importer_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/importer"
	"github.com/tunlb/tunlb/tunlb/ipvs"
	"github.com/tunlb/tunlb/tunlb/keepalived"
)

var update = flag.Bool("update", false, "write testdata/*.yaml")

// ports make a file complete.
const ports = "ports: [{addresses: [10.255.0.1/30, \"fd00:7474::1/126\"]}, {type: tap, addresses: [10.0.0.2/24, \"2001:db8::2/64\"]}]\n"

func TestIPVSADM(t *testing.T) {
	names, err := ipvs.Names{}.WithServices(strings.NewReader("http 80/tcp\n"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open("testdata/saved.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := importer.IPVSADM(in, names)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/saved.yaml", out)
}

func TestKeepalived(t *testing.T) {
	text, err := os.ReadFile("testdata/keepalived.conf")
	if err != nil {
		t.Fatal(err)
	}
	out, err := importer.Keepalived(keepalived.Source{Name: "keepalived.conf", Text: text}, func(from, pattern string) (files []keepalived.Source, err error) {
		names, err := filepath.Glob(filepath.Join("testdata", filepath.Dir(from), pattern))
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, keepalived.Source{Name: filepath.Base(name), Text: text})
		}
		return files, err
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/keepalived.yaml", out)
	line, _, _ := strings.Cut(string(out), "\n")
	if got := importer.Warning(out); got == "" || line != "# WARNING: "+got {
		t.Errorf("got the warning %q, and the first line %q", got, line)
	}
	if got := importer.Warning(out[len(line)+1:]); got != "" {
		t.Errorf("got the warning %q of a file without", got)
	}
}

// golden compares what is printed with the file, and has tunlb read it.
func golden(t *testing.T, name string, got []byte) {
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: got\n%s", name, got)
	}
	cfg, err := config.Parse(name, append([]byte(ports), got...))
	if err != nil {
		t.Fatalf("tunlb cannot read it: %v", err)
	}
	if n := strings.Count(string(got), "\n    listen: "); n == 0 || n != len(cfg.Services) {
		t.Errorf("%d services printed, %d read", n, len(cfg.Services))
	}
}

// TestHostile: a file's text stays in comments and strings.
func TestHostile(t *testing.T) {
	out, err := importer.Keepalived(keepalived.Source{Name: "k\nports: []", Text: []byte("x\u2028services: []\nvirtual_server 203.0.113.22 80 { virtualhost \"a\x01b\" \n real_server 192.168.0.1 80 { HTTP_GET { url { path \"/\x7f: #\" } } } }\n")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("x.yaml", append([]byte(ports), out...))
	if err != nil || len(cfg.Services) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := cfg.Services[0].Servers[0].Address; got != netip.MustParseAddrPort("192.168.0.1:80") {
		t.Errorf("server %v", got)
	}
}
