package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a file. What, Why and Instead are never empty, Line and Column count from 1.
type Error struct {
	File         string
	Line, Column int
	What         string // what is wrong: `unknown key "sheduler"`
	Why          string // why that is an error
	Instead      string // what to write instead
}

// Error gives "file:line:column: what, why, what to write instead".
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s, %s, %s", e.File, e.Line, e.Column, e.What, e.Why, e.Instead)
}

// Errors is everything that is wrong with a file, in the order of position; never empty when Parse returns it.
type Errors []*Error

// Error gives one error a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes the single errors visible to errors.As.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// sorted orders by position and drops repetitions: an aliased node is decoded wherever it is used,
// but what is wrong with it is wrong once.
func (e Errors) sorted() Errors {
	seen := make(map[Error]bool, len(e))
	e = slices.DeleteFunc(e, func(err *Error) bool {
		again := seen[*err]
		seen[*err] = true
		return again
	})
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}

// maxErrors bounds what a hostile file can make of aliases; nobody reads that many.
const maxErrors = 1000

// reporter collects errors.
type reporter struct {
	file string
	errs Errors
}

func (r *reporter) fail(at pos, what, why, instead string) {
	if r.full() {
		return
	}
	r.errs = append(r.errs, &Error{File: r.file, Line: at.line, Column: at.column, What: what, Why: why, Instead: instead})
}

func (r *reporter) full() bool { return len(r.errs) >= maxErrors }

func (r *reporter) tooManyKeys(at pos) {
	r.fail(at, "too many keys", fmt.Sprintf("no map has more than %d", maxKeys), "write a list")
}

// doubled reports the second use of what must be unique.
func (r *reporter) doubled(at pos, what string, first pos, instead string) {
	r.fail(at, "doubled "+what, fmt.Sprintf("the first one is in line %d", first.line), instead)
}
