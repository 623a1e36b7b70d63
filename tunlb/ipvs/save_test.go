package ipvs_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb/ipvs"
)

// TestSaveRestore: whatever the table, what is saved makes the same table and is saved as the same again.
func TestSaveRestore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s ipvs.State
		for range rapid.IntRange(0, 30).Draw(t, "commands") {
			var err error
			if s, err = s.Apply(drawCommand(t, s)); err != nil && !errors.As(err, new(*ipvs.Error)) {
				t.Fatal(err)
			}
		}
		if _, err := policy.Normalize(s.Specs); err != nil {
			t.Fatalf("Normalize: %v", err)
		}
		saved := save(t, s)
		var restored ipvs.State
		err := ipvs.Restore(strings.NewReader(saved), true, ipvs.Names{}, func(c ipvs.Command) (err error) {
			restored, err = restored.Apply(c)
			return err
		}, func(err *ipvs.Error) { t.Fatalf("refused: %v\n%s", err, saved) })
		if err != nil {
			t.Fatalf("%v\n%s", err, saved)
		}
		if again := save(t, restored); again != saved {
			t.Fatalf("%swas saved again as\n%s", saved, again)
		}
		if diff := cmp.Diff(sorted(s), sorted(restored), comparable); diff != "" {
			t.Fatalf("%s-saved +restored:\n%s", saved, diff)
		}
	})
}

func save(t *rapid.T, s ipvs.State) string {
	var out strings.Builder
	if err := ipvs.Save(&out, ipvs.Command{Verb: ipvs.SaveTable}, s, ipvs.Names{}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// sorted leaves aside the orders, of which ipvsadm saves none.
func sorted(s ipvs.State) []policy.Spec {
	specs := slices.Clone(s.Specs)
	slices.SortFunc(specs, func(a, b policy.Spec) int { return strings.Compare(a.Name, b.Name) })
	for i := range specs {
		specs[i].Servers = slices.SortedFunc(slices.Values(specs[i].Servers), func(a, b policy.ServerSpec) int { return strings.Compare(a.Name, b.Name) })
	}
	return specs
}

// drawCommand gives one of those that change the table, often one for a service that there is.
func drawCommand(t *rapid.T, s ipvs.State) ipvs.Command {
	verb := rapid.SampledFrom([]ipvs.Verb{
		ipvs.AddService, ipvs.AddService, ipvs.AddServer, ipvs.AddServer, ipvs.AddServer, ipvs.EditService, ipvs.EditServer, ipvs.DeleteServer, ipvs.DeleteService,
	}).Draw(t, "verb")
	n := rapid.IntRange(0, 3)
	svc := ipvs.Service{
		Proto: rapid.SampledFrom([]uint8{policy.TCP, policy.UDP, policy.SCTP}).Draw(t, "proto"),
		Addr:  drawAddr(t, "vip"),
		Port:  uint16(n.Draw(t, "port")),
	}
	if rapid.IntRange(0, 4).Draw(t, "mark") == 0 {
		svc = ipvs.Service{Mark: policy.Mark{Value: uint32(1 + n.Draw(t, "value")), IPv6: rapid.Bool().Draw(t, "IPv6")}}
	}
	c := ipvs.Command{Verb: verb, Service: svc}
	switch verb {
	case ipvs.AddService, ipvs.EditService:
		c.Scheduler = rapid.SampledFrom(policy.Schedulers()).Draw(t, "scheduler")
		c.Flags = policy.Flags(rapid.IntRange(0, 7).Draw(t, "flags"))
		c.OnePacket = svc.Proto == policy.UDP && rapid.Bool().Draw(t, "ops")
		if svc.Port == 0 && svc.Mark.Value == 0 || rapid.Bool().Draw(t, "persistent") {
			bits := 128
			if svc.Is4() {
				bits = 33
			}
			c.Persistence.Timeout = time.Duration(rapid.IntRange(1, 2678400).Draw(t, "timeout")) * time.Second
			c.Persistence.HostBits = rapid.IntRange(0, bits-1).Draw(t, "host bits")
		}
	case ipvs.AddServer, ipvs.EditServer:
		c.Server = drawServer(t)
		if c.Server.Mode != policy.NAT && svc.Mark.Value == 0 {
			c.Server.Address = netip.AddrPortFrom(c.Server.Address.Addr(), svc.Port)
		}
	case ipvs.DeleteServer:
		c.Server.Address = netip.AddrPortFrom(drawAddr(t, "server"), uint16(n.Draw(t, "port")))
	}
	return c
}

func drawServer(t *rapid.T) policy.ServerSpec {
	number := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, policy.MaxWeight))
	s := policy.ServerSpec{
		Address: netip.AddrPortFrom(drawAddr(t, "server"), uint16(rapid.IntRange(0, 3).Draw(t, "port"))),
		Weight:  number.Draw(t, "weight"),
		Mode:    rapid.SampledFrom([]policy.Mode{policy.NAT, policy.DR, policy.Tunnelled}).Draw(t, "mode"),
		Upper:   number.Draw(t, "upper"),
	}
	s.Lower = rapid.IntRange(0, s.Upper).Draw(t, "lower")
	if s.Mode == policy.Tunnelled {
		s.Tunnel = rapid.SampledFrom([]policy.Tunnel{
			{}, {Type: "gre", Checksum: "csum"}, {Type: "gre", Checksum: "nocsum"}, {Type: "gue", Port: 6080, Checksum: "remcsum"}, {Type: "gue", Port: 1, Checksum: "nocsum"},
		}).Draw(t, "tunnel")
	}
	return s
}

