package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// often is how long a step with within: waits between two looks, on the lab's clock.
const often = 50 * time.Millisecond

// StepResult is what has come of a step. A plain value.
type StepResult struct {
	Number int           `json:"number"` // from 1
	Line   int           `json:"line"`   // in the file
	Name   string        `json:"name"`   // or what was done
	Action string        `json:"action"` // its key
	OK     bool          `json:"ok"`
	Took   time.Duration `json:"took_ns"` // on the lab's clock
	Got    string        `json:"got"`     // "" if there is nothing to say
	Want   string        `json:"want,omitempty"`
}

// Text is the result as one line for people, or two where something else was wanted.
func (r StepResult) Text() string {
	mark := "ok  "
	if !r.OK {
		mark = "FAIL"
	}
	line := fmt.Sprintf("%s %2d  %s", mark, r.Number, r.Name)
	if r.Got != "" {
		line += ": " + r.Got
	}
	line += fmt.Sprintf("  (%s)", rounded(r.Took))
	if !r.OK {
		line += fmt.Sprintf("\n         line %d wants %s", r.Line, r.Want)
	}
	return line
}

func rounded(d time.Duration) time.Duration {
	if d >= time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}

// Failed is the error of a run in which steps did not come to what they want.
type Failed struct {
	File    string
	Results []StepResult // those
}

// Error names the first of them.
func (f *Failed) Error() string {
	first := f.Results[0]
	more := ""
	if n := len(f.Results) - 1; n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	return fmt.Sprintf("%s: step %d in line %d, %s: got %s, want %s%s", f.File, first.Number, first.Line, first.Name, first.Got, first.Want, more)
}

// Run takes a file's steps in a lab that was made of it, in their order, and reports each as it ends; report is called by the
// goroutine of Run. The first step that fails ends it with a *Failed. Other errors are those of the lab itself and
// of ctx.
func Run(ctx context.Context, lab Lab, f *File, report func(StepResult)) error {
	return run(ctx, lab, f, report, false)
}

// RunAll is Run, but takes the other steps, too, when one has failed.
func RunAll(ctx context.Context, lab Lab, f *File, report func(StepResult)) error {
	return run(ctx, lab, f, report, true)
}

func run(ctx context.Context, lab Lab, f *File, report func(StepResult), all bool) error {
	r := &runner{lab: lab, file: f, held: make(map[string]*held)}
	defer r.close()
	failed := &Failed{File: f.Name}
	for i := range f.Steps {
		result, err := r.step(ctx, i)
		if err != nil {
			return fmt.Errorf("step %d in line %d, %s: %w", result.Number, result.Line, result.Name, err)
		}
		report(result)
		if !result.OK {
			failed.Results = append(failed.Results, result)
			if !all {
				break
			}
		}
	}
	if len(failed.Results) > 0 {
		return failed
	}
	return nil
}

// runner is one run. Not safe for concurrent use.
type runner struct {
	lab  Lab
	file *File
	held map[string]*held
}

func (r *runner) close() {
	for _, h := range r.held {
		h.conn.Close()
	}
}

// outcome is what an action has come to.
type outcome struct {
	ok        bool
	got, want string
}

// step takes one step, or looks until it comes true or its time is over.
func (r *runner) step(ctx context.Context, i int) (StepResult, error) {
	s, began := &r.file.Steps[i], r.lab.Now()
	result := StepResult{Number: i + 1, Line: s.Line, Name: s.Title(), Action: s.Do.Key()}
	limited, cancel := ctx, func() {}
	if s.Within > 0 {
		limited, cancel = r.lab.After(ctx, s.Within)
	}
	defer cancel()
	for {
		o, err := r.do(ctx, s)
		switch {
		case ctx.Err() != nil:
			return result, context.Cause(ctx)
		case err != nil:
			return result, err
		}
		result.OK, result.Got, result.Want, result.Took = o.ok, o.got, o.want, r.lab.Now()-began
		if o.ok || s.Within == 0 || limited.Err() != nil {
			if !o.ok && s.Within > 0 {
				result.Want += fmt.Sprintf(" within %v", s.Within)
			}
			return result, nil
		}
		if err := r.wait(ctx, often); err != nil {
			return result, err
		}
	}
}

// wait lets time pass on the lab's clock.
func (r *runner) wait(ctx context.Context, d time.Duration) error {
	passed, cancel := r.lab.After(ctx, d)
	defer cancel()
	<-passed.Done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// do takes a step once. An error is the lab's; what the step fails with is an outcome.
func (r *runner) do(ctx context.Context, s *Step) (outcome, error) {
	switch do := s.Do.(type) {
	case *Request:
		return judge(&s.Expect, do.Count, r.request(ctx, do)), nil
	case *UDP:
		return judge(&s.Expect, do.Count, r.udp(ctx, do)), nil
	case *Ping:
		return judge(&s.Expect, do.Count, r.ping(ctx, do)), nil
	case *Hold:
		return r.judged(ctx, s, r.hold(ctx, do))
	case *Check:
		return r.judged(ctx, s, r.check(ctx, do))
	case *End:
		r.held[do.Hold].conn.Close()
		delete(r.held, do.Hold)
		return outcome{ok: true}, nil
	case *Order:
		return r.order(ctx, do)
	case *Kill:
		return r.kill(ctx, do)
	case *Behave:
		return outcome{ok: true}, r.lab.Behave(do.Host, do.Port, do.Behaviour)
	case *Impair:
		return outcome{ok: true}, r.lab.Impair(do.Host, do.Network, do.Impairment)
	case *Status:
		return r.status(ctx, do)
	case *Wait:
		return outcome{ok: true}, r.wait(ctx, do.For)
	case *Drops:
		return r.drops(ctx, do)
	case *Explain:
		a, err := r.explain(ctx, do)
		if err != nil {
			return outcome{}, err
		}
		return judge(&s.Expect, 1, []answer{a}), nil
	}
	return outcome{}, errors.New("unknown action")
}
