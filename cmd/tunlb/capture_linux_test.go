package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/capture"
)

// capturing is a `tunlb capture` that runs.
type capturing struct {
	s      *site
	cmd    *netns.Cmd
	path   string
	errOut *syncBuffer
	ended  chan error
}

// capture starts one and returns when it has made its file: what passes from then on is captured.
func (s *site) capture(args ...string) *capturing {
	s.t.Helper()
	c := s.newCapture(filepath.Join(s.t.TempDir(), "x.pcapng"), args...)
	c.start()
	s.until("the capture's file", func() error {
		info, err := os.Stat(c.path)
		if err == nil && info.Size() == 0 {
			err = errors.New("there is no head in it yet")
		}
		return err
	})
	return c
}

func (s *site) newCapture(path string, args ...string) *capturing {
	c := &capturing{s: s, path: path, errOut: &syncBuffer{}, ended: make(chan error, 1)}
	c.cmd = s.command(append([]string{"capture", "-w", path}, args...)...)
	return c
}

func (c *capturing) start() {
	c.s.t.Helper()
	c.cmd.Stderr = c.errOut
	c.s.must(c.cmd.Start())
	go func() { c.ended <- c.cmd.Wait() }()
}

// wait is for its end.
func (c *capturing) wait() error {
	c.s.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(patience):
		c.cmd.Process.Kill()
		c.s.t.Fatalf("the capture does not end: %s", c.errOut)
		return nil
	}
}

// stop ends it as a user does and returns what it has captured.
func (c *capturing) stop() []capture.Packet {
	c.s.t.Helper()
	c.s.must(c.cmd.Process.Signal(os.Interrupt))
	if err := c.wait(); err != nil {
		c.s.t.Fatalf("capture ended: %v: %s", err, c.errOut)
	}
	return captured(c.s.t, c.path)
}

// captured reads a file.
func captured(t testing.TB, path string) (list []capture.Packet) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := capture.NewReader(bytes.NewReader(b), path)
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if err != nil {
			return list
		}
		kept := *p
		kept.Data = bytes.Clone(p.Data)
		list = append(list, kept)
	}
}

// way is from whom to whom a captured packet is, and whether its TCP checksum is right.
func way(t testing.TB, p capture.Packet) (from, to netip.AddrPort, sound bool) {
	t.Helper()
	parsed := gopacket.NewPacket(p.Data, layers.LinkTypeRaw, gopacket.Default)
	tcp, ok := parsed.TransportLayer().(*layers.TCP)
	if !ok {
		return from, to, false
	}
	flow := parsed.NetworkLayer().NetworkFlow()
	end := func(e gopacket.Endpoint, port layers.TCPPort) netip.AddrPort {
		a, _ := netip.AddrFromSlice(e.Raw())
		return netip.AddrPortFrom(a, uint16(port))
	}
	if err := tcp.SetNetworkLayerForChecksum(parsed.NetworkLayer()); err != nil {
		t.Fatal(err)
	}
	err, sum := tcp.VerifyChecksum()
	return end(flow.Src(), tcp.SrcPort), end(flow.Dst(), tcp.DstPort), err == nil && sum.Valid
}

