package replay

import (
	"net/netip"
	"time"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// Summary is what came of a replay. A plain value; equal for equal runs.
type Summary struct {
	Seed     uint64        `json:"seed"`
	First    time.Time     `json:"first"`       // when the first packet came
	Duration time.Duration `json:"duration_ns"` // from it to the last, by the file's times

	Read    int            `json:"read"`              // packets in the file
	In      int            `json:"in"`                // of them: replayed
	Skipped map[string]int `json:"skipped,omitempty"` // of them: not replayed, by cause
	Out     int            `json:"out"`               // frames that tunlb has written
	Own     int            `json:"own"`               // of them: its own words, such as answers to ping, ARP requests
	Exits   map[string]int `json:"exits"`             // where the replayed packets went
	Dropped int            `json:"dropped"`           // of the replayed packets
	// Drops are packets by reason, those included that were dropped later or were tunlb's own.
	Drops    map[string]uint64 `json:"drops"`
	Held     int               `json:"held"`     // packets that had to wait for a MAC, or for the first of their fragments
	Answers  int               `json:"answered"` // questions of tunlb for a MAC that the file had the answer to
	Flows    int               `json:"flows"`    // connections opened
	Services []Service         `json:"services"`
}

// Service is a virtual service and what its servers got.
type Service struct {
	Name      string   `json:"name"`
	Scheduler string   `json:"scheduler"`
	Conns     uint64   `json:"conns"`
	Servers   []Server `json:"servers"`
}

// Server is a real server and what it got.
type Server struct {
	Name    string         `json:"name"`
	Address netip.AddrPort `json:"address"`
	Weight  int            `json:"weight"`
	Share   float64        `json:"share"` // of the service's connections, from 0 to 1
	tunlb.Traffic
}

func newSummary(seed uint64) *Summary {
	return &Summary{Seed: seed, Skipped: map[string]int{}, Exits: map[string]int{}, Services: []Service{}}
}

// note counts a record.
func (s *Summary) note(r *watch.Record) {
	s.Out += len(r.Out)
	if r.In == nil && !r.Waited {
		s.Own += len(r.Out)
	}
	if r.Opened {
		s.Flows++
	}
}

// noteIn counts where a packet of the file went.
func (s *Summary) noteIn(r *watch.Record) {
	s.In++
	switch {
	case r.Drop != "":
		s.Dropped++
	case r.Exit == "held", r.Exit == "parked":
		s.Held++
		fallthrough
	default:
		s.Exits[r.Exit]++
	}
}

// finish adds what the engine has counted.
func (s *Summary) finish(st tunlb.Status) {
	s.Drops = st.Drops
	for _, svc := range st.Services {
		out := Service{Name: svc.Name, Scheduler: svc.Scheduler, Conns: svc.Traffic.Conns, Servers: []Server{}}
		for _, srv := range svc.Servers {
			server := Server{Name: srv.Name, Address: srv.Address, Weight: srv.Weight, Traffic: srv.Traffic}
			if out.Conns > 0 {
				server.Share = float64(srv.Traffic.Conns) / float64(out.Conns)
			}
			out.Servers = append(out.Servers, server)
		}
		s.Services = append(s.Services, out)
	}
}
