package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/tunlb/tunlb/tunlb/config/syntax"
	"github.com/tunlb/tunlb/tunlb/config/wording"
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

// node is one YAML value with anchors, aliases, merge keys and tags resolved. Aliased nodes share their children.
type node struct {
	kind   kind
	at     pos
	text   string  // valid iff a scalar
	items  []*node // valid iff a list
	fields []field // valid iff a mapping; no key twice
	broken bool    // something in it was left out, and reported
}

type field struct {
	key   string
	at    pos
	value *node
}

// parse gives the tree of the only document in data; nil if there is none, which has been reported then.
func (d *decoder) parse(data []byte) *node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(data) > maxSize {
		d.fail(pos{1, 1}, "file too large", fmt.Sprintf("it has more than %d MiB", maxSize>>20), "write fewer servers")
		return nil
	}
	if at, ok := invalidText(data); !ok {
		d.fail(at, "no UTF-8 text", "YAML is text in UTF-8", "save the file as UTF-8")
		return nil
	}
	file := d.syntax(data)
	if file == nil {
		return nil
	}
	body := d.onlyDocument(file)
	if body == nil {
		return nil
	}
	t := tree{reporter: &d.reporter, anchors: make(map[string]*node)}
	return t.convert(body, 0)
}

// invalidText finds the first byte that is no UTF-8 or NUL, which the lexer takes for the end of the file.
func invalidText(data []byte) (at pos, ok bool) {
	at = pos{1, 1}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == 0 || r == utf8.RuneError && size == 1 {
			return at, false
		}
		at.column++
		if r == '\n' {
			at = pos{at.line + 1, 1}
		}
		data = data[size:]
	}
	return at, true
}

// syntax runs the YAML parser. It is not trusted with hostile input: the guard goes first, and a panic is an error.
func (d *decoder) syntax(data []byte) (file *ast.File) {
	defer func() {
		if recover() != nil {
			file = nil
			d.syntaxError(data, nil, "it cannot be parsed")
		}
	}()
	most := min(someTokens+len(data)/2, maxTokens)
	if line, column, ok := syntax.Most(data, most); !ok {
		d.fail(pos{line, column}, "too many signs", fmt.Sprintf("a file of %d bytes may have %d words and signs like brackets, commas and colons", len(data), most),
			"write fewer services; maps in lines have fewer of these than maps in braces, above all with IPv6 addresses")
		return nil
	}
	tokens := syntax.Tokens(data)
	g := guard{reporter: reporter{file: d.file}}
	if !g.accept(tokens) {
		d.errs = append(d.errs, g.errs...)
		return nil
	}
	file, err := syntax.Parse(tokens)
	if err != nil {
		d.syntaxError(data, err.At, err.Why)
		return nil
	}
	return file
}

// bracketed is an IPv6 address with a port without quotes, which is the beginning of a list to YAML.
var bracketed = regexp.MustCompile(`(?:^|[\s:,{-])(\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]:[0-9]+(?:/[a-z]+)?)`)

func (d *decoder) syntaxError(data []byte, tk *token.Token, why string) {
	at := posOf(tk)
	instead := "write it as YAML wants it; quotes around a value help"
	if lines := bytes.Split(data, []byte("\n")); at.line <= len(lines) {
		if m := bracketed.FindSubmatch(lines[at.line-1]); m != nil {
			instead = fmt.Sprintf("write the address in quotes: %q", m[1])
		}
	}
	if strings.Contains(why, "\t") {
		why, instead = strings.ReplaceAll(why, "\t", `\t`), "write spaces"
	}
	d.fail(at, "no valid YAML", why, instead)
}

func (d *decoder) onlyDocument(file *ast.File) ast.Node {
	var body ast.Node
	seen := 0
	for _, doc := range file.Docs {
		if _, ok := doc.Body.(*ast.DirectiveNode); ok {
			continue // "%YAML 1.2" comes as a document of its own
		}
		if seen++; seen == 2 {
			d.fail(posOf(doc.Start), "second document", "a configuration is one YAML document", `remove "---" and what follows`)
			return nil
		}
		body = doc.Body
	}
	if body == nil {
		d.emptyFile()
	}
	return body
}

func (d *decoder) emptyFile() {
	d.fail(pos{1, 1}, "empty file", "there is nothing to do", "write services: or gateway:")
}

// maxMerged bounds what merge keys of merge keys can unfold to.
const maxMerged = 1 << 18

// tree turns the parser's nodes into ours.
type tree struct {
	*reporter
	anchors map[string]*node // what was read so far: an alias may only look back, so there are no cycles
	merged  int              // fields of maps merged into others so far
}