// TestCapture: a real request is in the file before and after, with the addresses of both, its server and why; tshark
// takes it; and replayed it goes the same way.
func TestCapture(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openSite(t, labnet.StoryOptions{NoOffload: off}, storyConfig)
		c := s.capture("proto", "tcp")
		_, server := s.get("client", "http://203.0.113.22/")
		if _, other := s.get("client", "http://["+labnet.VIP6+"]/"); other != "rs1" {
			t.Errorf("%s has the second request", other)
		}
		s.echo(s.dial("client", "udp", "203.0.113.22:7"), []byte("not captured"))
		s.until("the requests are captured", func() error {
			b, err := os.ReadFile(c.path)
			if err == nil && bytes.Count(b, []byte("opened web")) < 4 {
				err = errors.New("not yet")
			}
			return err
		})
		packets := c.stop()
		if !regexp.MustCompile(`^\d+ packets, .* in ` + c.path + "\n$").MatchString(c.errOut.String()) {
			t.Errorf("it says %q", c.errOut)
		}
		vip := netip.MustParseAddrPort("203.0.113.22:80")
		at := slices.IndexFunc(packets, func(p capture.Packet) bool { return strings.Contains(p.Comment, " opened web ") })
		if at < 0 || at+1 >= len(packets) {
			t.Fatalf("no opening among %d packets", len(packets))
		}
		before, after := packets[at], packets[at+1]
		address := map[string]string{"rs1": "192.168.0.10:8080", "rs2": "192.168.0.11:8080", "rs3": "192.168.0.12:8080"}[server]
		want := regexp.MustCompile(`^(before|after): flow [0-9a-f]{8} opened web -> ` + server + " " + address + ` \(\w+: .+\)$`)
		client, to, sound := way(t, before)
		if to != vip || client.Addr() != netip.MustParseAddr("198.51.100.7") || !sound || before.Side != capture.In || !want.MatchString(before.Comment) {
			t.Errorf("before: %v > %v, sound %v: %s", client, to, sound, before.Comment)
		}
		from, to, sound := way(t, after)
		if from != client || to.String() != address || !sound || after.Side != capture.Out || !want.MatchString(after.Comment) || after.Port != before.Port || after.Port != "tunlb0" {
			t.Errorf("after: %v > %v by %s, sound %v: %s", from, to, after.Port, sound, after.Comment)
		}
		for i, p := range packets {
			if _, _, sound := way(t, p); !sound || len(p.Data) != p.Length {
				t.Errorf("packet %d: checksum sound: %v, %d of %d bytes: %s", i+1, sound, len(p.Data), p.Length, p.Comment)
			}
		}
		s.tshark(c.path, len(packets))
		out, errOut, code := s.tunlb("replay", c.path, "--config", s.config, "-w", c.path+".again", "-o", "json")
		if code != 0 || !strings.Contains(out, `"flows": 2`) || !strings.Contains(out, `"dropped": 0`) {
			t.Errorf("replay: exit %d: %s%s", code, out, errOut)
		}
		again := captured(t, c.path+".again")
		if len(again) != len(packets) {
			t.Fatalf("%d packets, replayed %d", len(packets), len(again))
		}
		for i := range again {
			if !bytes.Equal(again[i].Data, packets[i].Data) || again[i].Side != packets[i].Side || again[i].Time != packets[i].Time {
				t.Errorf("packet %d: captured %s\n% x\nreplayed %s\n% x", i+1, packets[i].Comment, packets[i].Data, again[i].Comment, again[i].Data)
			}
		}
	})
}

// tshark reads a file, if it is installed.
func (s *site) tshark(path string, packets int) {
	s.t.Helper()
	program, err := exec.LookPath("tshark")
	if err != nil {
		s.t.Log("tshark is not installed")
		return
	}
	cmd := exec.Command(program, "-n", "-r", path, "-T", "fields", "-e", "frame.comment")
	cmd.Env = append(os.Environ(), "HOME="+s.t.TempDir())
	out, err := cmd.Output()
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if err != nil || len(lines) != packets {
		s.t.Errorf("tshark sees %d packets, want %d: %v", len(lines), packets, err)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, "before: ") && !strings.HasPrefix(line, "after: ") && !strings.HasPrefix(line, "own: ") {
			s.t.Errorf("packet %d has the comment %q for tshark", i+1, line)
		}
	}
}

// TestCaptureDiskFull: a full disk ends the capture and says which file and how far; traffic goes on.
func TestCaptureDiskFull(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	dir := t.TempDir()
	c := s.newCapture(filepath.Join(dir, "x.pcapng"))
	const room = 64 << 10
	mount := fmt.Sprintf(`mount -t tmpfs -o size=%d none %q && exec "$0" "$@"`, room, dir)
	c.cmd.Args = append([]string{"unshare", "-m", "sh", "-c", mount, c.cmd.Path}, c.cmd.Args[1:]...)
	path, err := exec.LookPath("unshare")
	s.must(err)
	c.cmd.Path = path
	c.start()
	tooLong := time.After(patience)
	for ended := false; !ended; {
		s.get("client", "http://203.0.113.22/")
		select {
		case err := <-c.ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
				t.Errorf("it ended with %v", err)
			}
			ended = true
		case <-tooLong:
			t.Fatal("the capture goes on on a full disk")
		default:
		}
	}
	want := regexp.MustCompile(`tunlb: write ` + c.path + `: .*: ` + unix.ENOSPC.Error() + ` after \d+ bytes`)
	if text := c.errOut.String(); !want.MatchString(text) {
		t.Errorf("it says %q", text)
	}
	before := s.status()
	s.get("client", "http://203.0.113.22/")
	after := s.status()
	delete(after.Drops, packet.LinkLocal.String()) // the kernel's own, to all routers
	if after.Flows.Count <= before.Flows.Count || len(after.Drops) > 0 {
		t.Errorf("afterwards: %+v, drops %v", after.Flows, after.Drops)
	}
}
