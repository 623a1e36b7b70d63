package syntax

// Most looks for the place, counted from 1, at which data has more tokens than most; ok is false if there is one. The lexer
// takes some hundred bytes of memory for each token, so they are counted before it goes to work: never fewer than it will find,
// and more where signs are only text (in quotes, comments and plain text it does not split).
func Most(data []byte, most int) (line, column int, ok bool) {
	var (
		tokens  int
		inText  bool // the sign before belongs to a token that goes on
		words   bool // in a line with an anchor, an alias, a tag or a directive a space may end text
		braces  bool // there was one: a colon may end a key without a space behind it
		newLine = true
	)
	line = 1
	for i, c := range data {
		if newLine {
			column = 0
		}
		newLine = false
		if c&0xc0 != 0x80 { // the first byte of a character
			column++
		}
		switch c {
		case '\n', '\r':
			inText, words = false, false
			if c == '\n' || i+1 == len(data) || data[i+1] != '\n' {
				line++
				newLine = true
			}
			continue
		case ' ':
			inText = inText && !words
			continue
		case '|', '>': // and a text, even if there is none
			tokens += 2
			inText = false
		case ':':
			if !braces && i+1 < len(data) && splitless(data[i+1]) {
				tokens += begin(&inText)
			} else {
				tokens++
				inText = false
			}
		case '[', ']', '{', '}', ',', '<', '?', '&', '*', '!', '\'', '"', '#', '%', '@', '`', '\t':
			tokens++
			braces = braces || c == '{'
			inText, words = false, words || c == '&' || c == '*' || c == '!' || c == '%'
		case '-':
			if i+1 < len(data) && data[i+1] > ' ' {
				tokens += begin(&inText)
				inText = column != 3 // what follows "---" is another token
			} else {
				tokens++
				inText = false
			}
		case '.':
			tokens += begin(&inText)
			inText = column != 3 // "..."
		default:
			tokens += begin(&inText)
		}
		if tokens > most {
			return line, column, false
		}
	}
	return 0, 0, true
}

// splitless says that a colon before c is text, outside of braces.
func splitless(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == ':'
}

// begin is 1 if text begins.
func begin(inText *bool) int {
	if *inText {
		return 0
	}
	*inText = true
	return 1
}
