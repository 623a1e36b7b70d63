//go:build linux

package main

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

func subjectOf(t *testing.T, name string) subject {
	t.Helper()
	i := slices.IndexFunc(allSubjects, func(s subject) bool { return s.name == name })
	if i < 0 {
		t.Fatalf("no subject %s", name)
	}
	return allSubjects[i]
}

// The box's kernel sees what the rings take. It is to drop it without a word: neither forward it, nor tell anybody that
// it doesn't, or the figures are of both of them.
func TestRingAlone(t *testing.T) {
	if err := netns.Check(); err != nil {
		t.Skip(err)
	}
	ctx := context.Background()
	o := options{dir: t.TempDir(), time: 100 * time.Millisecond, quick: true}
	s, err := setUp(ctx, subjectOf(t, "bare-packet"), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, l := range []load{{"down8", kindDown, 8}, {"new", kindNew, 64}} {
		if _, err := measure(ctx, s, l, o); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
	counters, err := s.lb.Command(ctx, "cat", "/proc/net/snmp").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range [][2]string{{"Ip", "ForwDatagrams"}, {"Icmp", "OutMsgs"}, {"Tcp", "OutRsts"}} {
		if got := snmp(t, string(counters), name[0], name[1]); got != "0" {
			t.Errorf("the box's kernel counts %s %s of %s, want none", got, name[1], name[0])
		}
	}
	if got := snmp(t, string(counters), "Ip", "InReceives"); got == "0" {
		t.Error("the box's kernel has seen nothing: these counters are of another namespace")
	}
}

// snmp finds a counter in /proc/net/snmp, whose names and values are a line each.
func snmp(t *testing.T, text, protocol, name string) string {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^`+protocol+`: .*$`).FindAllString(text, 2)
	if len(lines) != 2 {
		t.Fatalf("no %s in\n%s", protocol, text)
	}
	i := slices.Index(strings.Fields(lines[0]), name)
	if i < 0 {
		t.Fatalf("no %s in %s", name, lines[0])
	}
	return strings.Fields(lines[1])[i]
}

// With the offload on, veth pairs pass packets whose checksum nobody has computed, right or wrong.
func TestLoopsWithoutOffload(t *testing.T) {
	if err := netns.Check(); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{"bare", "bare-packet", "wireguard"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			o := options{dir: t.TempDir(), time: 100 * time.Millisecond, quick: true}
			sub := subjectOf(t, name)
			start := sub.start
			sub.start = func(ctx context.Context, s *stand, o options) error {
				for _, ns := range []*netns.NS{s.clientNS, s.serveNS} {
					if err := ns.SetOffload("eth0", false); err != nil {
						return err
					}
				}
				return start(ctx, s, o)
			}
			s, err := setUp(ctx, sub, o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.close(); err != nil {
					t.Error(err)
				}
			}()
			for _, l := range []load{{"up", kindUp, 1}, {"down", kindDown, 1}, {"kept", kindKept, 8}} {
				if _, err := measure(ctx, s, l, o); err != nil {
					t.Errorf("%s: %v", l, err)
				}
			}
		})
	}
}
