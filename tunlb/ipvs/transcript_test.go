package ipvs_test

import (
	"errors"
	"iter"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// machine plays the part of the front end and the daemon together.
type machine struct {
	t     *testing.T
	state ipvs.State
	view  ipvs.View
	names ipvs.Names
}

func newMachine(t *testing.T) *machine {
	names, err := ipvs.Names{}.WithServices(strings.NewReader("http 80/tcp www # WorldWideWeb\nhttp-alt 8080/tcp\ndiscard 9/tcp\ndiscard 9/udp\n"))
	if err != nil {
		t.Fatal(err)
	}
	names.Addr = func(host string) (netip.Addr, bool) {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), host == "localhost"
	}
	return &machine{t: t, names: names}
}

// run gives what a command prints, with its exit code behind.
func (m *machine) run(args ...string) string {
	c, err := ipvs.Parse(args, m.names)
	var out strings.Builder
	if err == nil {
		err = m.do(&out, c)
	}
	return out.String() + failure(m.t, err)
}

func failure(t *testing.T, err error) string {
	if err == nil {
		return ""
	}
	refusal, ok := errors.AsType[*ipvs.Error](err)
	if !ok {
		t.Fatal(err)
	}
	return refusal.Message + "\n[exit " + strconv.Itoa(refusal.Code) + "]\n"
}

func (m *machine) do(out *strings.Builder, c ipvs.Command) (err error) {
	switch c.Verb {
	case ipvs.ListTable:
		return ipvs.List(out, c, m.state, m.view, m.names)
	case ipvs.SaveTable:
		return ipvs.Save(out, c, m.state, m.names)
	}
	before := render(m.t, m.state)
	next, err := m.state.Apply(c)
	if now := render(m.t, m.state); now != before {
		m.t.Errorf("%+v changed the state that it was applied to:\n%s\n%s", c, before, now)
	}
	if err == nil {
		m.state = next
		if _, err := policy.Normalize(next.Specs); err != nil {
			m.t.Errorf("after %+v: Normalize: %v", c, err)
		}
	} else if render(m.t, next) != before {
		m.t.Errorf("%+v failed and changed the state", c)
	}
	return err
}

func (m *machine) restore(text string, clear bool) error {
	return ipvs.Restore(strings.NewReader(text), clear, m.names, func(c ipvs.Command) error {
		return m.do(&strings.Builder{}, c)
	}, func(err *ipvs.Error) { m.t.Errorf("refused: %v", err) })
}

