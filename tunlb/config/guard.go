package config

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// Bounds of the shape of a file. The deepest valid one has six levels and its largest map eighteen keys.
const (
	maxDepth      = 32
	maxKeys       = 64
	maxScalar     = 1024 // bytes of a key or value, a path at most
	maxProperties = 2    // an anchor and a tag before one value
	maxColons     = 4    // "a: b: c" is no YAML; the parser says it well as long as it is short
)

// guard refuses token sequences on which the parser would recurse without end or take quadratic time: it calls itself
// for every level, but also for every further key of a block map and for chains of anchors, tags and colons.
type guard struct {
	reporter
	flow       int          // open brackets and braces
	blocks     []block      // open block maps and sequences, the outermost first
	line       int          // line of the last token
	indent     int          // column of the line's first token that is no "-"
	properties int          // anchors and tags before the next value
	colons     int          // since the last comma, bracket or (in a block) line
	last       *token.Token // the token before
}

// block is one open block map or sequence.
type block struct{ column, keys int }

// accept reports whether the parser may have the tokens.
func (g *guard) accept(tokens token.Tokens) bool {
	for _, tk := range tokens {
		g.next(tk)
		if len(g.errs) > 0 {
			return false
		}
		g.last = tk
	}
	return true
}

func (g *guard) next(tk *token.Token) {
	if tk.Type == token.CommentType {
		return
	}
	g.startLine(tk)
	g.countProperties(tk)
	switch tk.Type {
	case token.MappingStartType, token.SequenceStartType:
		g.flow++
		g.colons = 0
		g.checkDepth(tk)
	case token.MappingEndType, token.SequenceEndType:
		g.flow = max(0, g.flow-1)
		g.colons = 0
	case token.CollectEntryType:
		g.colons = 0
	case token.SequenceEntryType:
		g.open(tk, tk.Position.Column, 0)
	case token.MappingKeyType:
		g.fail(posOf(tk), `complex key "?"`, "keys are plain words", "write key: value")
	case token.MappingValueType:
		g.colon(tk)
	case token.DocumentHeaderType, token.DocumentEndType:
		g.flow, g.blocks = 0, nil
	}
}

func (g *guard) startLine(tk *token.Token) {
	if tk.Position.Line == g.line && g.indent > 0 {
		return
	}
	if tk.Position.Line != g.line && g.flow == 0 {
		g.colons = 0
	}
	g.line, g.indent = tk.Position.Line, tk.Position.Column
	if tk.Type == token.SequenceEntryType {
		g.indent = 0 // the next token of this line decides
	}
}

// countProperties bounds chains like "&a &b &c"; the name after an & is a token of its own.
func (g *guard) countProperties(tk *token.Token) {
	switch {
	case tk.Type == token.AnchorType || tk.Type == token.TagType:
		if g.properties++; g.properties > maxProperties {
			g.fail(posOf(tk), "too many anchors and tags", "one value has at most one of each", "remove all but one")
		}
	case g.last == nil || g.last.Type != token.AnchorType:
		g.properties = 0
	}
}

func (g *guard) colon(tk *token.Token) {
	if g.colons++; g.colons > maxColons {
		g.fail(posOf(tk), "too many colons", "a value follows one key", `write "quotes" around a value with a colon`)
	}
	if g.flow == 0 {
		g.open(tk, g.indent, 1)
	}
}

// open notes a sequence entry or a key at a column: it closes what is deeper and continues or opens a level.
func (g *guard) open(tk *token.Token, column, keys int) {
	if g.flow > 0 {
		return
	}
	for len(g.blocks) > 0 && g.blocks[len(g.blocks)-1].column > column {
		g.blocks = g.blocks[:len(g.blocks)-1]
	}
	if len(g.blocks) == 0 || g.blocks[len(g.blocks)-1].column < column {
		g.blocks = append(g.blocks, block{column: column})
		g.checkDepth(tk)
	}
	top := &g.blocks[len(g.blocks)-1]
	if top.keys += keys; top.keys > maxKeys {
		g.tooManyKeys(posOf(tk))
	}
}

func (g *guard) checkDepth(tk *token.Token) {
	if g.flow+len(g.blocks) > maxDepth {
		g.fail(posOf(tk), "nested too deeply", fmt.Sprintf("more than %d levels are no configuration", maxDepth),
			"write lists and maps as in the documentation")
	}
}
