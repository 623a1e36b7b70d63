package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tunlb/tunlb/policy"
)

// ErrNotServed is wrapped by the errors of WriteServices for what is held, and not served: firewall marks, SCTP,
// tunnels, persistence engines.
var ErrNotServed = errors.New("not served by this version")

// WriteServices writes the key services of a file that has these; it writes nothing for none. Parse gives what
// policy.Normalize makes of them. What the syntax has no words for is an error, after which nothing was written.
func WriteServices(w io.Writer, specs []policy.Spec) error {
	if len(specs) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.WriteString("services:\n")
	for _, s := range specs {
		text, err := serviceText(s)
		if err != nil {
			return fmt.Errorf("write service %q: %w", s.Name, err)
		}
		b.WriteString(text)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// serviceText is the item of one service. It is read back, since only that tells whether the file can say it.
func serviceText(s policy.Spec) (string, error) {
	if err := unserved(&s); err != nil {
		return "", err
	}
	specs, err := policy.Normalize([]policy.Spec{s})
	if err != nil {
		return "", err
	}
	s = canonical(specs[0])
	text := formatService(&s)
	d := &decoder{}
	if root := d.parse([]byte("services:\n" + text)); root != nil {
		d.decode(root, "the configuration", []key{{name: "services", decode: d.decodeServices}})
	}
	if len(d.errs) == 0 {
		c := d.config()
		d.normalize(c)
		if len(d.errs) == 0 && reflect.DeepEqual(c.Services, []policy.Spec{s}) {
			return text, nil
		}
	}
	if len(d.errs) > 0 {
		return "", fmt.Errorf("%s: %s", d.errs[0].What, d.errs[0].Why)
	}
	return "", errors.New("the syntax cannot say all of it")
}

// unserved finds what is held only.
func unserved(s *policy.Spec) error {
	what := ""
	switch {
	case s.Mark.Value != 0:
		what = fmt.Sprintf("firewall mark %d", s.Mark.Value)
	case slices.ContainsFunc(s.Listen, func(l policy.Listen) bool { return l.Proto == policy.SCTP }):
		what = "SCTP"
	case s.Persistence.Engine != "":
		what = fmt.Sprintf("persistence engine %s", s.Persistence.Engine)
	case s.Mode == policy.Tunnelled:
		what = "mode tunnel"
	}
	for _, server := range s.Servers {
		if server.Mode == policy.Tunnelled {
			what = fmt.Sprintf("mode tunnel of the server %s", server.Address)
		}
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s: %w", what, ErrNotServed)
}

// canonical fills in names and writes what means the same in the one way in which it is read.
func canonical(s policy.Spec) policy.Spec {
	port := (&service{Spec: s}).port()
	fill := func(server *policy.ServerSpec, name string) {
		if server.Name == "" {
			server.Name = name
		}
		if server.Address.Port() == 0 {
			server.Address = netip.AddrPortFrom(server.Address.Addr(), port)
		}
	}
	if s.Name == "" {
		s.Name = s.Listen[0].String()
	}
	for i := range s.Servers {
		fill(&s.Servers[i], fmt.Sprintf("rs%d", i+1))
	}
	if len(s.Servers) == 0 {
		s.Servers = nil
	}
	if s.Sorry != nil {
		fill(s.Sorry, "sorry")
		s.Sorry.Weight = 1
	}
	return s
}
