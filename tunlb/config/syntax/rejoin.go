package syntax

import (
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// rejoin makes one string again of "192.168.0.10:80" in "{servers: [192.168.0.10:80]}". By YAML 1.2 (7.3.3) a colon ends
// a key only before a space, but the lexer takes every colon for one in a list within braces (goccy/go-yaml issue 832).
func rejoin(tokens token.Tokens) token.Tokens {
	var (
		out  token.Tokens
		open []token.Type // brackets and braces
	)
	for i := 0; i < len(tokens); i++ {
		tk := tokens[i]
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, tk.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(0, len(open)-1)]
		case token.MappingValueType:
			inList := len(open) > 0 && open[len(open)-1] == token.SequenceStartType
			if inList && i+1 < len(tokens) && plain(tokens[i+1]) && adjacent(tk, tokens[i+1]) {
				out = join(out, tk, tokens[i+1])
				i++
				continue
			}
		}
		out = append(out, tk)
	}
	for i, tk := range out {
		tk.Prev, tk.Next = nil, nil
		if i > 0 {
			tk.Prev, out[i-1].Next = out[i-1], tk
		}
	}
	return out
}

// join appends colon and value, to the plain text right before them if there is some.
func join(out token.Tokens, colon, value *token.Token) token.Tokens {
	text := colon.Value + value.Value
	if len(out) == 0 || !plain(out[len(out)-1]) || !adjacent(out[len(out)-1], colon) {
		return append(out, token.String(text, text, colon.Position))
	}
	last := out[len(out)-1]
	out[len(out)-1] = token.String(last.Value+text, last.Origin+text, last.Position)
	return out
}

// plain reports whether tk is a scalar without quotes.
func plain(tk *token.Token) bool {
	switch tk.Type {
	case token.StringType, token.IntegerType, token.OctetIntegerType, token.HexIntegerType, token.BinaryIntegerType,
		token.FloatType, token.BoolType, token.NullType, token.InfinityType, token.NanType:
		return true
	}
	return false
}

// adjacent reports whether b begins where a ends.
func adjacent(a, b *token.Token) bool {
	return a.Position.Line == b.Position.Line && a.Position.Column+utf8.RuneCountInString(a.Value) == b.Position.Column
}