func drawAddr(t *rapid.T, label string) netip.Addr {
	i := rapid.IntRange(1, 3).Draw(t, label)
	if rapid.Bool().Draw(t, "IPv6") {
		return netip.MustParseAddr(fmt.Sprintf("fd00::%d", i))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i))
}

func TestRestore(t *testing.T) {
	const first, second = "-A -t 10.0.0.10:80 -s rr\n", "-A -t 10.0.0.11:80 -s rr\n"
	for _, c := range []struct {
		name, in string
		want     string // what is there afterwards
		code     int
		refused  int
	}{
		{"empty", "", "", 0, 0},
		{"comments, empty lines, space", "# saved\n\n \t\n  -A\t-t 10.0.0.10:80  -s rr \r\n" + second, first + second, 0, 0},
		{"no newline at the end", strings.TrimSpace(first), first, 0, 0},
		{"whole command lines", "ipvsadm " + first + "ipvsadm\n", first, 0, 0},
		{"unknown", first + "bogus\n" + second, first, 255, 0},
		{"misused", first + "-A -t 10.0.0.9\n" + second, first, 2, 0},
		{"refused, not the last", first + first + second, first + second, 0, 1},
		{"refused at last", first + second + first, first + second, 255, 0},
		{"refused before one that is unknown", first + first + "bogus\n", first, 255, 1},
		{"no quotes", "-A -t 10.0.0.10:80 -s \"rr\"\n", "", 255, 0},
		{"no comment behind", first + "-A -t 10.0.0.11:80 -s rr # second\n", first, 2, 0},
		{"within itself", first + "-R\n" + second, first, 255, 0},
		{"clears", first + "-C\n" + second, second, 0, 0},
		{"a long line", strings.TrimSpace(first) + strings.Repeat(" ", 100000) + "\n", first, 0, 0},
	} {
		m := newMachine(t)
		m.run("-A", "-t", "9.9.9.9:9") // gone afterwards
		refused := 0
		err := ipvs.Restore(strings.NewReader(c.in), true, m.names, func(c ipvs.Command) error {
			return m.do(&strings.Builder{}, c)
		}, func(*ipvs.Error) { refused++ })
		refusal, _ := errors.AsType[*ipvs.Error](err)
		if code := 0; refusal != nil && refusal.Code != c.code || refusal == nil && (err != nil || c.code != code) || refused != c.refused {
			t.Errorf("%s: %v, %d refused; want %d, %d", c.name, err, refused, c.code, c.refused)
		}
		if got := m.run("-S", "-n"); got != c.want {
			t.Errorf("%s: now there is\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// TestRestoreFails: without a daemon there is no point in going on.
func TestRestoreFails(t *testing.T) {
	calls := 0
	err := ipvs.Restore(strings.NewReader("-Z\n-Z\n"), false, ipvs.Names{}, func(ipvs.Command) error { calls++; return os.ErrDeadlineExceeded }, nil)
	if !errors.Is(err, os.ErrDeadlineExceeded) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// FuzzParse: nothing panics, refusals are ipvsadm's, and what is understood can be applied, saved and read again.
func FuzzParse(f *testing.F) {
	for _, rec := range []string{
		"-A -t 10.0.0.10:80 -s sh -b sh-port,flag-3 -p60 -M 255.255.255.0", "-a -f 8 -6 -r [fd00::1]:80 -i --tun-type=gue --tun-port 9 -w5", "-Lnc --persistent-conn",
		"-A -u [fd00::10]:domain -o -p", "--set 1 2 3", "--start-daemon master --mcast-group ff02::1", "-a -t 0x0a.1:80 -r 10.1 -mx9 -y 3", "-A -t 1.2.3.4 -p -- -", "-h", "",
	} {
		f.Add(rec)
	}
	base, _ := ipvs.State{}.Apply(ipvs.Command{Verb: ipvs.AddService, Scheduler: "rr", Service: ipvs.Service{Mark: policy.Mark{Value: 8}}})
	f.Fuzz(func(t *testing.T, line string) {
		c, err := ipvs.ParseLine(line, localNames(t))
		var refusal *ipvs.Error
		if err != nil {
			if !errors.As(err, &refusal) || refusal.Code != 2 && refusal.Code != 255 || refusal.Message == "" {
				t.Fatalf("%q: %v", line, err)
			}
			return
		}
		s, err := base.Apply(c)
		if err != nil {
			if !errors.As(err, &refusal) {
				t.Fatalf("%q: %v", line, err)
			}
			return
		}
		if _, err := policy.Normalize(s.Specs); err != nil {
			t.Fatalf("%q: Normalize: %v", line, err)
		}
		saved, restored := render(t, s), ipvs.State{}
		if err := ipvs.Restore(strings.NewReader(saved), true, ipvs.Names{}, func(c ipvs.Command) (err error) {
			restored, err = restored.Apply(c)
			return err
		}, func(err *ipvs.Error) { t.Fatal(err) }); err != nil {
			t.Fatalf("%q: restore of\n%s%v", line, saved, err)
		}
		if diff := cmp.Diff(sorted(s), sorted(restored), comparable); diff != "" {
			t.Fatalf("%q: -saved +restored:\n%s", line, diff)
		}
		if overJSON(t, c).Verb != c.Verb {
			t.Fatalf("%q: lost over JSON", line)
		}
	})
}

// TestRestoreReadsFirst: what is restored may be what a save of the same table is still writing.
func TestRestoreReadsFirst(t *testing.T) {
	const line = "-A -t 10.0.0.10:80 -s rr\n"
	for name, test := range map[string]struct {
		in    io.Reader
		calls int
	}{
		"all":      {io.MultiReader(strings.NewReader(line), strings.NewReader(line)), 3},
		"cut":      {io.MultiReader(strings.NewReader(line), iotest.ErrReader(os.ErrDeadlineExceeded)), 0},
		"too much": {io.MultiReader(strings.NewReader(line), strings.NewReader(strings.Repeat(line, 32<<20/len(line)))), 0},
	} {
		ended, calls := false, 0
		in := io.MultiReader(test.in, iotest.DataErrReader(readerFunc(func() { ended = true })))
		err := ipvs.Restore(in, true, ipvs.Names{}, func(ipvs.Command) error {
			if calls++; !ended {
				t.Errorf("%s: call %d comes before the end of the input", name, calls)
			}
			return nil
		}, nil)
		if calls != test.calls || (err != nil) != (test.calls == 0) {
			t.Errorf("%s: %d calls, %v, want %d", name, calls, err, test.calls)
		}
	}
}

// readerFunc is told of the end.
type readerFunc func()

func (f readerFunc) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}
