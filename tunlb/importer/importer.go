// Package importer prints what LVS's other tools have configured as tunlb's configuration: [IPVSADM] what
// ipvsadm-save has saved, [Keepalived] a keepalived.conf.
//
// Text in, text out. What has no counterpart becomes a comment line that says why; nothing is left out
// silently. It does not know the machine: the key ports is for its reader to write.
package importer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/config"
)

// file is what is printed.
type file struct {
	source   string   // what it was made of
	warning  string   // what must not be overlooked; "" for nothing
	notes    []string // each on what was not imported, and why
	timeouts string   // the general ones, in YAML; "" for the defaults
	specs    []policy.Spec
}

const warningPrefix = "# WARNING: "

// Warning is what must not be overlooked in a configuration that was printed here; "" for nothing. It is for those
// who print it into a file that nobody reads.
func Warning(printed []byte) string {
	line, _, _ := strings.Cut(string(printed), "\n")
	if warning, ok := strings.CutPrefix(line, warningPrefix); ok {
		return warning
	}
	return ""
}

// print writes the file. Services that the syntax has no words for become comments, too.
func (f *file) print() ([]byte, error) {
	var services bytes.Buffer
	notes := f.notes
	for _, spec := range f.specs {
		if spec.Name == "" {
			spec.Name = spec.Listen[0].String()
		}
		var one bytes.Buffer
		err := config.WriteServices(&one, []policy.Spec{spec})
		if err != nil && spec.Health.Enabled() {
			// Better a service without its check than none.
			spec.Health = policy.Health{}
			if config.WriteServices(&one, []policy.Spec{spec}) == nil {
				notes, err = append(notes, "health of "+why(spec, err)), nil
			}
		}
		if err != nil {
			notes = append(notes, "service "+why(spec, err))
			continue
		}
		_, item, _ := strings.Cut(one.String(), "\n") // the key is written once
		services.WriteString(item)
	}
	var out bytes.Buffer
	if f.warning != "" {
		fmt.Fprintf(&out, "%s%s\n", warningPrefix, oneLine(f.warning))
	}
	fmt.Fprintf(&out, "# Made of %s by tunlb import. Where packets enter is not in there: write ports, see tunlb check.\n", oneLine(f.source))
	for _, note := range notes {
		fmt.Fprintf(&out, "# not imported: %s\n", oneLine(note))
	}
	if f.timeouts != "" {
		fmt.Fprintf(&out, "timeouts: %s\n", f.timeouts)
	}
	if services.Len() > 0 {
		out.WriteString("services:\n")
		out.Write(services.Bytes())
	}
	return out.Bytes(), nil
}

// why is an error about a service, which names it.
func why(spec policy.Spec, err error) string {
	return fmt.Sprintf("%s: %v", spec.Name, cmp.Or(errors.Unwrap(err), err))
}

// oneLine keeps a note a comment, whatever the file had in it.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u0085' || r == '\u2028' || r == '\u2029' || r == '\ufeff' || r == '\ufffd' {
			return ' '
		}
		return r
	}, s)
}
