//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// outcome is what a case has shown. The zero value is ready; it has failed while it has no figure.
type outcome struct {
	// shared says that others work on the machine meanwhile, as tests of other packages do. Times may be longer by allowance then,
	// and what only a quiet machine keeps is shown and not judged.
	shared bool
	checks []check
}

// allowance is how much later than wanted something may happen on a shared machine. What never happens fails all the same.
const allowance = 10 * time.Second

// never is the time of what has not happened while it was waited for.
const never = 24 * time.Hour

// check is a figure beside its target, or a proof that the attack happened.
type check struct {
	what, got, want string
	proof, ok       bool
	shown           bool // not judged here
}

func (c *check) failed() bool { return !c.ok && !c.shown }

func (o *outcome) add(ok, proof bool, what, got, want string) {
	o.checks = append(o.checks, check{what: what, got: got, want: want, proof: proof, ok: ok})
}

// quietly says that checks depend on who else works on the machine: those named, or the last.
func (o *outcome) quietly(names ...string) {
	for i := range o.checks {
		if slices.Contains(names, o.checks[i].what) || len(names) == 0 && i == len(o.checks)-1 {
			o.checks[i].shown = o.shared
		}
	}
}

// atLeast and atMost are figures; unit is printed behind them.
func (o *outcome) atLeast(what string, got, want float64, unit string) {
	o.add(got >= want, false, what, figure(got, unit), ">= "+figure(want, unit))
}

func (o *outcome) atMost(what string, got, want float64, unit string) {
	o.add(got <= want, false, what, figure(got, unit), "<= "+figure(want, unit))
}

// within is a time and its limit.
func (o *outcome) within(what string, got, want time.Duration) {
	text, took := "<= "+rounded(want), rounded(got)
	if got >= never {
		took = "never"
	}
	if o.shared {
		want += allowance
		text += ", here " + rounded(want)
	}
	o.add(got <= want, false, what, took, text)
}

// holds is something that is so or not; detail says what is there instead.
func (o *outcome) holds(what string, ok bool, detail string) {
	got := "yes"
	if !ok {
		got = "no: " + strings.TrimSpace(detail)
	}
	o.add(ok, false, what, got, "yes")
}

// prove is what shows that the attack happened.
func (o *outcome) prove(what string, got, atLeast float64, unit string) {
	o.add(got >= atLeast, true, what, figure(got, unit), ">= "+figure(atLeast, unit))
}

// failed says whether something is below its target, or nothing was judged or proven at all.
func (o *outcome) failed() bool {
	if o == nil {
		return true
	}
	figures, proofs := 0, 0
	for _, c := range o.checks {
		switch {
		case c.failed():
			return true
		case c.shown:
		case c.proof:
			proofs++
		default:
			figures++
		}
	}
	return figures == 0 || proofs == 0
}

// failures are the names of what is below its target.
func (o *outcome) failures() (names []string) {
	if o == nil {
		return nil
	}
	for _, c := range o.checks {
		if c.failed() {
			names = append(names, c.what)
		}
	}
	return names
}

func (o *outcome) print(w io.Writer) {
	if o == nil {
		return
	}
	for _, c := range o.checks {
		verdict := "ok    "
		switch {
		case c.failed():
			verdict = "BELOW "
		case c.shown:
			verdict = "shown "
		}
		kind := ""
		if c.proof {
			kind = "proof: "
		}
		fmt.Fprintf(w, "  %s%-58s %14s   wants %s\n", verdict, kind+c.what, c.got, c.want)
	}
}

func (o *outcome) String() string {
	var b strings.Builder
	o.print(&b)
	return b.String()
}

func figure(v float64, unit string) string {
	text := fmt.Sprintf("%.1f", v)
	if v == float64(int64(v)) {
		text = fmt.Sprint(int64(v))
	}
	if unit == "" {
		return text
	}
	return text + " " + unit
}

func rounded(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
