package sim

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// hundred is a lab of 100 hosts, one of them the client.
func hundred(t testing.TB) *Lab {
	f := parse(t, fmt.Sprintf(natLab, ""))
	server := f.Hosts[1]
	for i := len(f.Hosts); i < 100; i++ {
		h := server
		h.Name = fmt.Sprintf("rs%d", i)
		h.Attachments = append(h.Attachments[:0:0], h.Attachments...)
		h.Attachments[0].Addresses = []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("192.168.0.%d/24", 100+i)), netip.MustParsePrefix(fmt.Sprintf("2001:db8:c0::%d/64", 100+i)),
		}
		f.Hosts = append(f.Hosts, h)
	}
	return up(t, f)
}

// TestFootprint: a hundred hosts, each of which has answered, fit a small machine.
func TestFootprint(t *testing.T) {
	before, residentBefore := memory(), resident(t)
	l := hundred(t)
	took := l.Now()
	for name, h := range l.hosts {
		if name == "client" {
			continue
		}
		if _, err := get(l, "client", "http://"+netip.AddrPortFrom(h.addresses()[0], 8080).String()+"/bytes/10000", 5*time.Second); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	debug.FreeOSMemory()
	used, residentUsed := memory()-before, resident(t)-residentBefore
	t.Logf("%d hosts: %.1f MiB in use, %.1f MiB resident, up in %v, %d goroutines", len(l.hosts), float64(used)/(1<<20), float64(residentUsed)/(1<<20), took, runtime.NumGoroutine())
	if used > 100<<20 {
		t.Errorf("%d MiB, want at most 100", used>>20)
	}
}

// memory is what heap and stacks take, once what nobody needs is gone.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// resident is the process's resident set, where the system tells it; else 0.
func resident(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Fscan(strings.NewReader(string(text)), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
