//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// load is one kind of traffic.
type load struct {
	name    string
	kind    string // the client's word for it
	streams int
}

func (l load) String() string { return l.name }

const (
	kindUp   = "up"
	kindDown = "down"
	kindKept = "kept"
	kindNew  = "new"
	kindIdle = "idle"
)

var allLoads = []load{
	{"up", kindUp, 1},
	{"down", kindDown, 1},
	{"up8", kindUp, 8},
	{"down8", kindDown, 8},
	{"kept", kindKept, 64},
	{"new", kindNew, 64},
	{"idle", kindIdle, 1},
}

const (
	warmUp = 300 * time.Millisecond // slow start and the like, not measured
	settle = 100 * time.Millisecond // about what ending a load takes
)

// length is how long the load is measured. A p99 takes many requests, however short the other loads are.
func (l load) length(o options) time.Duration {
	if l.kind == kindIdle && !o.quick {
		return max(o.time, idleRequests*idlePace)
	}
	return o.time
}

// sample is one load over one subject in one round. Bytes and requests are counted where they
// arrive: requests and what is sent down at the client, what is sent up at the server.
type sample struct {
	Round    int     `json:"round"`
	Subject  string  `json:"subject"`
	Load     string  `json:"load"`
	Seconds  float64 `json:"seconds"`
	Bytes    uint64  `json:"bytes"`
	Requests uint64  `json:"requests"`
	Conns    uint64  `json:"connections"`
	// Served are the requests, accepted connections as the server counted them.
	Served   uint64  `json:"served"`
	Accepted uint64  `json:"accepted"`
	Errors   uint64  `json:"errors"`
	P50      float64 `json:"p50_us,omitempty"`
	P99      float64 `json:"p99_us,omitempty"`
	// CPU are seconds of the subject's processes; nil where there are none.
	CPU *float64 `json:"cpu_seconds,omitempty"`
}

// measureAll runs rounds of all loads over all subjects, and begins each round and each load with
// another one. What was measured before an error is returned with it.
func measureAll(ctx context.Context, o options, stands []*stand) ([]sample, error) {
	var samples []sample
	for round := range o.rounds {
		for i := range o.loads {
			l := o.loads[(round+i)%len(o.loads)]
			for j := range stands {
				s := stands[(round+i+j)%len(stands)]
				got, err := measure(ctx, s, l, o)
				if ctx.Err() != nil {
					return samples, ctx.Err() // whatever err is: the signal may have reached the children
				}
				if err != nil {
					return samples, fmt.Errorf("round %d, %s over %s: %w", round+1, l, s, err)
				}
				got.Round = round + 1
				samples = append(samples, got)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d is done\n", round+1, o.rounds)
	}
	return samples, nil
}

func measure(ctx context.Context, s *stand, l load, o options) (got sample, err error) {
	if l.kind == kindIdle && !o.halting {
		release, err := keepAwake()
		if err != nil {
			return got, err
		}
		defer release()
	}
	if _, err := s.client.call(cmdStart, l.kind, l.streams); err != nil {
		return got, err
	}
	if err := sleep(ctx, warmUp); err != nil {
		return got, err
	}
	before, err := s.cpu()
	if err != nil {
		return got, err
	}
	if _, err := s.server.call(cmdMark); err != nil {
		return got, err
	}
	if _, err := s.client.call(cmdMark); err != nil {
		return got, err
	}
	if err := sleep(ctx, l.length(o)); err != nil {
		return got, err
	}
	atServer, err := s.server.call(cmdReport)
	if err != nil {
		return got, err
	}
	atClient, err := s.client.call(cmdReport)
	if err != nil {
		return got, err
	}
	after, err := s.cpu()
	if err != nil {
		return got, err
	}
	if err := errors.Join(s.checkWay(), s.end(ctx)); err != nil {
		return got, err
	}
	got = sample{
		Subject: s.name, Load: l.name, Seconds: atClient.Elapsed.Seconds(),
		Bytes: atClient.In, Requests: atClient.Requests, Conns: atClient.Conns,
		Served: atServer.Requests, Accepted: atServer.Conns, Errors: atClient.Errors + atServer.Errors,
		P50: microseconds(atClient.P50), P99: microseconds(atClient.P99),
	}
	if l.kind == kindUp {
		got.Seconds, got.Bytes = atServer.Elapsed.Seconds(), atServer.In
	}
	if s.process != nil {
		cpu := (after - before).Seconds()
		got.CPU = &cpu
	}
	return got, check(got, l, errors.New(atClient.Error+atServer.Error))
}

// fewStranded is how many connections of a load may lose their reset.
const fewStranded = 2

// end stops the load and waits until nothing of it is left at the server.
func (s *stand) end(ctx context.Context) error {
	if _, err := s.client.call(cmdStop); err != nil {
		return err
	}
	for end := time.Now().Add(5 * time.Second); ; {
		c, err := s.server.call(cmdReport)
		switch {
		case err != nil:
			return err
		case c.Open <= s.stranded:
			return s.process.alive()
		case time.Now().After(end) && c.Open <= s.stranded+fewStranded:
			// The client ends by a reset, which nobody sends again if it is lost.
			fmt.Fprintf(os.Stderr, "%s: %d connections never ended at the server: their resets were lost\n", s.subject, c.Open-s.stranded)
			s.stranded = c.Open
			return s.process.alive()
		case time.Now().After(end):
			return fmt.Errorf("%d connections are still open at the server%s", c.Open, s.process.said())
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// check refuses figures that mean nothing: broken connections, or two ends that disagree.
func check(got sample, l load, last error) error {
	moved := got.Requests
	if l.kind == kindUp || l.kind == kindDown {
		moved = got.Bytes
	}
	switch apart := max(got.Requests, got.Served) - min(got.Requests, got.Served); {
	case moved == 0:
		return fmt.Errorf("nothing arrived: %w", last)
	case got.Errors > got.Conns/100:
		return fmt.Errorf("%d connections failed, the last: %w", got.Errors, last)
	// The two are asked one after the other, hence some that were under way.
	case l.kind != kindUp && l.kind != kindDown && apart > 100+moved/20:
		return fmt.Errorf("the client counts %d requests, the server %d", got.Requests, got.Served)
	}
	return nil
}

func (s *stand) cpu() (time.Duration, error) {
	if s.process == nil {
		return 0, nil
	}
	return s.process.cpu()
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
