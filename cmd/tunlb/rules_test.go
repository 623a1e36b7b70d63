package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tunlb/tunlb"

// rules say what a package may import besides the standard library, and why. A trailing /... means
// everything below. Test files are free.
var rules = map[string]struct {
	may []string
	why string
}{
	"policy":           {nil, "scheduling is pure: no I/O, testable without a packet"},
	"stack/packet":     {nil, "the bytes of one frame need nothing but the standard library"},
	"stack/port":       {[]string{"stack/packet", "golang.zx2c4.com/wireguard/tun", "golang.org/x/sys/..."}, "a port moves frames and knows nothing of what is in them"},
	"stack/neigh":      {[]string{"stack/packet"}, "who is where on a segment is decided without I/O, goroutines or a clock"},
	"stack/kernel":     {[]string{"github.com/gaissmai/bart", "github.com/vishvananda/...", "golang.org/x/sys/..."}, "what the kernel is told does not depend on how packets move; a copy of its routes takes a trie"},
	"stack/nft":        {[]string{"stack/packet", "github.com/vishvananda/...", "golang.org/x/sys/..."}, "what the kernel's packet filter does for us does not depend on how packets move"},
	"stack":            {[]string{"stack/packet", "gvisor.dev/gvisor/...", "github.com/rs/zerolog"}, "gVisor's stack moves its API: one package knows it"},
	"tunlb/fdstore":    {[]string{"golang.org/x/sys/..."}, "what the descriptors are that outlive a process is not the store's business"},
	"tunlb/keep":       {[]string{"golang.org/x/sys/..."}, "memory that outlives a process does not know what is in it"},
	"tunlb/flow":       {[]string{"stack/packet"}, "the connection table is a data structure"},
	"tunlb/keepalived": {[]string{"policy"}, "another program's file is read, and nothing else"},
	"tunlb/importer":   {[]string{"policy", "tunlb/config", "tunlb/ipvs", "tunlb/keepalived"}, "what others configured becomes text"},
	"tunlb/ipvs":       {[]string{"policy"}, "ipvsadm's language is text in, text out"},
	"tunlb/config":     {[]string{"policy", "tunlb/config/syntax", "tunlb/config/wording", "github.com/goccy/go-yaml/..."}, "a file is checked without a machine"},
	"tunlb/health":     {[]string{"policy", "tunlb/fdstore"}, "probes dial by an injected dialer and know no engine; what they execute gets nothing that a service manager has said to us"},
	"tunlb": {[]string{"policy", "stack", "stack/neigh", "stack/packet", "stack/port", "tunlb/flow", "tunlb/keep", "tunlb/watch", "github.com/rs/zerolog",
		"github.com/gaissmai/bart", "golang.org/x/time/rate"}, "the engine works on ports and tells no kernel anything"},
	"tunlb/config/aside":      {[]string{"tunlb/config"}, "another process reads the file, and knows no more than how"},
	"tunlb/config/syntax":     {[]string{"github.com/goccy/go-yaml/..."}, "one place goes around the YAML library's faults, for every kind of file"},
	"tunlb/config/wording":    {nil, "what is said of a word depends on no file and no language"},
	"tunlb/watch":             {[]string{"policy", "stack/packet", "tunlb/config/wording"}, "who looks on needs no engine: only the names of reasons"},
	"tunlb/trace":             {[]string{"policy", "stack/packet", "tunlb/watch"}, "a journey is read from its record, and from nothing else"},
	"tunlb/capture":           {[]string{"stack/packet", "tunlb/watch"}, "a file of packets is bytes in, bytes out"},
	"tunlb/replay":            {[]string{"policy", "stack", "stack/neigh", "stack/packet", "stack/port", "tunlb", "tunlb/capture", "tunlb/config", "tunlb/watch", "tunlb/wiring", "github.com/rs/zerolog"}, "an engine without a machine"},
	"tunlb/wiring":            {[]string{"policy", "stack/neigh", "stack/packet", "stack/port", "tunlb", "tunlb/config", "tunlb/health", "tunlb/ipvs"}, "what is configured, as engine and checks take it"},
	"tunlb/metrics":           {[]string{"stack/packet", "tunlb", "tunlb/gate", "tunlb/logging", "github.com/prometheus/..."}, "metrics are another view of the status, with all the reasons that there are, and of what clients and log were denied"},
	"tunlb/top":               {[]string{"tunlb", "tunlb/control", "tunlb/trace", "tunlb/watch", "charm.land/...", "github.com/charmbracelet/..."}, "a view asks as any client does"},
	"tunlb/gate":              {nil, "connections are counted whoever asks for whatever"},
	"tunlb/logging":           {[]string{"github.com/rs/zerolog"}, "what is said is bounded without knowing who says it"},
	"tunlb/control":           {[]string{"tunlb", "tunlb/capture", "tunlb/gate", "tunlb/ipvs", "tunlb/logging", "tunlb/watch", "github.com/rs/zerolog"}, "control serves what the engine says"},
	"tunlb/doctor":            {[]string{"policy", "stack/nft", "stack/packet", "tunlb", "tunlb/config", "tunlb/control", "github.com/vishvananda/...", "golang.org/x/sys/..."}, "checks look at the machine, and change nothing: what the packet filter can, trying tells"},
	"labnet":                  {[]string{"labnet/netns"}, "a topology does not know how packets are balanced"},
	"labnet/scenario":         {[]string{"labnet", "stack/packet", "tunlb", "tunlb/config", "tunlb/config/syntax", "tunlb/config/wording", "tunlb/control", "github.com/goccy/go-yaml/..."}, "a lab's file and its steps are the same for every driver; steps give the director orders and know its reasons for drops"},
	"labnet/namespaces":       {[]string{"labnet", "labnet/netns", "labnet/scenario", "stack/packet", "stack/port", "tunlb/control", "github.com/creack/pty", "golang.org/x/sys/..."}, "a driver of labs: kernels are the hosts"},
	"labnet/keeper":           {[]string{"labnet/scenario", "golang.org/x/sys/..."}, "a lab is kept and asked in the same way, whatever it is made of"},
	"labnet/sim":              {[]string{"labnet", "labnet/scenario", "stack/packet", "stack/port", "tunlb", "tunlb/config", "tunlb/control", "tunlb/health", "tunlb/ipvs", "tunlb/wiring", "gvisor.dev/gvisor/...", "github.com/rs/zerolog"}, "a driver of labs: every host is a stack in this process, with the whole director between them"},
	"labnet/netns":            {[]string{"github.com/vishvananda/...", "golang.org/x/sys/..."}, "the only other place that speaks to the kernel's namespaces"},
	"cmd/tunlb":               {[]string{module + "/...", "github.com/urfave/cli/v2", "github.com/rs/zerolog", "github.com/charmbracelet/x/term", "github.com/coreos/go-systemd/v22/daemon", "golang.org/x/sys/..."}, "the command line knows everything, and the terminal it is on"},
	"stack/packet/packettest": {[]string{"stack/packet", "gvisor.dev/gvisor/..."}, "the oracle of the tests is another implementation"},
}

