package config

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the errors in testdata anew")

// TestParseRefuses has one input for every error that a file can have, and its exact text.
func TestParseRefuses(t *testing.T) {
	const golden = "testdata/bad.txtar"
	archive, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(archive.Files); i += 2 {
		input, want := archive.Files[i], &archive.Files[i+1]
		t.Run(strings.TrimSuffix(input.Name, ".yaml"), func(t *testing.T) {
			cfg, err := Parse("x.yaml", input.Data)
			errs, ok := errors.AsType[Errors](err)
			if !ok || cfg != nil {
				t.Fatalf("got %+v and error %v, want no configuration and Errors\n%s", cfg, err, input.Data)
			}
			checkErrors(t, errs)
			got := errs.Error() + "\n"
			if *update {
				want.Data = []byte(got)
				return
			}
			if diff := cmp.Diff(string(want.Data), got); diff != "" {
				t.Errorf("errors (-want +got):\n%s\n%s", diff, input.Data)
			}
		})
	}
	if *update {
		if err := os.WriteFile(golden, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// checkErrors finds what no error may be like, whatever the input.
func checkErrors(t *testing.T, errs Errors) {
	t.Helper()
	if len(errs) == 0 {
		t.Error("Errors is empty")
	}
	last := pos{1, 1}
	for _, e := range errs {
		at := pos{e.Line, e.Column}
		if at.line < 1 || at.column < 1 || at.line < last.line || at.line == last.line && at.column < last.column {
			t.Errorf("position %d:%d after %d:%d: %v", at.line, at.column, last.line, last.column, e)
		}
		if e.What == "" || e.Why == "" || e.Instead == "" || strings.ContainsAny(e.What+e.Why+e.Instead, "\r\n") {
			t.Errorf("not three parts in one line: %q", e)
		}
		last = at
	}
}
