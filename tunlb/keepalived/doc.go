// Package keepalived reads keepalived.conf as far as it is about virtual servers, and gives the services that
// do the same in tunlb, with a note for whatever has no counterpart.
//
// It owns the file's grammar and what its keywords mean for balancing. It opens no file itself, and knows
// nothing of VRRP but its name.
package keepalived

import (
	"fmt"

	"github.com/tunlb/tunlb/policy"
)

// Source is the text of a file. A plain value.
type Source struct {
	Name string // for messages
	Text []byte
}

// Include gives the files that match a pattern of an include line in a file, in order.
type Include func(from, pattern string) ([]Source, error)

// Services are what a keepalived.conf asks for. A plain value.
type Services struct {
	Specs    []policy.Spec
	Timeouts policy.Timeouts // of lvs_timeouts; 0 where there is none
	Notes    []string        // what is not in Specs, and why: "FILE:LINE: what: why"
	Warning  string          // what must not be overlooked among the Notes; "" for nothing
}

// Import reads a file and those that it includes; without include it notes them. The error says what is wrong
// with the grammar, and where.
func Import(src Source, include Include) (Services, error) {
	r := reader{include: include, vars: map[string]string{}}
	root, err := r.read(src)
	if err != nil {
		return Services{}, err
	}
	im := importer{notes: r.notes, groups: map[string]*node{}}
	im.top(root)
	return Services{im.specs, im.timeouts, im.notes, im.warning()}, nil
}

// place is where something stands.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }
