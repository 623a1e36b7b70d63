package scenario

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tunlb/tunlb/tunlb/config"
)

// cut takes a block map out of a file: its lines as they are, and in front of them as many empty ones as stand above,
// so that errors in it name the file's own lines. It ends before the first line that is indented less.
func cut(data string, at pos) (text string, indent int) {
	indent = at.column - 1
	var b strings.Builder
	number := 0
	for line := range strings.Lines(data) {
		number++
		switch content := strings.TrimLeft(line, " "); {
		case number < at.line:
			b.WriteByte('\n')
		case strings.TrimSpace(content) == "" || content[0] == '#':
			b.WriteString(line)
		case len(line)-len(content) < indent:
			return b.String(), indent
		default:
			b.WriteString(line)
		}
	}
	return b.String(), indent
}

// Ports is the section "ports" of a director's configuration as the lab implies it: a TUN on the box, with tunlb's defaults, or a
// TAP named tunlb0, tunlb1, ... for each of its networks. more, which may be nil, gives further lines of the ith TAP.
func (d *Director) Ports(more func(i int) string) string {
	if d.Port != "tap" {
		return ""
	}
	var b strings.Builder
	b.WriteString("ports:\n")
	for i, a := range d.Attachments {
		fmt.Fprintf(&b, "  - name: tunlb%d\n    type: tap\n", i)
		if more != nil {
			b.WriteString(more(i))
		}
		if a.Side != "" {
			fmt.Fprintf(&b, "    side: %s\n", a.Side)
		}
		if len(a.Addresses) > 0 {
			quoted := make([]string, len(a.Addresses))
			for i, p := range a.Addresses {
				quoted[i] = fmt.Sprintf("%q", p)
			}
			fmt.Fprintf(&b, "    addresses: [%s]\n", strings.Join(quoted, ", "))
		}
	}
	return b.String()
}

// readConfig has tunlb read its configuration. The lab's own part of it stands behind the file's last line: what
// is wrong there is so because of the director's networks.
func (d *decoder) readConfig() {
	if d.at.configAt == (pos{}) {
		return
	}
	dir := &d.lab.Director
	own := strings.Count(strings.TrimRight(dir.Text, "\n"), "\n") + 1
	cfg, err := config.Parse(d.file, []byte(dir.With(dir.Ports(nil))))
	var errs config.Errors
	switch {
	case errors.As(err, &errs):
		for _, e := range errs {
			if e.Line > own {
				e.Line, e.Column = d.at.director.port.line, d.at.director.port.column
			}
			d.errs = append(d.errs, e)
		}
		return
	case err != nil:
		d.fail(d.at.configAt, "unreadable config", err.Error(), "write it as for `tunlb check`")
		return
	}
	d.config = cfg
}
