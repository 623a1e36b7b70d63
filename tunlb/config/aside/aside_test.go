package aside

import (
	"context"
	"encoding"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/tunlb/config"
)

// fates is what the test's own program does in place of reading a file of this name.
var fates = map[string]func() error{
	"panics.yaml": func() error { panic("hostile") },
	"silent.yaml": func() error { return nil },
	"empty.yaml":  func() error { return gob.NewEncoder(os.Stdout).Encode(answer{}) },
	"babble.yaml": func() error { _, err := io.Copy(os.Stdout, io.LimitReader(zeros{}, mostAnswer+1)); return err },
	"hangs.yaml":  func() error { _, err := io.Copy(io.Discard, blocked()); return err },
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func blocked() io.Reader {
	r, _, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	return r
}

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == Command {
		name := os.Args[3]
		read := func() error { return Read(name, os.Stdin, os.Stdout) }
		if fate := fates[filepath.Base(name)]; fate != nil {
			read = fate
		}
		if err := read(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// long makes a file too long to be read here.
func long(text string) string { return text + strings.Repeat("# what comes now\n", small/10) }

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nowhere is a program that does not exist: whoever asks it fails.
var nowhere = Program{Path: "/nonexistent/tunlb"}

const everything = `
ports:
  - {name: tun1, addresses: [10.9.0.1/24, "fd00:9::1/64"], router: [10.9.0.2, "fd00:9::2"], mtu: 1400}
services:
  - name: web
    listen: [203.0.113.22:80/tcp, 203.0.113.22:8000-8100/tcp]
    scheduler: mh
    flags: [fallback]
    quorum: 2
    sorry_server: 192.168.0.99:80
    slow_start: 10s
    health: {type: http, path: /, interval: 2s}
    timeouts: {established: 5m}
    persistence: {timeout: 5m, mask: 24}
    servers:
      - {name: a, address: 192.168.0.10:80, weight: 3, upper: 100, lower: 50}
      - {name: b, address: 192.168.0.11:8080, weight: 0}
  - {name: dns, listen: "[2001:db8::1]:53/udp", one_packet: true, servers: ["2001:db8:1::7"]}
control: {mode: 0660, users: [daemon]}
flows: {max: 5000}
threads: 2
timeouts: {established: 900s}
`

// TestExact: what another process has read is what this one would have, to the last nil.
func TestExact(t *testing.T) {
	texts := map[string]string{"everything": everything, "services": services(500)}
	examples, err := filepath.Glob("../../../docs/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatal(examples, err)
	}
	for _, path := range append(examples, "../example.yaml") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "openapi:") {
			texts[filepath.Base(path)] = string(b)
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			path := write(t, "x.yaml", long(text))
			want, err := config.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Program{}.Load(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if _, err := nowhere.Load(t.Context(), path); err == nil {
				t.Error("it was read without another process")
			}
		})
	}
}

// TestErrors: they come with place and words, and as the type that they are.
func TestErrors(t *testing.T) {
	path := write(t, "x.yaml", long("servces: 1\nports: 7\n"))
	_, want := config.Load(path)
	_, err := Program{}.Load(t.Context(), path)
	got, ok := errors.AsType[config.Errors](err)
	if !ok || len(got) < 2 || got.Error() != want.Error() {
		t.Errorf("got %v\nwant %v", err, want)
	}
}

// TestSmall: a small file takes no other process, nor does one that is not there.
func TestSmall(t *testing.T) {
	cfg, err := nowhere.Load(t.Context(), write(t, "x.yaml", everything))
	if err != nil || len(cfg.Services) != 2 {
		t.Errorf("%+v, %v", cfg, err)
	}
	_, want := config.Load("/nonexistent")
	if _, err := nowhere.Load(t.Context(), "/nonexistent"); err == nil || err.Error() != want.Error() {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestFates: whatever becomes of the other process, this one goes on, and says it.
func TestFates(t *testing.T) {
	for name, want := range map[string]string{
		"panics.yaml": "panic: hostile",
		"silent.yaml": "answer",
		"empty.yaml":  "said nothing",
		"babble.yaml": "more than 64 MiB",
	} {
		cfg, err := Program{}.Load(t.Context(), write(t, name, long("a: b\n")))
		if cfg != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if errors.As(err, new(config.Errors)) {
			t.Errorf("%s: %v is said to be the file's fault", name, err)
		}
	}
}

// TestGivenUp: who no longer wants to know does not wait, and leaves no process.
func TestGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := write(t, "hangs.yaml", long("a: b\n"))
	done := make(chan error, 1)
	go func() { _, err := Program{}.Load(ctx, path); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestMemory: a file that is meant to cost much costs this process next to nothing.
func TestMemory(t *testing.T) {
	const most = 4 << 20 // bytes allocated, freed or not
	for name, text := range map[string]string{
		"deep":  strings.Repeat("[", 1<<20),
		"keys":  strings.Repeat("a:\n", 1<<18),
		"long":  strings.Repeat("#", 5<<20),
		"wrong": "services:\n" + strings.Repeat("  - {lisen: 1}\n", 20_000),
	} {
		path := write(t, name, text)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Program{}.Load(t.Context(), path)
		runtime.ReadMemStats(&after)
		if !errors.As(err, new(config.Errors)) {
			t.Errorf("%s: %v, want the file's errors", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > most {
			t.Errorf("%s: %d bytes allocated, want at most %d", name, took, most)
		}
	}
}

// services is a file with n services of four servers.
func services(n int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: s%d\n    listen: 10.%d.%d.1:80\n    servers:\n", i, i/250, i%250)
		for k := range 4 {
			fmt.Fprintf(&b, "      - {name: rs%d, address: 192.168.0.%d:8080, weight: 1}\n", k, k+1)
		}
	}
	return b.String()
}

// BenchmarkLarge is 10,000 services of four servers: what it costs this process.
func BenchmarkLarge(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte(services(10_000)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (Program{}).Load(context.Background(), path); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSayable: all that a configuration is made of can be said. Package gob leaves out what is not exported, and takes a pointer to
// 0 for none.
func TestSayable(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(at string, typ reflect.Type)
	walk = func(at string, typ reflect.Type) {
		if seen[typ] || typ.Implements(reflect.TypeFor[encoding.BinaryMarshaler]()) {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Pointer:
			if typ.Elem().Kind() != reflect.Struct {
				t.Errorf("%s is a pointer to no struct", at)
			}
			walk(at, typ.Elem())
		case reflect.Slice, reflect.Array, reflect.Map:
			walk(at+"[]", typ.Elem())
		case reflect.Struct:
			for f := range typ.Fields() {
				if !f.IsExported() {
					t.Errorf("%s.%s is not exported", at, f.Name)
				}
				walk(at+"."+f.Name, f.Type)
			}
		case reflect.Interface, reflect.Func, reflect.Chan:
			t.Errorf("%s is a %s", at, typ.Kind())
		}
	}
	walk("answer", reflect.TypeFor[answer]())
	if len(seen) < 10 {
		t.Errorf("only %d types were looked at", len(seen))
	}
}
