//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], childPrefix) {
		exit(runChild(os.Args[1], os.Args[2:]))
	}
	os.Exit(netns.Main(m.Run))
}

// Every load over what needs no other program; measure itself refuses figures that make no sense.
func TestLoads(t *testing.T) {
	if err := netns.Check(); err != nil {
		t.Skip(err)
	}
	for _, sub := range allSubjects {
		if !slices.Contains([]string{"direct", "bare", "bare-router", "bare-packet", "wireguard", "bridge", "bare-dr"}, sub.name) {
			continue
		}
		t.Run(sub.name, func(t *testing.T) {
			ctx := context.Background()
			o := options{dir: t.TempDir(), time: 100 * time.Millisecond, quick: true}
			s, err := setUp(ctx, sub, o)
			var missing *missingError
			if errors.As(err, &missing) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range allLoads {
				got, err := measure(ctx, s, l, o)
				if err != nil {
					t.Errorf("%s: %v", l, err)
				}
				if (got.CPU != nil) != (s.process != nil) {
					t.Errorf("%s: CPU time %v of process %v", l, got.CPU, s.process)
				}
			}
			if err := s.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	if err := netns.Check(); err != nil {
		t.Skip(err)
	}
	sub := subject{name: "broken", start: func(ctx context.Context, s *stand, o options) (err error) {
		s.process, err = startProcess(s.lb.Command(ctx, "/bin/sh", "-c", "echo no good >&2; exit 3"), false)
		return err
	}}
	s, err := setUp(context.Background(), sub, options{dir: t.TempDir()})
	if err == nil {
		s.close()
		t.Fatal("a subject whose process has ended is set up")
	}
	if !strings.Contains(err.Error(), "no good") {
		t.Errorf("error %q, want what the process said", err)
	}
}
