package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/config/aside"
	"github.com/tunlb/tunlb/tunlb/control"
)

// asProgram makes the test binary be tunlb itself, so that the integration tests run the real program.
const asProgram = "TUNLB_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" || len(os.Args) > 1 && os.Args[1] == aside.Command {
		os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	if mode := os.Getenv(asChild); mode != "" {
		os.Exit(beChild(mode))
	}
	os.Exit(netns.Main(m.Run))
}

// patience bounds every wait for something that has to happen; nothing is waited out.
const patience = 60 * time.Second

// needLab skips a test where the kernel refuses namespaces or TUN, with its words.
func needLab(t testing.TB) {
	t.Helper()
	for _, check := range []func() error{netns.Check, netns.CheckTUN} {
		var cannot *netns.Unsupported
		if err := check(); errors.As(err, &cannot) {
			t.Skip(cannot)
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// offloads runs a test with checksums and segmentation left to the links, and with both done before
// them: the first hides wrong partial checksums, the second shows them.
func offloads(t *testing.T, test func(t *testing.T, off bool)) {
	needLab(t)
	for _, off := range []bool{false, true} {
		t.Run(map[bool]string{false: "offload", true: "no-offload"}[off], func(t *testing.T) { test(t, off) })
	}
}

// site is a lab, and tunlb on its node lb.
type site struct {
	t      *testing.T
	lab    *labnet.Lab
	config string // path of the file
	cmd    *netns.Cmd
	log    *syncBuffer
	ended  chan error
	before []string
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// openSite opens a lab and starts tunlb in it. When the test ends tunlb is stopped, and has to have
// put everything back.
func openSite(t *testing.T, options labnet.StoryOptions, config string) *site {
	t.Helper()
	s := openLab(t, labnet.Story(options), config)
	s.start()
	t.Cleanup(s.stop)
	return s
}

func openLab(t *testing.T, topology labnet.Topology, config string) *site {
	t.Helper()
	lab, err := labnet.Open(topology)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, lab: lab, config: filepath.Join(t.TempDir(), "tunlb.yaml")}
	s.write(config)
	s.before = s.network()
	return s
}

func (s *site) write(config string) {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// tunlb runs a tunlb command on lb and returns what it prints and its exit code.
func (s *site) tunlb(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := s.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func (s *site) command(args ...string) *netns.Cmd {
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	s.t.Cleanup(cancel)
	cmd := s.lab.NS("lb").Command(ctx, self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TUNLB_SOCKET="+demoSocket, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return cmd
}

func (s *site) start() { s.startAs("") }

// startAs starts another binary, or this one.
func (s *site) startAs(binary string) {
	s.t.Helper()
	s.cmd, s.log, s.ended = s.command("run", "-f", s.config), &syncBuffer{}, make(chan error, 1)
	if binary != "" {
		s.cmd.Path, s.cmd.Args[0] = binary, binary
	}
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	s.until("tunlb answers", func() error {
		select {
		case err := <-s.ended:
			s.t.Fatalf("tunlb ended: %v\n%s", err, s.log)
		default:
		}
		_, err := s.client().Status(context.Background())
		return err
	})
}

// stop ends tunlb as a user does and compares the kernel's state with that before the start.
func (s *site) stop() {
	s.t.Helper()
	if s.t.Failed() {
		s.t.Logf("tunlb's log:\n%s", s.log)
		if status, err := s.client().Status(context.Background()); err == nil {
			s.t.Logf("drops: %v", status.Drops)
		}
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Errorf("stop tunlb: %v\n%s", err, s.log)
		return
	}
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("tunlb ended: %v\n%s", err, s.log)
		}
	case <-time.After(patience):
		s.t.Fatal("tunlb does not end on SIGINT")
	}
	s.unchanged()
}

// kill is SIGKILL.
func (s *site) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	<-s.ended
}

// unchanged wants lb's kernel to be as it was before tunlb.
func (s *site) unchanged() {
	s.t.Helper()
	if diff := cmp.Diff(s.before, s.network()); diff != "" {
		s.t.Errorf("tunlb has left traces (-before +after):\n%s", diff)
	}
}

// network is what tunlb may change on lb, a line each. The kernel's own link-local addresses and local
// IPv6 routes are left out: it adds them when it likes, after a link has come up.
func (s *site) network() []string {
	s.t.Helper()
	ns := s.lab.NS("lb")
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	links, err := ns.Handle().LinkList()
	s.must(err)
	for _, l := range links {
		add("link %s mtu %d", l.Attrs().Name, l.Attrs().MTU)
		addrs, err := ns.Handle().AddrList(l, netlink.FAMILY_ALL)
		s.must(err)
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				add("address %s %s", l.Attrs().Name, a.IPNet)
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := ns.Handle().RuleList(family)
		s.must(err)
		for _, r := range rules {
			add("rule %d %v table %d protocol %d", family, r, r.Table, r.Protocol)
		}
		routes, err := ns.Handle().RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		s.must(err)
		for _, r := range routes {
			if family == netlink.FAMILY_V4 || r.Table != 255 && !(r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast()) {
				add("route %d %v", family, r)
			}
		}
	}
	s.must(ns.Do(func() error {
		list := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP)
		list.AddData(&nl.Nfgenmsg{})
		tables, err := list.Execute(unix.NETLINK_NETFILTER, 0)
		for _, table := range tables {
			if bytes.Contains(table, []byte("tunlb")) { // others' are the tests' own
				add("table %q", table)
			}
		}
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter", "ipv6/conf/all/proxy_ndp"} {
			b, err := os.ReadFile("/proc/sys/net/" + path)
			if err != nil {
				return err
			}
			add("%s %s", path, bytes.TrimSpace(b))
		}
		return nil
	}))
	slices.Sort(lines)
	return lines
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) client() *control.Client { return clientIn(s.lab.NS("lb")) }

func (s *site) status() control.Status {
	s.t.Helper()
	status, err := s.client().Status(context.Background())
	s.must(err)
	return status
}

// until retries until there is no error.
func (s *site) until(what string, try func() error) {
	s.t.Helper()
	deadline := time.After(patience)
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			s.t.Fatalf("%s: not within %v: %v\n%s", what, patience, err, s.log)
		case <-retry.C:
		}
	}
}

