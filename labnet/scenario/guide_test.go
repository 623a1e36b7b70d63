package scenario

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestGuide: every key that the parser knows is in docs/labs.md, and so is every lab that is shipped.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/labs.md")
	if err != nil {
		t.Fatal(err)
	}
	guide := string(text)
	keys := append(keysOfParser(t), statusCounters()...)
	keys = append(append(keys, failures()...), Formats()[1:]...)
	if len(keys) < 90 {
		t.Fatalf("found %d keys only: looking in the wrong place?", len(keys))
	}
	for _, k := range append(keys, Shipped()...) {
		if !strings.Contains(guide, "`"+k+"`") && !strings.Contains(guide, "`"+k+":") && !slices.Contains(Formats(), k) {
			t.Errorf("docs/labs.md does not have `%s`", k)
		}
	}
}

// TestGuideExamples: the labs in the guide are labs.
func TestGuideExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/labs.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		f, err := Parse("docs/labs.md", []byte(block))
		if err != nil {
			t.Error(err)
			continue
		}
		_, err = Parse("two.yaml", []byte(strings.ReplaceAll(block, "gateway: 192.168.0.100", "gateway: 192.168.0.10")))
		if err == nil || !strings.Contains(string(text), strings.Split(err.Error(), "\n")[0]) {
			t.Errorf("the guide shows another error than %v", err)
		}
		if n++; len(f.Steps) == 0 || len(f.Warnings) > 0 {
			t.Errorf("%d steps, warnings %v", len(f.Steps), f.Warnings)
		}
	}
	if n == 0 {
		t.Error("no example")
	}
}

// keysOfParser are the names in all literals of type key: those that say their type, and those in lists of them.
func keysOfParser(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		note := func(n ast.Node) {
			lit, ok := n.(*ast.CompositeLit)
			if !ok || len(lit.Elts) != 2 {
				return
			}
			if s, ok := lit.Elts[0].(*ast.BasicLit); ok && s.Kind == token.STRING {
				name, err := strconv.Unquote(s.Value)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, name)
			}
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "key" {
					note(n)
				}
				if list, ok := n.Type.(*ast.ArrayType); ok {
					if id, ok := list.Elt.(*ast.Ident); ok && id.Name == "key" {
						for _, e := range n.Elts {
							note(e)
						}
					}
				}
			case *ast.CallExpr: // note("status", ...) of expectations
				if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "note" {
					note(&ast.CompositeLit{Elts: n.Args})
				}
				if fn, ok := n.Fun.(*ast.SelectorExpr); ok && fn.Sel.Name == "str" && len(n.Args) == 3 { // at.str(d, "from", ...)
					note(&ast.CompositeLit{Elts: n.Args[1:]})
				}
			}
			return true
		})
	}
	return names
}
