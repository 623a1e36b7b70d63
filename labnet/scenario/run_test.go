package scenario

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
)

// stage is a Lab without a network: its hosts' programs listen on the loopback, and whoever dials an address of the lab is
// connected to one of them in turn. It has no director.
type stage struct {
	Lab // what is not used here
	t   *testing.T

	mu       sync.Mutex
	programs map[string]*labnet.Program
	open     map[labnet.Kind][]net.Addr
	next     int
	impaired []string
}

func newStage(t *testing.T, hosts ...string) *stage {
	s := &stage{t: t, programs: make(map[string]*labnet.Program), open: make(map[labnet.Kind][]net.Addr)}
	for _, host := range hosts {
		for _, kind := range []labnet.Kind{labnet.HTTP, labnet.TCPEcho} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := labnet.NewProgram(kind, host, nil)
			running := p.Serve(l)
			t.Cleanup(func() { running.Close() })
			s.open[kind] = append(s.open[kind], l.Addr())
			if kind == labnet.HTTP {
				s.programs[host] = p
			}
		}
	}
	return s
}

func (s *stage) Dial(ctx context.Context, host, network string, to netip.AddrPort) (net.Conn, error) {
	kind := labnet.HTTP
	if to.Port() == 7 {
		kind = labnet.TCPEcho
	}
	if to.Port() == 9 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.mu.Lock()
	at := s.open[kind][s.next%len(s.open[kind])]
	s.next++
	s.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, network, at.String())
}

func (s *stage) Behave(host string, _ uint16, b Behaviour) error {
	s.programs[host].SetBehaviour(b)
	return nil
}

func (s *stage) Impair(host, network string, i Impairment) error {
	s.impaired = append(s.impaired, host+" "+network+" "+i.String())
	return nil
}

func (s *stage) Now() time.Duration { return time.Duration(time.Now().UnixNano()) }

func (s *stage) After(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, context.DeadlineExceeded)
}

// play runs steps, each with its line as its number, and gives the results.
func play(t *testing.T, s *stage, all bool, steps ...Step) ([]StepResult, error) {
	t.Helper()
	f := &File{Name: "test", Hosts: []Host{{Name: "client"}}, Steps: steps}
	for i := range f.Steps {
		f.Steps[i].Line = i + 1
	}
	var results []StepResult
	err := run(t.Context(), s, f, func(r StepResult) { results = append(results, r) }, all)
	return results, err
}

var (
	webAt     = netip.MustParseAddrPort("203.0.113.22:80")
	silentAt  = netip.MustParseAddrPort("203.0.113.22:9")
	ask       = &Request{From: "client", URL: "http://203.0.113.22/", To: webAt, Count: 4, Parallel: 1, Timeout: 10 * time.Second}
	twice     = Condition{Op: "=", Value: 2, text: "2"}
	evenly    = Expectation{Servers: []ServerIs{{"rs1", twice}, {"rs2", twice}}}
	localhost = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
)

func TestRun(t *testing.T) {
	s := newStage(t, "rs1", "rs2")
	results, err := play(t, s, false,
		Step{Name: "evenly", Do: ask, Expect: Expectation{Servers: evenly.Servers, Client: localhost}},
		Step{Do: &Behave{Host: "rs2", Port: 80, Behaviour: Behaviour{Fail: 503}}},
		Step{Do: &Request{From: "client", URL: "http://203.0.113.22/", To: webAt, Count: 4, Parallel: 4, Timeout: 10 * time.Second}, Expect: evenly},
	)
	if len(results) != 3 || !results[0].OK || !results[1].OK || results[2].OK {
		t.Fatalf("%+v", results)
	}
	if got, want := results[0].Got, "rs1 2, rs2 2, client 127.0.0.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := results[2].Got+"; "+results[2].Want, "rs1 2, rs2 2, status 503 2; rs1 2, rs2 2, answered 4"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var failed *Failed
	if !errors.As(err, &failed) || len(failed.Results) != 1 || failed.Results[0].Line != 3 {
		t.Errorf("error %v", err)
	}
}

// TestRunStops: the first failing step ends a run, unless all are to be taken.
func TestRunStops(t *testing.T) {
	for all, want := range map[bool]int{false: 1, true: 3} {
		s := newStage(t, "rs1")
		none := Step{Do: ask, Expect: Expectation{AnyOf: []string{"rs9"}}}
		results, err := play(t, s, all, none, Step{Do: &Impair{Host: "rs1", Network: "lan", Impairment: Impairment{Loss: 0.5}}}, none)
		if len(results) != want || err == nil {
			t.Errorf("all %v: %d results, %v", all, len(results), err)
		}
		if all && (len(s.impaired) != 1 || s.impaired[0] != "rs1 lan loss 50%") {
			t.Errorf("impaired: %q", s.impaired)
		}
	}
}