// fetch sends an HTTP request from a node over a connection of its own.
func (s *site) fetch(node, method, url string, body io.Reader) (text, server string, err error) {
	client := s.lab.NS(node).HTTPClient()
	client.Timeout = patience
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return "", "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.Header.Get("Server"), err
}

// get is fetch that has to succeed.
func (s *site) get(node, url string) (text, server string) {
	s.t.Helper()
	text, server, err := s.fetch(node, http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatalf("%s: GET %s: %v", node, url, err)
	}
	return text, server
}

// dial opens a connection from a node, to be closed with the test.
func (s *site) dial(node, network, address string) net.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := dialIn(ctx, s.lab.NS(node), network, address)
	if err != nil {
		s.t.Fatalf("%s: dial %s %s: %v", node, network, address, err)
	}
	s.t.Cleanup(func() { conn.Close() })
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// echo sends and wants it back, from an echo server, which puts its name in front if that is UDP.
func (s *site) echo(conn net.Conn, payload []byte) (name string) {
	s.t.Helper()
	if _, err := conn.Write(payload); err != nil {
		s.t.Fatal(err)
	}
	got := make([]byte, 0, len(payload)+64)
	for b := make([]byte, 1<<16); !bytes.HasSuffix(got, payload); {
		n, err := conn.Read(b)
		if err != nil {
			s.t.Fatalf("echo of %d bytes: %v after %d", len(payload), err, len(got))
		}
		got = append(got, b[:n]...)
	}
	return strings.TrimSpace(string(bytes.TrimSuffix(got, payload)))
}
