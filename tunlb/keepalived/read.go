package keepalived

import (
	"fmt"
	"regexp"
	"strings"
)

// node is a keyword with its values, and perhaps a block.
type node struct {
	place
	words []string // the keyword first; never empty
	block []*node
	open  bool // has a block, even an empty one
}

// value is the i-th word behind the keyword, "" if there is none.
func (n *node) value(i int) string {
	if i+1 < len(n.words) {
		return n.words[i+1]
	}
	return ""
}

func (n *node) text() string { return strings.Join(n.words, " ") }

// Bounds against files that include themselves, or grow without end.
const (
	maxDepth    = 16      // of includes
	maxNesting  = 64      // of blocks
	maxLines    = 500_000 // of all files
	maxExpanded = 64 << 10
)

// reader reads files into nodes.
type reader struct {
	include Include
	vars    map[string]string
	notes   []string
	depth   int
	lines   int
	stack   []*node // of open blocks, below the root
}

func (r *reader) note(p place, what, why string) {
	r.notes = append(r.notes, fmt.Sprintf("%s: %s: %s", p, what, why))
}

func (r *reader) read(src Source) (*node, error) {
	root := &node{}
	r.stack = []*node{root}
	if err := r.file(src); err != nil {
		return nil, err
	}
	if open := r.stack[len(r.stack)-1]; open != root {
		return nil, fmt.Errorf("%s: block of %q has no end: write } behind it", open.place, open.words[0])
	}
	return root, nil
}

var definition = regexp.MustCompile(`^\s*\$([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$`)

