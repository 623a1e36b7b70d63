package scenario

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// judge compares attempts with what is expected of them.
func judge(e *Expectation, attempts int, answers []answer) outcome {
	j := judgement{e: e, ok: len(answers) == attempts}
	for _, a := range answers {
		j.add(a)
	}
	j.servers()
	return outcome{j.ok, j.summary(len(answers)), e.wants(attempts, answers)}
}

// judgement is made of all answers of a step.
type judgement struct {
	e        *Expectation
	ok       bool
	answered int
	by       map[string]int // answers of each server
	clients  map[string]int // whom they have seen
	tally    map[string]int // failures, and what answers have that is not as expected
	fastest  time.Duration
	slowest  time.Duration
}

func (j *judgement) add(a answer) {
	if j.by == nil {
		j.by, j.clients, j.tally, j.fastest = make(map[string]int), make(map[string]int), make(map[string]int), a.took
	}
	j.fastest, j.slowest = min(j.fastest, a.took), max(j.slowest, a.took)
	if j.e.Took != nil && !j.e.Took.Holds(int64(a.took)) {
		j.ok = false
	}
	if a.failed != "" {
		j.tally[a.failed]++
		fails := j.e.Alive != nil && !*j.e.Alive && len(j.e.Errors) == 0
		j.ok = j.ok && (fails || slices.Contains(j.e.Errors, a.failed))
		return
	}
	j.answered++
	if a.server != "" {
		j.by[a.server]++
	}
	if len(j.e.Errors) > 0 || j.e.Alive != nil && !*j.e.Alive {
		j.ok = false
	}
	j.odd(a.status != 0 && a.status != cmp.Or(j.e.Status, http.StatusOK), fmt.Sprintf("status %d", a.status))
	if len(j.e.Client) > 0 {
		j.odd(!slices.Contains(j.e.Client, a.client), "client "+a.client.String())
		j.clients[a.client.String()]++
	}
	j.odd(j.e.Bytes != nil && !j.e.Bytes.Holds(a.bytes), fmt.Sprintf("%d bytes", a.bytes))
	j.odd(len(j.e.AnyOf) > 0 && !slices.Contains(j.e.AnyOf, a.server), "")
}

// odd notes an answer that is not as expected.
func (j *judgement) odd(is bool, what string) {
	if !is {
		return
	}
	j.ok = false
	if what != "" {
		j.tally[what]++
	}
}

// servers compares how often each has answered.
func (j *judgement) servers() {
	if len(j.e.Servers) == 0 {
		return
	}
	known := 0
	for _, is := range j.e.Servers {
		if !is.Times.Holds(int64(j.by[is.Server])) {
			j.ok = false
		}
		known += j.by[is.Server]
	}
	if known != j.answered { // others have, or some that do not say who they are
		j.ok = false
	}
}

// summary is like "rs1 2, rs2 1, timeout 1".
func (j *judgement) summary(attempts int) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(j.by)) {
		words = append(words, counted(name, j.by[name], attempts))
	}
	if len(j.by) == 0 && j.answered > 0 {
		words = append(words, counted("answered", j.answered, attempts))
	}
	for _, what := range slices.Sorted(maps.Keys(j.tally)) {
		words = append(words, counted(what, j.tally[what], attempts))
	}
	if len(j.clients) > 0 && j.ok {
		words = append(words, "client "+strings.Join(slices.Sorted(maps.Keys(j.clients)), " and "))
	}
	if j.e.Took != nil && attempts > 0 {
		took := rounded(j.slowest).String()
		if attempts > 1 {
			took = rounded(j.fastest).String() + " to " + took
		}
		words = append(words, took)
	}
	return strings.Join(words, ", ")
}

// counted leaves out the number of what there is one of.
func counted(what string, n, of int) string {
	if of == 1 {
		return what
	}
	return fmt.Sprintf("%s %d", what, n)
}

// wants is what is expected, in the words of summary.
func (e *Expectation) wants(attempts int, answers []answer) string {
	var words []string
	for _, is := range e.Servers {
		words = append(words, is.Server+" "+is.Times.String())
	}
	if len(e.AnyOf) > 0 {
		words = append(words, strings.Join(e.AnyOf, " or "))
	}
	if len(e.Client) > 0 {
		var clients []string
		for _, c := range e.Client {
			clients = append(clients, c.String())
		}
		words = append(words, "client "+strings.Join(clients, " or "))
	}
	if e.Bytes != nil {
		words = append(words, e.Bytes.String()+" bytes")
	}
	switch {
	case len(e.Errors) > 0:
		words = append(words, strings.Join(e.Errors, " or "))
	case e.Alive != nil && !*e.Alive:
		words = append(words, "no echo")
	case e.Status != 0:
		words = append(words, fmt.Sprintf("status %d", e.Status))
	case len(words) == 0 || slices.ContainsFunc(answers, func(a answer) bool { return a.failed != "" || a.status != 0 && a.status != http.StatusOK }):
		words = append(words, counted("answered", attempts, attempts))
	}
	if e.Took != nil {
		words = append(words, "each in "+e.Took.String())
	}
	return strings.Join(words, ", ")
}
