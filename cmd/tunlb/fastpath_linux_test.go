package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/control"
)

const fastConfig = "fastpath: kernel\n" + storyConfig

// fast runs a test in a site whose services' connections are handed over to the kernel.
func fast(t *testing.T, config string, test func(s *site)) {
	offloads(t, func(t *testing.T, off bool) {
		test(openSite(t, labnet.StoryOptions{NoOffload: off}, config))
	})
}

// carried wants so many connections to be the kernel's.
func (s *site) carried(want int) {
	s.t.Helper()
	s.until(fmt.Sprintf("the kernel carries %d connections", want), func() error {
		if got := s.status().Fastpath; got == nil || got.Carried != want {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
}

// lasting gives a connection that is open all the time of a test that time.
func (s *site) lasting(conn net.Conn) net.Conn {
	s.t.Helper()
	s.must(conn.SetDeadline(time.Now().Add(2 * patience)))
	return conn
}

// settled speaks until so many connections are the kernel's, to stay there. One that was handed over with its first
// packet is taken back once, some readings later, for its next packets to prove that both sides take part: whoever
// did not speak then would wait for the kernel in vain.
func (s *site) settled(want int, speak func()) {
	s.t.Helper()
	carries := func(proven bool) func() error {
		return func() error {
			speak()
			if f := s.status().Fastpath; f.Carried != want || proven && f.HalfOpen > 0 {
				return fmt.Errorf("%d, %d of them half-open; want %d", f.Carried, f.HalfOpen, want)
			}
			return nil
		}
	}
	s.until(fmt.Sprintf("the kernel carries %d connections", want), carries(false))
	s.until(fmt.Sprintf("the kernel carries %d connections that are established", want), carries(true))
}

// carriedWith speaks over a connection until that is the kernel's, to stay there, as the last of so many.
func (s *site) carriedWith(conn net.Conn, want int) {
	s.t.Helper()
	s.settled(want, func() { s.echo(conn, []byte("hello")) })
}

// browser is a client with time for a download.
func (s *site) browser() *http.Client {
	client := s.lab.NS("client").HTTPClient()
	client.Timeout = 2 * patience
	s.t.Cleanup(client.CloseIdleConnections)
	return client
}

// downloads fetches n bytes over a client's kept connection.
func (s *site) downloads(client *http.Client, vip string, n int64) {
	s.t.Helper()
	resp, err := client.Get(fmt.Sprintf("http://%s/bytes/%d", hostPort(vip, 80), n))
	s.must(err)
	defer resp.Body.Close()
	got, want := sha256.New(), sha256.New()
	_, err = io.Copy(got, resp.Body)
	s.must(err)
	io.Copy(want, labnet.Bytes(n))
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		s.t.Errorf("%s: the download is not what was sent", vip)
	}
}

// received is what tunlb itself has had to read.
func (s *site) received() uint64 {
	s.t.Helper()
	return s.status().Ports[0].RxBytes
}

// service is its status.
func (s *site) service(name string) tunlb.ServiceStatus {
	s.t.Helper()
	for _, svc := range s.status().Services {
		if svc.Name == name {
			return svc
		}
	}
	s.t.Fatalf("no service %s", name)
	return tunlb.ServiceStatus{}
}

// TestFastpathCounts: a download passes tunlb by, and is counted all the same.
func TestFastpathCounts(t *testing.T) {
	fast(t, fastConfig, func(s *site) {
		const n = 100 << 20
		for i, vip := range vips {
			service, client := []string{"web", "web6"}[i], s.browser()
			s.settled(1, func() { s.downloads(client, vip, 1) })
			before, was, read := s.service(service).Traffic, s.status().Fastpath, s.received()
			s.downloads(client, vip, n)
			if read := s.received() - read; read > 0 {
				t.Errorf("%s: %d of %d bytes have passed tunlb itself", service, read, n)
			}
			client.CloseIdleConnections()
			s.carried(0)                                       // over, and released
			s.until("what was sent is counted", func() error { // 1428 bytes of 1500 are payload, or more of a super-packet
				after := s.service(service).Traffic
				if out := float64(after.OutBytes - before.OutBytes); out < n || out > n*1.06 {
					return fmt.Errorf("%s: %.0f bytes were counted of %d", service, out, n)
				}
				return nil
			})
			if f := s.status().Fastpath; f.HandedOver != was.HandedOver || f.TakenBack != was.TakenBack+1 || f.Errors > 0 || f.Refused["kernel"] > 0 {
				t.Errorf("%s: %+v, before the download %+v", service, f, was)
			}
		}
	})
}

// TestFastpathMany: many short connections, each handed over and back.
func TestFastpathMany(t *testing.T) {
	fast(t, fastConfig, func(s *site) {
		for _, vip := range vips {
			for n := range 200 {
				if _, server := s.get("client", "http://"+hostPort(vip, 80)+"/"); server != fmt.Sprintf("rs%d", n%3+1) {
					t.Fatalf("request %d went to %s", n, server)
				}
			}
		}
		s.until("all are over", func() error {
			f := s.status().Fastpath
			if f.Carried != 0 || f.HandedOver == 0 || f.TakenBack != f.HandedOver || f.HalfOpen != 0 || f.Errors > 0 {
				return fmt.Errorf("%+v", f)
			}
			return nil
		})
		s.until("all of them is counted", func() error { // each is at least SYN, ACK, request, FIN; SYN ACK, answer, FIN
			for _, svc := range s.status().Services {
				if n := svc.Traffic; strings.HasPrefix(svc.Name, "web") && (n.Conns != 200 || n.InPackets < 800 || n.OutPackets < 600 || n.OutBytes < 70_000) {
					return fmt.Errorf("%s: %+v", svc.Name, n)
				}
			}
			return nil
		})
	})
}

// TestFastpathEnds: the end of a connection does not come by tunlb either, but is known soon, orderly or not.
func TestFastpathEnds(t *testing.T) {
	config := fastConfig + `  - {name: tcpecho6, listen: "[2001:db8:113::22]:7/tcp", servers: ["2001:db8:c0::10"]}
`
	fast(t, config, func(s *site) {
		for i, vip := range vips {
			service := []string{"tcpecho", "tcpecho6"}[i]
			for range 2 {
				conn := s.lasting(s.dial("client", "tcp", hostPort(vip, 7)))
				s.carriedWith(conn, 1)
				before := s.status().Ports[0].RxPackets
				s.must(conn.Close())
				s.carried(0)
				if n := s.status().Ports[0].RxPackets - before; n > 0 {
					t.Errorf("%s: %d packets of the end have passed tunlb", service, n)
				}
			}
			for _, srv := range s.service(service).Servers {
				if srv.Active > 0 {
					t.Errorf("%s: %d connections to %s are active when all are over", service, srv.Active, srv.Name)
				}
			}
		}
		conn := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
		s.carriedWith(conn, 1)
		s.must(conn.(*net.TCPConn).SetLinger(0))
		s.must(conn.Close())
		s.carried(0)
		if list := s.done("conns", "--service", "tcpecho"); !strings.Contains(list, "CLOSE ") {
			t.Errorf("a connection that was reset:\n%s", list)
		}
	})
}

// TestFastpathSessions: echoes through the kernel, and by tunlb again while a server is drained.
func TestFastpathSessions(t *testing.T) {
	fast(t, fastConfig, func(s *site) {
		tcp := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
		udp := s.lasting(s.dial("client", "udp", hostPort(labnet.VIP, 7)))
		udp6 := s.lasting(s.dial("client", "udp", hostPort(labnet.VIP6, 7)))
		talk := func(text string) {
			t.Helper()
			for range 3 {
				s.echo(tcp, []byte(text))
				s.echo(udp, []byte(text))
				s.echo(udp6, []byte(text))
			}
		}
		s.settled(3, func() { talk("before") })
		talk("by the kernel")
		read := s.received()
		for range 50 {
			talk("by the kernel")
		}
		if read = s.received() - read; read > 0 {
			t.Errorf("%d bytes have passed tunlb", read)
		}
		if list := s.done("conns", "-o", "wide"); strings.Count(list, " kernel ") != 3 {
			t.Errorf("conns:\n%s", list)
		}
		s.until("the connections' bytes are counted", func() error {
			for line := range strings.Lines(s.done("conns", "-o", "json")) {
				var c control.Conn
				if s.must(json.Unmarshal([]byte(line), &c)); !c.Fastpath || c.InBytes < 5000 || c.OutBytes < 5000 {
					return errors.New(line)
				}
			}
			return nil
		})
		if text := s.done("status"); !strings.Contains(text, "the kernel carries 3 connections") {
			t.Errorf("status:\n%s", text)
		}
		s.datagrams("client", labnet.VIP) // fragments as well
		for _, server := range []string{"rs1", "192.168.0.10", "2001:db8:c0::10"} {
			s.done("drain", server)
		}
		s.until("the drained server's connections are taken back", func() error {
			for _, svc := range s.status().Services {
				if srv := svc.Servers[0]; srv.Carried > 0 {
					return fmt.Errorf("%d of %s", srv.Carried, svc.Name)
				}
			}
			return nil
		})
		read = s.received()
		talk("by tunlb")
		if s.received() == read {
			t.Error("nothing has passed tunlb")
		}
		for _, server := range []string{"rs1", "192.168.0.10", "2001:db8:c0::10"} {
			s.done("undrain", server)
		}
		s.until("the kernel carries it again", func() error {
			talk("again")
			if got := s.service("tcpecho").Servers[0].Carried; got != 1 {
				return fmt.Errorf("%d", got)
			}
			return nil
		})
		talk("by the kernel")
		// The end of a connection is seen.
		s.must(tcp.Close())
		s.until("the closed connection is over", func() error {
			if list := s.done("conns", "--service", "tcpecho"); !strings.Contains(list, "TIME_WAIT") {
				return errors.New(list)
			}
			return nil
		})
	})
}

// TestFastpathDrainDuringTransfer: a download goes on through tunlb.
func TestFastpathDrainDuringTransfer(t *testing.T) {
	fast(t, fastConfig, func(s *site) {
		client := s.browser()
		const n = 200 << 20
		resp, err := client.Get(fmt.Sprintf("http://%s/bytes/%d", hostPort(labnet.VIP, 80), n))
		s.must(err)
		defer resp.Body.Close()
		_, err = io.CopyN(io.Discard, resp.Body, 1<<20)
		s.must(err)
		s.carried(1)
		read := s.received()
		s.done("drain", resp.Header.Get("Server"))
		s.carried(0)
		rest, err := io.Copy(io.Discard, resp.Body)
		if err != nil || rest != n-1<<20 {
			t.Fatalf("%d bytes after the drain: %v", rest, err)
		}
		if read = s.received() - read; read < 100<<20 {
			t.Errorf("%d bytes only have passed tunlb", read)
		}
	})
}

const checkedConfig = `fastpath: kernel
services:
  - name: tcpecho
    listen: 203.0.113.22:7/tcp
    scheduler: rr
    health: {type: tcp, port: 8080, interval: 1s, timeout: 1s, rise: 1, fall: 3} # a check may take its time, a port that is closed is enough
    servers: [{name: rs1, address: 192.168.0.10}, {name: rs2, address: 192.168.0.11}]
`

// TestFastpathServerFails: connections to a server that is down are tunlb's to decide on, and new ones go to another.
func TestFastpathServerFails(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, checkedConfig)
	for _, name := range []string{"rs1", "rs2"} {
		s.healthy("tcpecho", name, "up")
		s.until("it serves", func() error {
			if s.server("tcpecho", name).Weight == 0 {
				return errors.New(name)
			}
			return nil
		})
	}
	held := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
	s.carriedWith(held, 1)
	name := "rs1"
	if s.server("tcpecho", "rs2").Carried > 0 {
		name = "rs2"
	}
	unblock := s.block(name, 8080)
	s.healthy("tcpecho", name, "down")
	s.carried(0)
	s.carriedWith(s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7))), 1)
	unblock()
	s.healthy("tcpecho", name, "up")
	s.carriedWith(held, 2)
}

