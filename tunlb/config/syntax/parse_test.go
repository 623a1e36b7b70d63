package syntax

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
)

// TestTokens: what stands in a list within braces is one value, unless a space follows its colon.
func TestTokens(t *testing.T) {
	tests := []struct {
		item string
		kind ast.NodeType
	}{
		{"192.168.0.10:80", ast.StringType},
		{"2001:db8:1::7/64", ast.StringType},
		{"::5/64", ast.StringType},
		{"2001:db8::", ast.StringType},
		{"1:2:3:4:5:6:7:8", ast.StringType},
		{"x:true", ast.StringType},
		{"x: true", ast.MappingType},
		{"80", ast.IntegerType},
	}
	for _, tt := range tests {
		file, err := Parse(Tokens([]byte("{k: [" + tt.item + "]}")))
		if err != nil {
			t.Errorf("%s: %v", tt.item, err)
			continue
		}
		list := file.Docs[0].Body.(*ast.MappingNode).Values[0].Value.(*ast.SequenceNode).Values
		if len(list) != 1 {
			t.Errorf("%s: %d values, want 1", tt.item, len(list))
			continue
		}
		if got := list[0]; got.Type() != tt.kind && !(tt.kind == ast.MappingType && got.Type() == ast.MappingValueType) {
			t.Errorf("%s: %v, want %v", tt.item, got.Type(), tt.kind)
		} else if s, ok := got.(*ast.StringNode); ok && s.Value != tt.item {
			t.Errorf("%s: %q", tt.item, s.Value)
		}
	}
}

// TestParseError: an error has its place and one line.
func TestParseError(t *testing.T) {
	_, err := Parse(Tokens([]byte("a: b\nc: [1\nd: 2\n")))
	if err == nil || err.Why == "" || strings.Contains(err.Why, "\n") {
		t.Fatalf("%v, want an error of one line", err)
	}
	if err.At == nil || err.At.Position.Line < 2 {
		t.Errorf("at %v, want line 2 or later", err.At)
	}
}
