package tunlb

import (
	"fmt"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestFirstServer: a service that had no server has one with the first good word of one, whatever the clock does meanwhile: it does
// not run before Run. What comes later waits for it.
func TestFirstServer(t *testing.T) {
	f := families[0]
	checked := func(_ *Options, c *Config) {
		for i := range c.Services {
			c.Services[i].Health = policy.Health{Type: "tcp", Rise: 1, Fall: 1}
		}
	}
	r := newBox(t, checked)
	syn := pt.TCP(t, at(f.client, 40000), at(f.vip, 80), syn)
	pt.Check(t, r.one(0, 0, syn), pt.HasICMP(f.icmpUnreachable, f.codePort))
	r.e.Report("web-v4", at(f.rs2, 8080), true, "")
	if got := source(t, r.one(0, 0, syn)).Destination(); got != at(f.rs2, 8080) {
		t.Errorf("the connection goes to %v", got)
	}
	r.e.Report("web-v4", at(f.rs1, 8080), true, "")
	if s := r.e.services.Services()[0].Servers[0]; s.Weight != 0 || !r.e.roster.Dirty() {
		t.Errorf("the second one did not wait: weight %d", s.Weight)
	}
	r.e.Report("web-v4", at(f.rs1, 8080), false, "gone")
	r.e.Report("web-v4", at(f.rs2, 8080), false, "gone")
	r.e.Report("web-v4", at(f.rs1, 8080), true, "")
	if s := r.e.services.Services()[0].Servers[0]; s.Weight != 1 {
		t.Errorf("the first one after none: weight %d", s.Weight)
	}
}

// TestFirstServers: a crowd of services that get their first servers has the table built for a bounded time.
func TestFirstServers(t *testing.T) {
	f := families[0]
	const crowd = 50
	now, step := time.Hour, time.Duration(0)
	r := newBox(t, func(o *Options, c *Config) {
		o.Now = func() time.Duration { now += step; return now }
		c.Services = nil
		for i := range uint16(crowd) {
			c.Services = append(c.Services, policy.Spec{
				Name: fmt.Sprint("web", i), Listen: policy.On(at(f.vip, 1000+i), policy.TCP), Health: policy.Health{Type: "tcp", Rise: 1, Fall: 1},
				Servers: []policy.ServerSpec{{Name: "rs1", Address: at(f.rs1, 1000+i), Weight: 1}},
			})
		}
	})
	serving := func() (n int) {
		for _, s := range r.e.services.Services() {
			n += s.Servers[0].Weight
		}
		return n
	}
	step = 500 * time.Microsecond // that each look at the clock takes, and so building
	for i := range uint16(crowd) {
		r.e.Report(fmt.Sprint("web", i), at(f.rs1, 1000+i), true, "")
	}
	first := serving()
	if first < 2 || first > crowd/2 {
		t.Errorf("%d of %d services were served at once, want some of them", first, crowd)
	}
	r.e.expire()
	if n := serving(); n != crowd || r.e.hurried != 0 {
		t.Errorf("%d of %d services are served after a tick; %v are spent already", n, crowd, r.e.hurried)
	}
}
