// Package syntax hands YAML to its parser and takes the edge off it: addresses without quotes stay whole, and an error is its
// place and one line. What the values mean, and how many of them are too many, is for who asks.
package syntax

import (
	"errors"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Error is what the parser does not take.
type Error struct {
	At  *token.Token // nil if it is not known
	Why string       // one line
}

func (e *Error) Error() string { return e.Why }

// Tokens cuts data up. It may panic with hostile data, as Parse may.
func Tokens(data []byte) token.Tokens { return rejoin(lexer.Tokenize(string(data))) }

// Parse gives the documents of the tokens; keys may be doubled. The parser calls itself for every level and for every
// further key of a map: bound the tokens first.
func Parse(tokens token.Tokens) (*ast.File, *Error) {
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return file, nil
	}
	e := &Error{Why: err.Error()}
	if ye, ok := errors.AsType[yaml.Error](err); ok {
		e.At, e.Why = ye.GetToken(), ye.GetMessage()
	}
	e.Why, _, _ = strings.Cut(e.Why, "\n")
	return file, e
}
