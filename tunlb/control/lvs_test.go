package control

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// lvs is a table that ipvsadm changes.
type lvs struct {
	lvsMu   sync.Mutex
	state   ipvs.State
	entries []ipvs.Entry
	zeroed  int
}

func (l *lvs) LVS() (ipvs.State, []ipvs.Entry) {
	l.lvsMu.Lock()
	defer l.lvsMu.Unlock()
	return l.state, l.entries
}

func (l *lvs) LVSCommand(c ipvs.Command) (err error) {
	l.lvsMu.Lock()
	defer l.lvsMu.Unlock()
	if c.Verb == ipvs.ZeroCounters {
		l.zeroed++
	}
	l.state, err = l.state.Apply(c)
	return err
}

func command(t *testing.T, line string) ipvs.Command {
	t.Helper()
	c, err := ipvs.ParseLine(line, ipvs.Names{})
	if err != nil {
		t.Fatal(line, err)
	}
	return c
}

// TestLVS: a table survives the wire, with all that ipvsadm can say, and so does a refusal.
func TestLVS(t *testing.T) {
	d := &daemon{}
	c := NewClient(serve(t, d))
	if table, err := c.LVS(t.Context()); err != nil || len(table.Specs) != 0 || table.Entries == nil {
		t.Errorf("the empty table: %+v, %v", table, err)
	}
	for _, line := range []string{
		"-A -t 203.0.113.22:80 -s sh -b sh-port,sh-fallback -p 60 -M 255.255.255.0",
		"-a -t 203.0.113.22:80 -r 192.168.0.10:80 -m -w 5 -x 100 -y 50",
		"-a -t 203.0.113.22:80 -r 192.168.0.11:80 -i --tun-type gue --tun-port 6080 --tun-csum",
		"-A -u [2001:db8::22]:53 -s rr -o",
		"-a -u [2001:db8::22]:53 -r [2001:db8:1::10]:53 -g",
		"-A --sctp-service 203.0.113.22:9",
		"-A -f 7 -s lc", "-A -f 8 -6 -p",
		"--set 100 20 30",
		"--start-daemon master --mcast-interface eth0 --syncid 5",
		"-Z", "-Z -t 203.0.113.22:80",
	} {
		if err := c.LVSCommand(t.Context(), command(t, line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	d.entries = []ipvs.Entry{{
		Stats:   policy.Counters{Conns: 1, InPackets: 2, OutPackets: 3, InBytes: 4, OutBytes: 5},
		Servers: []ipvs.ServerEntry{{Active: 6, Inactive: 7, Persistent: 8}},
	}}
	table, err := c.LVS(t.Context())
	if err != nil || !reflect.DeepEqual(table.Entries, d.entries) {
		t.Errorf("entries: %+v, %v, want %+v", table.Entries, err, d.entries)
	}
	if got, want := saved(t, table.State), saved(t, d.state); got != want || strings.Count(want, "\n") != 8 || d.zeroed != 2 {
		t.Errorf("%d times zeroed, got\n%s\nwant\n%s", d.zeroed, got, want)
	}
	if table.Timeouts != d.state.Timeouts || !reflect.DeepEqual(table.Daemons, d.state.Daemons) {
		t.Errorf("got %+v, want %+v", table, d.state)
	}
	for line, want := range map[string]ipvs.Error{
		"-A -t 203.0.113.22:80":                    {Message: "Service already exists", Code: 255},
		"-D -t 203.0.113.22:81":                    {Message: "No such service", Code: 255},
		"-d -t 203.0.113.22:80 -r 192.168.0.99:80": {Message: "No such destination", Code: 255},
		"-Z -t 203.0.113.22:81":                    {Message: "No such service", Code: 255},
	} {
		var got *ipvs.Error
		if err := c.LVSCommand(t.Context(), command(t, line)); !errors.As(err, &got) || *got != want {
			t.Errorf("%s: %+v, want %+v", line, err, want)
		}
	}
	var refused *Error
	if err := c.LVSCommand(t.Context(), command(t, "-Ln")); !errors.As(err, &refused) || refused.Status != 400 {
		t.Errorf("a listing as a command: %v", err)
	}
}

func saved(t *testing.T, s ipvs.State) string {
	t.Helper()
	var b bytes.Buffer
	if err := ipvs.Save(&b, ipvs.Command{Options: ipvs.Options{Numeric: true}}, s, ipvs.Names{}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