// convert gives the value of n; a value that cannot be used is reported and becomes nil.
func (t *tree) convert(n ast.Node, depth int) *node {
	at := posOf(n.GetToken())
	if depth > 4*maxDepth { // the guard counts levels, this counts anchors and tags as well
		t.fail(at, "nested too deeply", "no configuration has so many levels", "write it flat")
		return nil
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		v := t.convert(n.Value, depth+1)
		if n.Name != nil && v != nil {
			t.anchors[n.Name.GetToken().Value] = v
		}
		return v
	case *ast.AliasNode:
		return t.alias(n, at)
	case *ast.TagNode:
		return t.tag(n, at, depth)
	case *ast.MappingNode:
		return t.mapping(n, depth)
	case *ast.MappingValueNode:
		return t.mapping(&ast.MappingNode{Start: n.Start, Values: []*ast.MappingValueNode{n}}, depth)
	case *ast.SequenceNode:
		return t.sequence(n, depth)
	}
	return t.scalar(n, at)
}

// scalar keeps the text as it was written: 0600 is a mode and not the number 384.
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
		return nil
	}
	if len(v.text) > maxScalar {
		t.fail(at, "value too long", fmt.Sprintf("at most %d bytes are allowed", maxScalar), "write a shorter one")
		return nil
	}
	return v
}

// alias gives what the anchor has, at the place of the alias.
func (t *tree) alias(n *ast.AliasNode, at pos) *node {
	name := ""
	if n.Value != nil {
		name = n.Value.GetToken().Value
	}
	v := t.anchors[name]
	if v == nil {
		t.fail(at, fmt.Sprintf("unknown alias %s", wording.Quote("*"+name)), "no valid anchor of this name stands above it",
			fmt.Sprintf("write %s before the value that is meant", wording.Quote("&"+name)))
		return nil
	}
	used := *v
	used.at = at
	return &used
}

func (t *tree) tag(n *ast.TagNode, at pos, depth int) *node {
	tag := n.Start.Value
	if n.Value == nil || tag != "!!str" {
		t.fail(at, fmt.Sprintf("tag %s", wording.Quote(tag)), "the keys know their types", "remove the tag")
		return nil
	}
	v := t.convert(n.Value, depth+1)
	if v != nil && v.kind < list {
		v.kind = text
	}
	return v
}

func (t *tree) sequence(n *ast.SequenceNode, depth int) *node {
	s := &node{kind: list, at: posOf(n.Start)}
	for _, v := range n.Values {
		item := t.convert(v, depth+1)
		if item != nil {
			s.items = append(s.items, item)
		}
		s.broken = s.broken || item == nil || item.broken
	}
	return s
}

// mapping reads the map's own fields first: they win over those of its merge keys, wherever these stand.
func (t *tree) mapping(n *ast.MappingNode, depth int) *node {
	m := &node{kind: mapping, at: posOf(n.Start)}
	if !n.IsFlowStyle && len(n.Values) > 0 {
		m.at = posOf(n.Values[0].Key.GetToken()) // Start is the colon
	}
	if len(n.Values) > maxKeys {
		t.tooManyKeys(m.at)
		return nil
	}
	var merged []*node
	for _, v := range n.Values {
		value := t.convert(v.Value, depth+1)
		m.broken = m.broken || value == nil || value.broken
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			merged = append(merged, t.mergeSources(value)...)
			continue
		}
		t.addField(m, v.Key, value)
	}
	for _, from := range merged {
		m.merge(from)
	}
	return m
}

func (t *tree) addField(m *node, key ast.MapKeyNode, value *node) {
	at := posOf(key.GetToken())
	switch key.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
	default:
		t.fail(at, "key that is no word", "keys are plain words", "write key: value")
		return
	}
	name := key.GetToken().Value
	if first := m.field(name); first != nil {
		t.fail(at, fmt.Sprintf("doubled key %s", wording.Quote(name)), fmt.Sprintf("the first one is in line %d", first.at.line), "write it once")
		return
	}
	m.fields = append(m.fields, field{key: name, at: at, value: value})
}

// mergeSources gives the maps of "<<: *a" or "<<: [*a, *b]".
func (t *tree) mergeSources(value *node) []*node {
	if value == nil {
		return nil
	}
	sources := []*node{value}
	if value.kind == list {
		sources = value.items
	}
	for _, s := range sources {
		if t.merged > maxMerged { // reported once
			return nil
		}
		if t.merged += len(s.fields) + 1; t.merged > maxMerged {
			t.fail(value.at, "too many merge keys", fmt.Sprintf("they unfold to more than %d fields", maxMerged), "write the keys themselves")
			return nil
		}
		if s.kind != mapping {
			t.fail(s.at, fmt.Sprintf(`"<<" is %s`, kindNames[s.kind]), "only maps can be merged", "write <<: *anchor of a map")
			return nil
		}
	}
	return sources
}

// merge adds the fields that n has not; n is a mapping.
func (n *node) merge(from *node) {
	for _, f := range from.fields {
		if n.field(f.key) == nil && len(n.fields) < maxKeys {
			n.fields = append(n.fields, f)
		}
	}
}

// empty reports whether n is a list that was written without items.
func (n *node) empty() bool { return n.kind == list && len(n.items) == 0 && !n.broken }

// field gives the field of that name or nil.
func (n *node) field(key string) *field {
	for i := range n.fields {
		if n.fields[i].key == key {
			return &n.fields[i]
		}
	}
	return nil
}