// file reads one file into the block that is open. Lines are statements; a backslash at the end joins the next.
func (r *reader) file(src Source) error {
	lines := strings.Split(string(src.Text), "\n")
	for i := 0; i < len(lines); i++ {
		at := place{src.Name, i + 1}
		line := strings.TrimSuffix(lines[i], "\r")
		for strings.HasSuffix(line, `\`) && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, `\`) + "\n" + strings.TrimSuffix(lines[i], "\r")
		}
		if r.lines++; r.lines > maxLines {
			return fmt.Errorf("%s: more than %d lines, with included ones: is a file included by itself?", at, maxLines)
		}
		if m := definition.FindStringSubmatch(strings.ReplaceAll(line, "\n", "\x00")); m != nil {
			value, err := r.expand(at, strings.ReplaceAll(m[2], "\x00", "\n"))
			if err != nil {
				return err
			}
			r.vars[m[1]] = strings.TrimSpace(value)
			continue
		}
		line, err := r.expand(at, line)
		if err != nil {
			return err
		}
		for part := range strings.SplitSeq(line, "\n") {
			if err := r.line(at, part); err != nil {
				return err
			}
		}
	}
	return nil
}

var reference = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})`)

// expand puts the values of variables in. Those that are not defined stay, as in keepalived.
func (r *reader) expand(at place, line string) (string, error) {
	out := reference.ReplaceAllStringFunc(line, func(s string) string {
		if v, ok := r.vars[strings.Trim(s, "${}")]; ok {
			return v
		}
		return s
	})
	if len(out) > max(maxExpanded, len(line)) {
		return "", fmt.Errorf("%s: line grows over %d bytes by its variables: define them shorter", at, maxExpanded)
	}
	return out, nil
}

// line reads one line: statements, of which a block or another keyword ends each.
func (r *reader) line(at place, line string) error {
	tokens, err := split(at, line)
	if err != nil {
		return err
	}
	var words []string
	end := func() error {
		if len(words) == 0 {
			return nil
		}
		err := r.statement(at, words)
		words = nil
		return err
	}
	for _, t := range tokens {
		switch {
		case t.text == "{" && !t.quoted:
			if err := end(); err != nil {
				return err
			}
			if err := r.open(at); err != nil {
				return err
			}
		case t.text == "}" && !t.quoted:
			if err := end(); err != nil {
				return err
			}
			if len(r.stack) == 1 {
				return fmt.Errorf("%s: } without a block: remove it", at)
			}
			r.stack = r.stack[:len(r.stack)-1]
		default:
			// Keywords of virtual servers begin a statement also in the middle of a line, behind what belongs
			// to the one before.
			if n, known := arity[first(words)]; known && !t.quoted && len(words) > n {
				if _, next := arity[t.text]; next {
					if err := end(); err != nil {
						return err
					}
				}
			}
			words = append(words, t.text)
		}
	}
	return end()
}

func first(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// statement adds a node to the open block, or the files that it includes.
func (r *reader) statement(at place, words []string) error {
	block := r.stack[len(r.stack)-1]
	n := &node{place: at, words: words}
	switch {
	case strings.HasPrefix(words[0], "@"):
		r.note(at, n.text(), "conditional lines depend on the machine: write a file for each")
		n.words = []string{words[0]} // whatever it is, and its block with it
	case words[0] == "include" && len(words) > 1:
		return r.included(n)
	}
	block.block = append(block.block, n)
	return nil
}

func (r *reader) included(n *node) error {
	if r.include == nil {
		r.note(n.place, n.text(), "other files are not read here")
		return nil
	}
	if r.depth == maxDepth {
		return fmt.Errorf("%s: %s: more than %d files within each other: does one include itself?", n.place, n.text(), maxDepth)
	}
	files, err := r.include(n.file, n.value(0))
	if err != nil {
		return fmt.Errorf("%s: %s: %w", n.place, n.text(), err)
	}
	if len(files) == 0 {
		r.note(n.place, n.text(), "there is no such file")
	}
	r.depth++
	defer func() { r.depth-- }()
	for _, f := range files {
		if err := r.file(f); err != nil {
			return err
		}
	}
	return nil
}

// open begins the block of the last statement, which may stand in the line before.
func (r *reader) open(at place) error {
	block := r.stack[len(r.stack)-1].block
	if len(block) == 0 || block[len(block)-1].open {
		return fmt.Errorf("%s: { without a keyword before it: write one, or remove the block", at)
	}
	if len(r.stack) > maxNesting {
		return fmt.Errorf("%s: blocks within each other more than %d deep: is a } missing?", at, maxNesting)
	}
	n := block[len(block)-1]
	n.open = true
	r.stack = append(r.stack, n)
	return nil
}

// token is a word; what was quoted has no meaning of its own.
type token struct {
	text   string
	quoted bool
}

// split takes a line apart. Words are apart by space; { and } are words. ! and # begin a comment.
func split(at place, line string) (tokens []token, err error) {
	for {
		line = strings.TrimLeft(line, " \t\r\v\f")
		if line == "" || line[0] == '!' || line[0] == '#' {
			return tokens, nil
		}
		switch line[0] {
		case '{', '}':
			tokens, line = append(tokens, token{text: line[:1]}), line[1:]
		case '"':
			text, rest, ok := unquote(line[1:])
			if !ok {
				return nil, fmt.Errorf("%s: text in quotes has no end: write a second \"", at)
			}
			tokens, line = append(tokens, token{text, true}), rest
		default:
			n := wordEnd(line)
			tokens, line = append(tokens, token{text: line[:n]}), line[n:]
		}
	}
}

// wordEnd is where the word ends that the line begins with: at space, or at a brace that has no counterpart in
// the word, so that regular expressions and ${names} need no quotes.
func wordEnd(line string) int {
	end := strings.IndexAny(line, " \t\r\v\f")
	if end < 0 {
		end = len(line)
	}
	var open []int
	for i := range end {
		switch line[i] {
		case '{':
			open = append(open, i)
		case '}':
			if len(open) == 0 {
				return i
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return open[0]
	}
	return end
}

// unquote reads up to the closing quote. A backslash takes the next quote or backslash as it is.
func unquote(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