// TestImports keeps the layers apart, and every package from being without a rule.
func TestImports(t *testing.T) {
	for dir, files := range packages(t) {
		if strings.HasPrefix(dir, "scripts") {
			continue // programs of their own
		}
		rule, ok := rules[dir]
		if !ok {
			t.Errorf("package %s has no import rule: add it to rules, with a reason", dir)
			continue
		}
		for name, f := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, spec := range f.Imports {
				if path := strings.Trim(spec.Path.Value, `"`); !allowed(path, rule.may) {
					t.Errorf("%s imports %s: %s", name, path, rule.why)
				}
			}
		}
	}
}

// TestPackageTable keeps the table of packages in docs/architecture.md whole, and free of what is no more.
func TestPackageTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Packages\n")
	table, _, found := strings.Cut(table, "\n## ")
	if !found {
		t.Fatal("there is no section Packages")
	}
	there := packages(t)
	listed := map[string]bool{}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 2 || !strings.Contains(cells[1], "`") {
			continue // no row of a package
		}
		name := strings.Trim(cells[1], " `")
		switch {
		case listed[name]:
			t.Errorf("package %s has two rows", name)
		case there[name] == nil:
			t.Errorf("there is no package %s: take its row away", name)
		case len(cells) != 5 || strings.TrimSpace(cells[2]) == "" || strings.TrimSpace(cells[3]) == "":
			t.Errorf("package %s: say what it owns, and what it may import", name)
		}
		listed[name] = true
	}
	for dir := range there {
		if !listed[dir] && !strings.HasPrefix(dir, "scripts") {
			t.Errorf("package %s has no row in docs/architecture.md", dir)
		}
	}
}

func allowed(path string, may []string) bool {
	if !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
		return true // the standard library
	}
	short := strings.TrimPrefix(path, module+"/")
	return slices.ContainsFunc(may, func(m string) bool {
		prefix, below := strings.CutSuffix(m, "/...")
		return short == prefix || path == prefix || below && (strings.HasPrefix(path, prefix+"/") || strings.HasPrefix(short, prefix+"/"))
	})
}

// TestPackageDocs wants exactly one package doc in each package.
func TestPackageDocs(t *testing.T) {
	for dir, files := range packages(t) {
		var docs []string
		for name, f := range files {
			if f.Doc != nil {
				docs = append(docs, name)
			}
		}
		if len(docs) != 1 {
			slices.Sort(docs)
			t.Errorf("package %s has %d package docs, want 1: %v", dir, len(docs), docs)
		}
	}
}

// TestNoInit keeps order of initialisation out of the program.
func TestNoInit(t *testing.T) {
	for _, files := range packages(t) {
		for name, f := range files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: func init: construct explicitly instead", name)
				}
			}
		}
	}
}

// packages parses the module's files as far as imports, docs and declarations go, by folder.
func packages(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]*ast.File{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root):
			return filepath.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		dir := filepath.ToSlash(filepath.Dir(rel))
		if out[dir] == nil {
			out[dir] = map[string]*ast.File{}
		}
		out[dir][rel] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("found %d packages only: looking in the wrong place?", len(out))
	}
	return out
}
