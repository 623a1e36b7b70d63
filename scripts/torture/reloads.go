//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const reloadsTarget = "no connection fails"

// reloadsBroken is how a negative control breaks the case.
type reloadsBroken struct {
	reset bool // connections to the server that goes are reset (on_delete: reset), and last long enough for that
	same  bool // the file stays as it is
}

// reloads alternates between two files that differ in a server and in weights. A server that is taken away may keep its connections:
// those that it has when it goes are no failures of a reload.
func reloads(ctx context.Context, o options, w way, broken reloadsBroken) (_ *outcome, err error) {
	s, err := open(o, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	keep := "keep"
	if broken.reset {
		keep = "reset"
	}
	all := w.service("web", webPort, "tcp", fmt.Sprintf("on_delete: %s, ", keep)) + w.service("echo", echoPort, "tcp", fmt.Sprintf("on_delete: %s, ", keep))
	all = strings.ReplaceAll(all, "scheduler: rr", "scheduler: wrr")
	fewer := strings.NewReplacer(", {name: rs3, address: 192.168.0.12:80}", "", ", {name: rs3, address: 192.168.0.12:7}", "",
		"{name: rs1, address: 192.168.0.10:80}", "{name: rs1, address: 192.168.0.10:80, weight: 5}").Replace(all)
	files := []string{fewer, all}
	if broken.same {
		files = []string{all, all}
	}
	if err := s.configure(all); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	client := s.lab.NS("client")
	lasting, err := hold(ctx, client, 30)
	if err != nil {
		return nil, err
	}
	defer lasting.close()
	n := pick(o, 50, 1000)
	perSecond := pick(o, 250, 500)
	a := arrive(ctx, client, perSecond, patience)
	began := time.Now()
	var changed int
	for i := range n + 1 { // one more: at the end the server is gone, and what became of its connections shows whenever it is looked at
		if err = s.configure(files[i%2]); err != nil {
			break
		}
		r, reloaded := s.client().Reload(ctx, false)
		if err = reloaded; err == nil && len(r.Errors) > 0 {
			err = errors.New(strings.Join(r.Errors, "; "))
		}
		if err != nil {
			err = fmt.Errorf("reload %d: %w", i+1, err)
			break
		}
		if len(r.Changes) > 0 {
			changed++
		}
	}
	took := time.Since(began)
	if rest := o.window(time.Second, 5*time.Second) - took; err == nil && rest > 0 {
		err = sleep(ctx, rest)
	}
	ran := time.Since(began)
	opened := a.count()
	attempts := a.wait()
	if err != nil {
		return nil, err
	}
	failed, first := failures(attempts)
	still, why := lasting.answering(patience)
	var answered = map[string]int{}
	for _, at := range attempts {
		answered[at.server]++
	}
	o.log("%d reloads in %s; answered by %v", n, took.Round(time.Millisecond), answered)
	out := o.outcome()
	out.prove("reloads that changed something", float64(changed), float64(n+1), "")
	out.prove("connections opened meanwhile", float64(opened)/ran.Seconds(), float64(perSecond)*0.8, "/s")
	out.quietly()
	out.prove("connections for each reload", float64(len(attempts))/float64(n), 0.5, "")
	out.atMost("connections that failed", float64(failed), 0, fmt.Sprintf("of %d", len(attempts)))
	for _, at := range attempts {
		if at.err != nil {
			status, _ := s.status(ctx)
			o.log("the first, %s after the first reload: %v; drops %v", rounded(at.began.Sub(began)), first, status.Drops)
			break
		}
	}
	out.holds("connections of before still there", still == len(lasting), fmt.Sprintf("%d of %d: %v", still, len(lasting), why))
	return out, nil
}
