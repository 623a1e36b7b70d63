package tunlb

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tunlb/tunlb/policy"
)

// large is an engine with as many services, and as many servers each.
func large(t testing.TB, services, servers int) *Engine {
	t.Helper()
	var specs []policy.Spec
	for i := range services {
		spec := policy.Spec{
			Name: fmt.Sprintf("s%d", i), Scheduler: "wlc", Mode: policy.NAT,
			Listen: []policy.Listen{{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Proto: policy.TCP, First: 80, Last: 80}},
		}
		for k := range servers {
			spec.Servers = append(spec.Servers, policy.ServerSpec{
				Name: fmt.Sprintf("rs%d", k), Weight: 1,
				Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(k >> 8), byte(k)}), 8080),
			})
		}
		specs = append(specs, spec)
	}
	p := newRecorder("tun0", 1500)
	e, err := New(Options{Attachments: []Attachment{{Port: p, Kernel: true}}, MaxFlows: 1000, Log: zerolog.Nop()}, Config{Services: specs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// TestStatusInBatches: a status that takes several holds of the lock lists every service and server once, also while
// the services change.
func TestStatusInBatches(t *testing.T) {
	const services, servers = 20, 60 // more than three batches
	e := large(t, services, servers)
	all := Config{Services: slices.Clone(e.config.Services)}
	half := Config{Services: all.Services[:services/2]}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		for range 20 {
			for _, cfg := range []Config{half, all} {
				if err := e.Apply(cfg); err != nil {
					t.Error(err)
				}
			}
		}
	})
	sizes := map[int]bool{}
	for over := false; !over; {
		select {
		case <-ended:
			over = true
		default:
		}
		list := e.Status().Services
		sizes[len(list)] = true
		for i, svc := range list {
			if svc.Name != all.Services[i].Name || len(svc.Servers) != servers || svc.Servers[servers-1].Name != all.Services[i].Servers[servers-1].Name {
				t.Fatalf("service %d is %s with %d servers", i, svc.Name, len(svc.Servers))
			}
		}
	}
	wg.Wait()
	delete(sizes, services)
	delete(sizes, services/2)
	if len(sizes) > 0 {
		t.Errorf("lists of %v services, want all or half of them", sizes)
	}
}

// TestLaneTime: a lane's thread has used more after it has worked, and nothing is said of one that does not run.
func TestLaneTime(t *testing.T) {
	var th thread
	if got := th.busy(); got != 0 {
		t.Errorf("without a thread: %v", got)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	th.enter()
	before := th.busy()
	if before == 0 {
		t.Skip("this system does not tell what a thread has used")
	}
	for began := time.Now(); th.busy() < before+20*time.Millisecond; {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("after %v of work the thread has used %v more", time.Since(began), th.busy()-before)
		}
	}
	th.leave()
	if got := th.busy(); got != 0 {
		t.Errorf("after the thread was left: %v", got)
	}
}

// BenchmarkStatus is a snapshot of 100 services with 100 servers each, and of about as many as are copied in one hold
// of the lock: what packets wait at most.
func BenchmarkStatus(b *testing.B) {
	for _, size := range []struct{ services, servers int }{{100, 100}, {2, statusBatch / 2}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.servers), func(b *testing.B) {
			e := large(b, size.services, size.servers)
			b.ReportAllocs()
			for b.Loop() {
				e.Status()
			}
		})
	}
}