// TestFastpathReload: switched off, connections go by tunlb; killed, the kernel forgets them.
func TestFastpathReload(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, storyConfig)
	held := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
	s.echo(held, []byte("by tunlb"))
	if f := s.status().Fastpath; f != nil {
		t.Fatalf("%+v", f)
	}
	s.write(fastConfig)
	s.done("reload")
	s.carriedWith(held, 1)
	s.write(storyConfig)
	s.done("reload")
	s.carried(0)
	s.echo(held, []byte("switched off"))
	s.write(fastConfig)
	s.done("reload")
	s.carriedWith(held, 1)
	s.done("kill", "--service", "tcpecho")
	s.carried(0)
	if _, err := held.Write([]byte("killed")); err == nil {
		if _, err := held.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a killed connection: %v", err)
		}
	}
}

// TestFastpathLeavesNothing: not even after SIGKILL.
func TestFastpathLeavesNothing(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), fastConfig)
	s.start()
	held := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
	s.carriedWith(held, 1)
	s.kill()
	for _, line := range s.network() {
		if strings.HasPrefix(line, "table") {
			t.Errorf("it has left a %s", line)
		}
	}
	s.start() // cleans up
	defer s.stop()
	s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")
}

// TestFastpathTooBig: where the way out is narrower tunlb carries, and tells senders.
func TestFastpathTooBig(t *testing.T) {
	needLab(t)
	s := openLab(t, labnet.Story(labnet.StoryOptions{}), fastConfig)
	s.run("lb", "ip", "link", "set", "eth0", "mtu", "1400")
	s.run("client", "ip", "link", "set", "eth0", "mtu", "1400")
	s.before = s.network()
	s.start()
	t.Cleanup(s.stop)
	s.transfer("client", labnet.VIP)
	if f := s.status().Fastpath; f.HandedOver > 0 || f.Refused["mtu"] == 0 {
		t.Errorf("%+v", f)
	}
}

// TestFastpathTrace: a trace says where the connection goes.
func TestFastpathTrace(t *testing.T) {
	needLab(t)
	s := openSite(t, labnet.StoryOptions{}, fastConfig)
	tr := s.trace("vip", labnet.VIP, "proto", "tcp", "-f", "-o", "json") // as many packets as it takes
	held := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
	s.carriedWith(held, 1)
	s.must(held.Close())
	s.until("the trace has the connection's end", func() error {
		if out := tr.out.String(); !strings.Contains(out, `"fastpath":"carried"`) || !strings.Contains(out, "TIME_WAIT") {
			return errors.New(out)
		}
		return nil
	})
	if out := tr.out.String(); !strings.Contains(out, "the kernel carries the connection") || !strings.Contains(out, `"fastpath":"offered"`) {
		t.Error(out)
	}
}
