//go:build linux

package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
)

// On these segments nobody but the subject may lead the client to the VIP, and here it is missing. The
// server that answers ARP itself shows that it would be found out.
func TestNoWayPastTheSubject(t *testing.T) {
	if err := netns.Check(); err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct {
		name    string
		network func(*stand) error
		loud    bool
	}{
		{"one bridge, quiet server", func(s *stand) error { return errors.Join(s.makeSegment(shared), s.quietServer()) }, false},
		{"two bridges", func(s *stand) error { return errors.Join(s.makeSegment(clients, servers), s.onServer()) }, false},
		{"one bridge, loud server", func(s *stand) error { return errors.Join(s.makeSegment(shared), s.onServer()) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &stand{subject: subject{name: "test", segment: true}}
			defer func() {
				if err := s.close(); err != nil {
					t.Error(err)
				}
			}()
			err := s.makeNetwork()
			if err == nil {
				err = tt.network(s)
			}
			if err == nil {
				s.server, err = startChild(s.serveNS, childServer, neighbour.String())
			}
			if err != nil {
				t.Fatal(err)
			}
			patience := 300 * time.Millisecond
			if tt.loud {
				patience = 10 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := s.clientNS.DialContext(ctx, "tcp", vip.String())
			if err == nil {
				c.Close()
			}
			if (err == nil) != tt.loud {
				t.Errorf("dial the VIP: %v, want success: %t", err, tt.loud)
			}
			if err := s.checkWay(); (err != nil) != tt.loud || tt.loud && !strings.Contains(err.Error(), "do not pass the LB") {
				t.Errorf("checkWay: %v, want an error: %t", err, tt.loud)
			}
		})
	}
}