// TestWithin looks until it comes true: the server recovers when it has been seen to fail.
func TestWithin(t *testing.T) {
	s := newStage(t, "rs1")
	s.programs["rs1"].SetBehaviour(Behaviour{Fail: 500})
	once := *ask
	once.Count = 1
	results, err := play(t, s, true,
		Step{Do: &once}, // fails
		Step{Do: &once, Within: 300 * time.Millisecond, Expect: Expectation{Status: 501}},
	)
	if len(results) != 2 || results[0].OK || results[1].OK || !strings.HasSuffix(results[1].Want, "within 300ms") || results[1].Took < 300*time.Millisecond {
		t.Errorf("%+v, %v", results, err)
	}
	time.AfterFunc(100*time.Millisecond, func() { s.programs["rs1"].SetBehaviour(Behaviour{}) })
	results, err = play(t, s, true, Step{Do: &once, Within: 10 * time.Second})
	if err != nil || !results[0].OK || results[0].Took < often {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestHold(t *testing.T) {
	s := newStage(t, "client")
	f := &File{Hosts: []Host{{Name: "rs1", Attachments: []Attachment{{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}}}}}
	no := false
	to := netip.MustParseAddrPort("192.0.2.1:7") // rs1's own: nobody is asked for the server
	f.Steps = []Step{
		{Do: &Hold{Name: "a", From: "client", To: to, Timeout: 10 * time.Second}, Expect: Expectation{AnyOf: []string{"rs1"}}},
		{Do: &Check{Hold: "a", Timeout: 10 * time.Second}, Expect: Expectation{AnyOf: []string{"rs1"}}},
		{Do: &Check{Hold: "a", Timeout: 10 * time.Second}, Expect: Expectation{Alive: &no}}, // fails: it is
		{Do: &End{Hold: "a"}},
		{Do: &Check{Hold: "a", Timeout: 10 * time.Second}, Expect: Expectation{Alive: &no}},
	}
	var ok []bool
	_ = RunAll(t.Context(), s, f, func(r StepResult) { ok = append(ok, r.OK) })
	if want := []bool{true, true, false, true, true}; !slices.Equal(ok, want) {
		t.Errorf("%v, want %v", ok, want)
	}
}

// TestFailures: what attempts fail with has a name.
func TestFailures(t *testing.T) {
	s := newStage(t, "rs1")
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	quick := func(to netip.AddrPort) *Request {
		return &Request{From: "client", URL: "http://" + to.String() + "/", To: to, Count: 1, Parallel: 1, Timeout: 50 * time.Millisecond}
	}
	s.programs["rs1"].SetBehaviour(Behaviour{Silent: true})
	results, err := play(t, s, false,
		Step{Do: quick(silentAt), Expect: Expectation{Errors: []string{timedOut}}}, // nobody accepts
		Step{Do: quick(webAt), Expect: Expectation{Errors: []string{timedOut}}},    // nobody answers
	)
	if err != nil {
		t.Errorf("%+v: %v", results, err)
	}
	s.open[labnet.HTTP] = []net.Addr{dead.Addr()}
	results, err = play(t, s, false, Step{Do: ask, Expect: Expectation{Errors: []string{reset, refused}}})
	if err != nil || results[0].Got != "refused 4" {
		t.Errorf("%+v: %v", results, err)
	}
}

// TestInterrupted: who gives up gets that as the error, and no verdict.
func TestInterrupted(t *testing.T) {
	s := newStage(t, "rs1")
	gone := errors.New("gone")
	for name, step := range map[string]Step{
		"waiting": {Do: &Wait{time.Hour}},
		"asking":  {Do: &Ping{From: "client", Count: 1, Timeout: time.Hour}, Within: time.Hour},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(gone) })
		err := Run(ctx, unreached{s}, &File{Steps: []Step{step}}, func(r StepResult) { t.Errorf("%s: %+v", name, r) })
		if !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unreached is a lab in which nobody answers ping.
type unreached struct{ *stage }

func (unreached) Ping(ctx context.Context, _ string, _ netip.Addr) (time.Duration, error) {
	return 0, errors.New("no route to host")
}

func TestJudge(t *testing.T) {
	yes, no := true, false
	from := func(server string) answer { return answer{server: server, status: 200} }
	atLeast20 := Condition{Op: ">=", Value: int64(20 * time.Millisecond), text: ">=20ms"}
	for _, c := range []struct {
		what    string
		e       Expectation
		answers []answer
		ok      bool
		got     string
	}{
		{"success", Expectation{}, []answer{from("rs1")}, true, "rs1"},
		{"no answer", Expectation{}, []answer{{failed: refused}}, false, "refused"},
		{"a bad one", Expectation{}, []answer{{server: "rs1", status: 500}}, false, "rs1, status 500"},
		{"the bad one", Expectation{Status: 500}, []answer{{server: "rs1", status: 500}}, true, "rs1"},
		{"nobody says who", Expectation{AnyOf: []string{"rs1"}}, []answer{{}}, false, "answered"},
		{"another one", Expectation{Servers: []ServerIs{{"rs1", twice}}}, []answer{from("rs1"), from("rs1"), from("rs2")}, false, "rs1 2, rs2 1"},
		{"too few", Expectation{Servers: []ServerIs{{"rs1", twice}}}, []answer{from("rs1"), {failed: timedOut}}, false, "rs1 1, timeout 1"},
		{"one of two", Expectation{AnyOf: []string{"rs1", "rs2"}}, []answer{from("rs1"), from("rs2")}, true, "rs1 1, rs2 1"},
		{"none of two", Expectation{AnyOf: []string{"rs1", "rs2"}}, []answer{from("rs1"), from("rs3")}, false, "rs1 1, rs3 1"},
		{"an error", Expectation{Errors: []string{refused}}, []answer{{failed: refused}}, true, "refused"},
		{"another error", Expectation{Errors: []string{refused}}, []answer{{failed: timedOut}}, false, "timeout"},
		{"no error", Expectation{Errors: []string{refused}}, []answer{from("rs1")}, false, "rs1"},
		{"alive", Expectation{Alive: &yes}, []answer{{}}, true, "answered"},
		{"alive, not", Expectation{Alive: &yes}, []answer{{failed: reset}}, false, "reset"},
		{"dead", Expectation{Alive: &no}, []answer{{failed: reset}}, true, "reset"},
		{"dead, not", Expectation{Alive: &no}, []answer{{}}, false, "answered"},
		{"in time", Expectation{Took: &atLeast20}, []answer{{took: 20 * time.Millisecond}, {took: time.Second}}, true, "answered 2, 20ms to 1s"},
		{"one too early", Expectation{Took: &atLeast20}, []answer{{took: time.Millisecond}, {took: time.Second}}, false, "answered 2, 1ms to 1s"},
		{"the client", Expectation{Client: localhost}, []answer{{server: "rs1", client: localhost[0]}}, true, "rs1, client 127.0.0.1"},
		{"another client", Expectation{Client: localhost}, []answer{{server: "rs1", client: netip.MustParseAddr("::1")}}, false, "rs1, client ::1"},
		{"bytes", Expectation{Bytes: &twice}, []answer{{bytes: 2}}, true, "answered"},
		{"other bytes", Expectation{Bytes: &twice}, []answer{{bytes: 3}}, false, "answered, 3 bytes"},
	} {
		o := judge(&c.e, len(c.answers), c.answers)
		if o.ok != c.ok || o.got != c.got || o.want == "" {
			t.Errorf("%s: %v, got %q want %q; should be %v, %q", c.what, o.ok, o.got, o.want, c.ok, c.got)
		}
	}
}

func TestCondition(t *testing.T) {
	for text, c := range map[string]struct{ yes, no int64 }{
		"3": {3, 4}, "=3": {3, 2}, ">=3": {3, 2}, "<= 3": {3, 4}, "<3": {2, 3}, ">3": {4, 3}, "!=3": {4, 3}, "== 3": {-1, -1}, "x": {-1, -1}, "": {-1, -1},
	} {
		got, err := parseCondition(text, wholeNumber)
		if c.yes < 0 {
			if err == nil {
				t.Errorf("%q is %+v", text, got)
			}
			continue
		}
		if err != nil || !got.Holds(c.yes) || got.Holds(c.no) || got.String() != text {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestText(t *testing.T) {
	for want, r := range map[string]StepResult{
		"ok    1  it serves: rs1  (1.5ms)":                               {Number: 1, Line: 3, Name: "it serves", OK: true, Took: 1500 * time.Microsecond, Got: "rs1", Want: "rs1"},
		"ok    2  rs1 dies  (0s)":                                        {Number: 2, Line: 4, Name: "rs1 dies", OK: true},
		"FAIL 12  it doesn't: refused  (2s)\n         line 40 wants rs1": {Number: 12, Line: 40, Name: "it doesn't", Took: 2 * time.Second, Got: "refused", Want: "rs1"},
	} {
		if got := r.Text(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}
