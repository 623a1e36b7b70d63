package policy_test

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

// lab is a table with one service whose servers are named 1, 2, 3..., and the flows that were opened.
type lab struct {
	t     *testing.T
	spec  policy.Spec
	table *policy.Table
}

var vip = netip.MustParseAddrPort("10.0.0.10:80")

// newLab adds the servers in turn as ipvsadm does, each at the list's head: 1, 2, 3 become 3, 2, 1.
func newLab(t *testing.T, scheduler string, weights []int) *lab {
	l := &lab{t: t, spec: policy.Spec{Name: "web", Listen: policy.On(vip, policy.TCP), Scheduler: scheduler}}
	for i, w := range weights {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 1, byte(11 + i)}), 80)
		server := policy.ServerSpec{Name: strconv.Itoa(i + 1), Address: address, Weight: w}
		l.spec.Servers = slices.Insert(l.spec.Servers, 0, server)
	}
	l.build()
	return l
}

func (l *lab) build() {
	l.t.Helper()
	table, err := policy.Build([]policy.Spec{l.spec}, l.table)
	if err != nil {
		l.t.Fatal(err)
	}
	l.table = table
}

// connect opens n connections, one after another. Held ones stay established; others are closed before the
// next opens and remain in TIME_WAIT, which outlasts every recording.
func (l *lab) connect(n int, held bool) string {
	return l.connectFrom(make([]policy.Client, n), held)
}

func (l *lab) connectFrom(clients []policy.Client, held bool) string {
	var picks []string
	for _, c := range clients {
		c.Dst, c.DstPort, c.Proto = vip.Addr().As16(), vip.Port(), policy.TCP
		server := l.table.Services()[0].Pick(c)
		if server == nil {
			picks = append(picks, "ERR(refused)")
			continue
		}
		server.Add(true)
		if !held {
			server.Move(false)
		}
		picks = append(picks, server.Name)
	}
	return strings.Join(picks, " ")
}

var (
	recordedLine  = regexp.MustCompile(`^(\w+) (\d+) (\d+) (\d+)(?:, \d+ picks)?(?: seq while (\d+) held)?\s*: (held: )?([1-3 ]+(?: ERR\(refused\))*)$`)
	recordedHash  = regexp.MustCompile(`^(\w+)( -b \w+-port)? (\d+) (\d+) (\d+) src ([\d.]+)(?:\.\.\d+| ports (\d+)\.\.\d+) : ([1-3 ]+)$`)
	thenWeight    = regexp.MustCompile(`^  then (\d) -> weight (\d+) : ([1-3 ]+)$`)
	thenScheduler = regexp.MustCompile(`^  then -E -s (\w+) : ([1-3 ]+)$`)
)

// TestRecorded replays what the kernel's IPVS picked.
func TestRecorded(t *testing.T) {
	file, err := os.ReadFile("testdata/sched.txt")
	if err != nil {
		t.Fatal(err)
	}
	var l *lab
	replayed := 0
	for i, line := range strings.Split(strings.TrimRight(string(file), "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		held, want := false, ""
		var clients []policy.Client
		if m := recordedLine.FindStringSubmatch(line); m != nil {
			l = newLab(t, m[1], []int{atoi(m[2]), atoi(m[3]), atoi(m[4])})
			if m[5] != "" {
				l.connect(atoi(m[5]), true)
			}
			held, want = m[6] != "", m[7]
		} else if m := recordedHash.FindStringSubmatch(line); m != nil {
			l = newLab(t, m[1], []int{atoi(m[3]), atoi(m[4]), atoi(m[5])})
			if m[2] != "" {
				l.spec.Flags = policy.HashPort
				l.build()
			}
			want = m[8]
			src, port := netip.MustParseAddr(m[6]), uint16(0)
			for i := range strings.Fields(want) { // 32 addresses, or 32 ports of one address
				if m[7] != "" {
					port = uint16(atoi(m[7]) + i)
				}
				clients = append(clients, policy.Client{Src: src.As16(), SrcPort: port})
				if m[7] == "" {
					src = src.Next()
				}
			}
		} else if m := thenWeight.FindStringSubmatch(line); m != nil {
			at := slices.IndexFunc(l.spec.Servers, func(s policy.ServerSpec) bool { return s.Name == m[1] })
			l.spec.Servers[at].Weight = atoi(m[2])
			l.build()
			want = m[3]
		} else if m := thenScheduler.FindStringSubmatch(line); m != nil {
			l.spec.Scheduler = m[1]
			l.build()
			want = m[2]
		} else {
			t.Fatalf("line %d: cannot read %q", i+1, line)
		}
		if clients == nil {
			clients = make([]policy.Client, len(strings.Fields(want)))
		}
		if got := l.connectFrom(clients, held); got != want {
			t.Errorf("line %d: %s\n got %s\nwant %s", i+1, line, got, want)
		}
		replayed++
	}
	if replayed != 38 {
		t.Errorf("replayed %d recordings, want 38", replayed)
	}
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(fmt.Sprintf("not a number: %q", s))
	}
	return n
}
