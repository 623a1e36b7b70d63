package scenario

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/tunlb/tunlb/tunlb/config/syntax"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// Bounds of a lab file, far above any that is of use. The parser calls itself for every level, and for every further key of a
// map, in quadratic time: 10,000 keys of one map take it a second.
const (
	maxSize  = 1 << 20
	maxDepth = 32
	maxKeys  = 10_000
	maxNodes = 1 << 17 // with what aliases unfold to
)

// kind is what a YAML value is.
type kind uint8

const (
	null kind = iota
	text
	integer
	float
	boolean
	list
	mapping
)

var kindNames = [...]string{
	null: "empty", text: "a string", integer: "a whole number", float: "a number with a fraction",
	boolean: "true or false", list: "a list", mapping: "a map",
}

// pos is a place in the file, counted from 1.
type pos struct{ line, column int }

func posOf(tk *token.Token) pos {
	if tk == nil || tk.Position == nil {
		return pos{1, 1}
	}
	return pos{max(1, tk.Position.Line), max(1, tk.Position.Column)}
}

// node is a YAML value with aliases and merge keys resolved. Aliased nodes share their children.
type node struct {
	kind   kind
	at     pos
	flow   bool   // a map in braces
	text   string // of a scalar, as it was written
	items  []*node
	fields []field // no key twice
}

type field struct {
	key   string
	at    pos
	value *node
}

