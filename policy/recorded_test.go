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
	l := &lab{t: t, spec: policy.Spec{Name: "web", Listen: vip, Proto: policy.TCP, Scheduler: scheduler}}
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
	var picks []string
	for range n {
		server := l.table.Services()[0].Pick(policy.Client{})
		if server == nil {
			picks = append(picks, "-")
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
	recordedLine  = regexp.MustCompile(`^(\w+) (\d+) (\d+) (\d+)(?:, \d+ picks)?(?: seq while (\d+) held)?\s*: (held: )?([1-3 ]+)$`)
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
		name, _, _ := strings.Cut(line, " ")
		if name != "" && !slices.Contains(policy.Schedulers(), name) {
			continue // a comment, or a scheduler still to come
		}
		held, want := false, ""
		if m := recordedLine.FindStringSubmatch(line); m != nil {
			l = newLab(t, m[1], []int{atoi(m[2]), atoi(m[3]), atoi(m[4])})
			if m[5] != "" {
				l.connect(atoi(m[5]), true)
			}
			held, want = m[6] != "", m[7]
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
		if got := l.connect(len(strings.Fields(want)), held); got != want {
			t.Errorf("line %d: %s\n got %s\nwant %s", i+1, line, got, want)
		}
		replayed++
	}
	if replayed != 19 {
		t.Errorf("replayed %d recordings, want 19", replayed)
	}
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(fmt.Sprintf("not a number: %q", s))
	}
	return n
}
