package ipvs

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// Save prints the table as the commands that make it, in the order of listings, as the verb [SaveTable] asks
// for. Unlike ipvsadm it keeps thresholds. What no command can say is left out: a range of ports, and of a
// service that the configuration knows more of, that; see [Unsaved].
func Save(w io.Writer, c Command, s State, names Names) error {
	if c.Options.Numeric {
		names = Names{}
	}
	out := bufio.NewWriter(w)
	rows := s.rows(View{})
	slices.SortStableFunc(rows, row.compare)
	for _, r := range rows {
		if r.at.First != r.at.Last {
			continue
		}
		svc := Service{r.at.Proto, r.at.Addr, r.at.First, r.spec.Mark}.argument(names)
		fmt.Fprintf(out, "-A %s%s\n", svc, r.arguments())
		for _, k := range r.order(true) {
			fmt.Fprintf(out, "-a %s%s\n", svc, r.serverArguments(&r.spec.Servers[k], names))
		}
	}
	return out.Flush()
}

func (r row) arguments() string {
	s := r.spec
	text := " -s " + cmp.Or(s.Scheduler, "wlc")
	if s.Persistence.Timeout > 0 {
		text += fmt.Sprintf(" -p %d", s.Persistence.Timeout/time.Second)
		if s.Persistence.HostBits != 0 {
			text += " -M " + maskText(s.Persistence.HostBits, s.Is4())
		}
	}
	if s.Persistence.Engine != "" {
		text += " --pe " + s.Persistence.Engine
	}
	if s.OnePacket {
		text += " -o"
	}
	if s.Flags != 0 {
		text += " -b " + flagsText(s.Flags, s.Scheduler)
	}
	return text
}

func (r row) serverArguments(s *policy.ServerSpec, names Names) string {
	mode := cmp.Or(s.Mode, r.spec.Mode, policy.NAT)
	option := map[policy.Mode]string{policy.DR: "-g", policy.Tunnelled: "-i"}[mode]
	text := fmt.Sprintf(" -r %s %s -w %d", names.place(s.Address.Addr(), s.Address.Port(), r.at.Proto), cmp.Or(option, "-m"), s.Weight)
	if s.Upper != 0 {
		text += fmt.Sprintf(" -x %d", s.Upper)
	}
	if s.Lower != 0 {
		text += fmt.Sprintf(" -y %d", s.Lower)
	}
	if mode == policy.Tunnelled {
		text += " --tun-type " + cmp.Or(s.Tunnel.Type, "ipip")
		if s.Tunnel.Type == "gue" {
			text += fmt.Sprintf(" --tun-port %d", s.Tunnel.Port)
		}
		if s.Tunnel.Type == "gue" || s.Tunnel.Type == "gre" {
			text += " --tun-" + cmp.Or(s.Tunnel.Checksum, "nocsum")
		}
	}
	return text
}

// Unsaved are notes about what [Save] has no words for, a line each, for stderr.
func Unsaved(s State) []string {
	var notes []string
	for i := range s.Specs {
		spec := &s.Specs[i]
		note := func(what string) { notes = append(notes, "tunlb: note: service "+spec.Name+": not saved: "+what) }
		for _, l := range spec.Listen {
			if l.First != l.Last {
				note("range of ports " + l.String())
			}
		}
		if spec.Health.Enabled() {
			note("health checks")
		}
		if spec.Sorry != nil {
			note("sorry server")
		}
		if slices.ContainsFunc(spec.Servers, func(s policy.ServerSpec) bool { return cmp.Or(s.Mode, spec.Mode) == policy.FullNAT }) {
			note("fullnat, it becomes nat (-m)")
		}
	}
	return notes
}

// ParseLine reads a line of what was saved: words apart by space, without quotes, perhaps after the word
// ipvsadm. A line without words gives no verb.
func ParseLine(line string, names Names) (Command, error) {
	words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })
	if len(words) > 0 && words[0] == "ipvsadm" {
		words = words[1:]
	}
	if len(words) == 0 {
		return Command{}, nil
	}
	return Parse(words, names)
}

// maxRestore bounds what is held of a table that is restored: some 300000 servers.
const maxRestore = 32 << 20

// Restore reads what was saved and calls apply for one command after the other, before them to clear the table
// if clear is set (as ipvsadm-restore does, but not ipvsadm -R). A line that Parse refuses ends it; earlier
// ones have been applied. One that apply refuses with an [*Error] does not: refused is told, and the rest
// follows. As in ipvsadm only the last line's refusal is the result. Any other error of apply ends it, too.
// Lines that begin with # are comments.
//
// With clear all of r, at most maxRestore of it, is read first: what writes it may be a save of the same table.
func Restore(r io.Reader, clear bool, names Names, apply func(Command) error, refused func(*Error)) error {
	var pending *Error
	do := func(c Command) error {
		if pending != nil {
			refused(pending)
			pending = nil
		}
		if err := apply(c); err != nil && !errors.As(err, &pending) {
			return err
		}
		return nil
	}
	if clear {
		all, err := io.ReadAll(io.LimitReader(r, maxRestore+1))
		if err != nil {
			return fmt.Errorf("nothing was cleared: %w", err)
		}
		if len(all) > maxRestore {
			return fmt.Errorf("nothing was cleared: there is more to restore than %d MiB; load it in parts with ipvsadm -R", maxRestore>>20)
		}
		r = bytes.NewReader(all)
		if err := do(Command{Verb: Flush}); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		c, err := ParseLine(lines.Text(), names)
		if c.Verb == RestoreTable {
			err = errTry // not within itself
		}
		if err == nil && c.Verb != "" {
			err = do(c)
		}
		if err != nil {
			if pending != nil {
				refused(pending)
			}
			return err
		}
	}
	if pending != nil {
		return pending
	}
	return lines.Err()
}