func (n *node) field(key string) *node {
	for _, f := range n.fields {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// parse gives the tree of a file's only document; nil if there is none, which has been reported then.
func (d *decoder) parse(data []byte) *node {
	switch {
	case len(data) > maxSize:
		d.fail(pos{1, 1}, "file too large", fmt.Sprintf("it has more than %d KiB", maxSize>>10), "write a smaller lab")
		return nil
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
		d.fail(pos{1, 1}, "no UTF-8 text", "YAML is text in UTF-8", "save the file as UTF-8")
		return nil
	}
	file := d.syntax(data)
	if file == nil {
		return nil
	}
	var bodies []*ast.DocumentNode
	for _, doc := range file.Docs {
		if _, directive := doc.Body.(*ast.DirectiveNode); doc.Body != nil && !directive {
			bodies = append(bodies, doc)
		}
	}
	switch len(bodies) {
	case 0:
		d.fail(pos{1, 1}, "empty file", "there is no lab in it", "write networks:, hosts: and director:")
		return nil
	case 1:
	default:
		d.fail(posOf(bodies[1].Start), "second document", "a lab is one YAML document", `remove "---" and what follows`)
		return nil
	}
	t := tree{decoder: d, anchors: make(map[string]*node)}
	return t.convert(bodies[0].Body)
}

// syntax runs the YAML parser, which is not trusted with all input: what nests too deeply does not come to it, and a panic is
// an error.
func (d *decoder) syntax(data []byte) (file *ast.File) {
	defer func() {
		if recover() != nil {
			file = nil
			d.fail(pos{1, 1}, "no valid YAML", "it cannot be parsed", "write it as in docs/labs.md")
		}
	}()
	tokens := syntax.Tokens(data)
	if !d.bounded(tokens) {
		return nil
	}
	file, err := syntax.Parse(tokens)
	if err == nil {
		return file
	}
	why, instead := err.Why, "write it as YAML wants it; quotes around a value help"
	if strings.Contains(why, "\t") {
		why, instead = strings.ReplaceAll(why, "\t", `\t`), "write spaces"
	}
	d.fail(posOf(err.At), "no valid YAML", why, instead)
	return nil
}

// bounded refuses levels, by brackets or by indentation, and keys that are too many for the parser.
func (d *decoder) bounded(tokens token.Tokens) bool {
	flow, keys := 0, 0
	var blocks []int // columns of the open ones
	for _, tk := range tokens {
		switch tk.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingValueType, token.AnchorType, token.TagType, token.MappingKeyType:
			if tk.Type == token.MappingValueType {
				keys++
			}
			if flow > 0 {
				break
			}
			for len(blocks) > 0 && blocks[len(blocks)-1] >= tk.Position.Column {
				blocks = blocks[:len(blocks)-1]
			}
			blocks = append(blocks, tk.Position.Column)
		}
		switch {
		case flow > maxDepth || len(blocks) > 2*maxDepth:
			d.fail(posOf(tk), "nested too deeply", fmt.Sprintf("more than %d levels are no lab", maxDepth), "write lists and maps as in docs/labs.md")
			return false
		case keys > maxKeys:
			d.fail(posOf(tk), "too many keys", fmt.Sprintf("a file has at most %d", maxKeys), "write a smaller lab")
			return false
		}
	}
	return true
}

// tree turns the parser's nodes into ours. An alias may only look back, so there are no cycles.
type tree struct {
	*decoder
	anchors map[string]*node
}

// convert gives the value of n, which is null where it can't be used and has been reported.
func (t *tree) convert(n ast.Node) *node {
	at := posOf(n.GetToken())
	switch n := n.(type) {
	case *ast.AnchorNode:
		v := t.convert(n.Value)
		t.anchors[n.Name.GetToken().Value] = v
		return v
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		v := t.anchors[name]
		if v == nil {
			t.fail(at, fmt.Sprintf("unknown alias %s", wording.Quote("*"+name)), "no anchor of this name stands above it", fmt.Sprintf("write %s before the value that is meant", wording.Quote("&"+name)))
			return &node{at: at}
		}
		used := *v
		used.at = at
		return &used
	case *ast.MappingNode:
		return t.mapping(n)
	case *ast.MappingValueNode:
		return t.mapping(&ast.MappingNode{Start: n.Start, Values: []*ast.MappingValueNode{n}})
	case *ast.SequenceNode:
		s := &node{kind: list, at: posOf(n.Start)}
		for _, v := range n.Values {
			s.items = append(s.items, t.convert(v))
		}
		return s
	}
	return t.scalar(n, at)
}

// scalar keeps the text as it was written.
func (t *tree) scalar(n ast.Node, at pos) *node {
	v := &node{kind: text, at: at, text: n.GetToken().Value}
	switch n := n.(type) {
	case *ast.StringNode:
		v.text = n.Value
	case *ast.LiteralNode:
		v.text = n.Value.Value
	case *ast.NullNode:
		v.kind = null
	case *ast.IntegerNode:
		v.kind = integer
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		v.kind = float
	case *ast.BoolNode:
		v.kind = boolean
	default:
		t.fail(at, "unexpected YAML", "a value is a string, a number, a list or a map", "write one of these")
		v.kind = null
	}
	return v
}

// mapping reads the map's own fields first: they win over those of its merge keys, wherever these stand.
func (t *tree) mapping(n *ast.MappingNode) *node {
	m := &node{kind: mapping, at: posOf(n.Start), flow: n.IsFlowStyle}
	if !m.flow && len(n.Values) > 0 {
		m.at = posOf(n.Values[0].Key.GetToken()) // Start is the colon
	}
	var merged []*node
	for _, v := range n.Values {
		value, at := t.convert(v.Value), posOf(v.Key.GetToken())
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			if value.kind != list {
				value = &node{items: []*node{value}}
			}
			merged = append(merged, value.items...)
			continue
		}
		name := v.Key.GetToken().Value
		if m.field(name) != nil {
			t.fail(at, "doubled key "+wording.Quote(name), "it stands above already", "write it once")
			continue
		}
		m.fields = append(m.fields, field{name, at, value})
	}
	for _, from := range merged {
		if from.kind != mapping {
			t.fail(from.at, fmt.Sprintf(`"<<" is %s`, kindNames[from.kind]), "only maps can be merged", "write <<: *anchor of a map")
		}
		for _, f := range from.fields {
			if m.field(f.key) == nil && t.visit(f.at) {
				m.fields = append(m.fields, f)
			}
		}
	}
	return m
}
