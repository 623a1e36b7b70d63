//go:build linux

package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunlb/tunlb/labnet/netns"
)

const wallTarget = "no duration is computed from the wall clock, but where times are shown or recorded"

// wallReadings are methods that turn a time into the wall clock's: its monotonic reading, by which times are compared and subtracted, is
// lost. They take no arguments: time.Unix(0, n), which makes a time of some other clock's reading, reads nothing. wallNames are others' ways to
// that clock.
var (
	wallReadings = []string{"Unix", "UnixNano", "UnixMilli", "UnixMicro", "Date"}
	wallNames    = []string{"Gettimeofday", "CLOCK_REALTIME"}
)

// wallAllowed are the files that may read it, with what for.
var wallAllowed = map[string]string{
	"tunlb/capture/writer.go":    "pcapng's timestamps are the wall clock's",
	"tunlb/capture/files.go":     "likewise",
	"tunlb/capture/block.go":     "likewise",
	"tunlb/capture/reader.go":    "likewise",
	"tunlb/top/history.go":       "an axis shows the time of day",
	"tunlb/metrics/catalogue.go": "Prometheus wants the time of the start as the wall clock had it",
	"tunlb/replay":               "a file's timestamps are the wall clock's",
}

// wallClock looks into the source. Setting a machine's clock is nothing to do to a machine, and it would show only what it happens to
// meet; what never reads the clock meets nothing.
func wallClock(_ context.Context, o options) (*outcome, error) {
	root, err := sourceRoot()
	if err != nil {
		return nil, err
	}
	found, files, err := wallUses(root, "policy", "tunlb", "stack")
	if err != nil {
		return nil, err
	}
	out := o.outcome()
	out.prove("source files read", float64(files), 100, "")
	out.holds("none reads the wall clock but to show or record it", len(found) == 0, strings.Join(found, "; "))
	return out, nil
}

// sourceRoot is the folder of go.mod, at or above the current one.
func sourceRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return "", &netns.Unsupported{What: "the source of tunlb", How: "run it in the repository"}
}

// wallUses lists the places below folders that read the wall clock and may not.
func wallUses(root string, folders ...string) (found []string, files int, err error) {
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files++
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			if wallAllowed[name] != "" || wallAllowed[filepath.Dir(name)] != "" {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			uses, err := wallUsesIn(name, text)
			found = append(found, uses...)
			return err
		})
		if err != nil {
			return nil, files, err
		}
	}
	return found, files, nil
}

// wallUsesIn lists those of a file.
func wallUsesIn(name string, text []byte) (found []string, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if slices.Contains(wallNames, n.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: %s", set.Position(n.Pos()), n.Sel.Name))
			}
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			switch {
			case !ok:
			case len(n.Args) == 0 && slices.Contains(wallReadings, f.Sel.Name):
				found = append(found, fmt.Sprintf("%s: %s()", set.Position(n.Pos()), f.Sel.Name))
			case len(n.Args) == 1 && f.Sel.Name == "Round": // Round(0) is the documented way to strip a monotonic reading
				if zero, ok := n.Args[0].(*ast.BasicLit); ok && zero.Value == "0" {
					found = append(found, fmt.Sprintf("%s: Round(0)", set.Position(n.Pos())))
				}
			}
		}
		return true
	})
	return found, nil
}