func render(t *testing.T, s ipvs.State) string {
	var out strings.Builder
	if err := ipvs.Save(&out, ipvs.Command{Options: ipvs.Options{Numeric: true}}, s, ipvs.Names{}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// recording is one command of the transcript and what it printed.
type recording struct {
	line   int
	args   string
	output string
}

func recordings(t *testing.T) (list []recording) {
	text, err := os.ReadFile("testdata/transcript.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if args, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, recording{line: i + 1, args: args})
		} else if len(list) > 0 && line != "" {
			list[len(list)-1].output += line + "\n"
		}
	}
	return list
}

var thresholds = regexp.MustCompile(` -[xy] \d+`)

// TestTranscript replays what was recorded from ipvsadm and the kernel, byte for byte. What only traffic can
// tell, the counters of a listing, is read from the recorded listing itself: the rest of it is what is tested.
func TestTranscript(t *testing.T) {
	m := newMachine(t)
	commands, saved := 0, ""
	for _, rec := range recordings(t) {
		commands++
		want, got := rec.output, ""
		switch args, _ := strings.CutPrefix(rec.args, "ipvsadm "); {
		case strings.HasPrefix(rec.args, "ipvsadm-restore"):
			err := m.restore("# three lines\n-A -t 10.0.0.10:80 -s rr\n-a -t 10.0.0.10:80 -r 192.168.1.11:80 -m\nbogus\n", true)
			got = strings.NewReplacer("[exit", "rc", "]", "").Replace(failure(t, err))
		case rec.args == "ipvsadm-save -n" || strings.HasPrefix(args, "-S"):
			got = thresholds.ReplaceAllString(m.run("-S", args[len(args)-2:]), "") // ipvsadm loses them
			if !strings.HasSuffix(rec.args, "-n") {
				got = thresholds.ReplaceAllString(m.run("-S"), "")
			}
		default:
			if args == "-C" {
				saved = m.run("-S", "-n")
			}
			m.view = counted(t, m, rec.output)
			got = m.run(strings.Fields(args)...)
		}
		if before, restored := strings.CutSuffix(want, "restore rc 0\n"); restored {
			want = before
			if err := m.restore(saved, true); err != nil {
				t.Fatalf("line %d: restore: %v", rec.line, err)
			}
			if again := m.run("-S", "-n"); again != saved {
				t.Errorf("line %d: saved, restored and saved again:\n%swant\n%s", rec.line, again, saved)
			}
		}
		if got != want {
			t.Errorf("line %d: %s\n%swant\n%s", rec.line, rec.args, got, want)
		}
	}
	if commands < 100 {
		t.Fatalf("only %d commands in the transcript", commands)
	}
}

// counted reads the counters from the rows of a listing, for the services of the machine.
func counted(t *testing.T, m *machine, listing string) ipvs.View {
	lines := strings.Split(listing, "\n")
	if strings.HasPrefix(listing, "IPVS connection entries") {
		return ipvs.View{Conns: connections(t, m, lines[2:len(lines)-1])}
	}
	view := ipvs.View{Entries: make([]ipvs.Entry, len(m.state.Specs))}
	spec, head := -1, ""
	for _, line := range lines {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Prot"):
			head = line
		case len(words) < 2 || strings.HasPrefix(line, "  -> Remote"):
		case words[0] == "->" && spec >= 0:
			at := command(t, m, "-d", "-t", "1.1.1.1:1", "-r", words[1]).Server.Address
			servers := m.state.Specs[spec].Servers
			for i := range servers {
				if servers[i].Address == at {
					view.Entries[spec].Servers[i] = serverEntry(t, head, words[2:])
				}
			}
		case strings.Contains("TCP UDP SCTP FWM", words[0]):
			option := map[string]string{"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service", "FWM": "-f"}[words[0]]
			args := []string{"-L", option, words[1]}
			if len(words) > 2 && words[2] == "IPv6" {
				args, words = append(args, "-6"), words[1:]
			}
			if spec, _ = m.state.Find(command(t, m, args...).Service); spec >= 0 {
				view.Entries[spec].Servers = make([]ipvs.ServerEntry, len(m.state.Specs[spec].Servers))
				e := serverEntry(t, head, words[2:])
				view.Entries[spec].Stats, view.Entries[spec].Rates = e.Stats, e.Rates
			}
		}
	}
	return view
}

func command(t *testing.T, m *machine, args ...string) ipvs.Command {
	c, err := ipvs.Parse(args, m.names)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return c
}

// serverEntry reads the columns of a row behind the address. Those of a service have no numbers besides the
// counters.
func serverEntry(t *testing.T, head string, words []string) (e ipvs.ServerEntry) {
	last := func(k int) uint64 { // from the end
		n, err := strconv.ParseUint(words[len(words)-k], 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		return n
	}
	switch {
	case strings.Contains(head, "InPkts"):
		e.Stats = policy.Counters{Conns: last(5), InPackets: last(4), OutPackets: last(3), InBytes: last(2), OutBytes: last(1)}
	case strings.Contains(head, "InPPS"):
		e.Rates = policy.Rates{Conns: last(5), InPackets: last(4), OutPackets: last(3), InBytes: last(2), OutBytes: last(1)}
	case len(words) < 4 || words[0] < "0" || strings.Contains(strings.Join(words, " "), "persistent"):
		// a service's
	default:
		e.Active, e.Inactive = int(last(2)), int(last(1))
		if strings.Contains(head, "PersistConn") {
			e.Persistent = int(last(3))
		}
	}
	return e
}

func connections(t *testing.T, m *machine, lines []string) iter.Seq2[ipvs.Conn, error] {
	return func(yield func(ipvs.Conn, error) bool) {
		for _, line := range lines {
			words := strings.Fields(line)
			expires, err := time.ParseDuration(strings.Replace(words[1], ":", "m", 1) + "s")
			if err != nil {
				t.Fatal(err)
			}
			proto, _ := policy.ParseProto(strings.ToLower(words[0]))
			place := func(s string) netip.AddrPort {
				return command(t, m, "-d", "-t", "1.1.1.1:1", "-r", s).Server.Address
			}
			if !yield(ipvs.Conn{proto, expires, words[2], place(words[3]), place(words[4]), place(words[5])}, nil) {
				return
			}
		}
	}
}
