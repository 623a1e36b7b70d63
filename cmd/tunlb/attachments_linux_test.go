package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
)

// attachment is a way of the box's packets to tunlb, as the beginning of a file.
type attachment struct{ name, file string }

// onBox says whether tunlb takes packets from the box's own interfaces, without a TUN.
func (a attachment) onBox() bool { return a.name == "packet" }

var attachments = []attachment{
	{"tun", ""},
	{"packet", "ports: [{name: eth0, type: packet}, {name: eth1, type: packet}]\n"},
	{"kernel", "fastpath: kernel\n"},
}

// enough is what of a transfer makes TCP's windows and super-packets grow.
const enough = 4 << 20

// attached runs a test over ways, with offloads left to the links and done before them, with a VIP that is an
// address of the box and with one that is routed to it.
func attached(t *testing.T, ways []attachment, test func(t *testing.T, a attachment, options labnet.StoryOptions)) {
	offloads(t, func(t *testing.T, off bool) {
		for _, a := range ways {
			for _, own := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/own-vip=%v", a.name, own), func(t *testing.T) {
					test(t, a, labnet.StoryOptions{OwnVIP: own, NoOffload: off})
				})
			}
		}
	})
}

// serving is the story's network with something to be reached on the box, and on the client.
func serving(options labnet.StoryOptions) labnet.Topology {
	topology := labnet.Story(options)
	for i := range topology.Nodes {
		switch n := &topology.Nodes[i]; n.Name {
		case "lb":
			n.Services = []labnet.Service{{Kind: labnet.TCPEcho, Port: 22}, {Kind: labnet.UDPEcho, Port: 500}}
		case "client":
			n.Services = []labnet.Service{{Kind: labnet.HTTP, Port: 80}, {Kind: labnet.UDPEcho, Port: 7}}
		}
	}
	return topology
}

// TestAttachments: whatever the packets' way to tunlb is, the same comes of it.
func TestAttachments(t *testing.T) {
	attached(t, attachments, func(t *testing.T, a attachment, options labnet.StoryOptions) {
		config := a.file + echoConfig
		if options.NoOffload {
			config += "threads: 2\n" // else one on a machine of two processors
		}
		s := openLab(t, serving(options), config)
		boxAddress := map[bool]string{true: labnet.VIP, false: "198.51.100.1"}[options.OwnVIP]
		session := s.lasting(s.dial("client", "tcp", hostPort(boxAddress, 22)))
		s.echo(session, []byte("before"))
		s.start()
		t.Cleanup(s.stop)
		s.echo(session, []byte("a session of the box's that was there before goes on"))
		for i, vip := range vips {
			before := s.forwarded(vip)
			s.balances(vip, []string{"198.51.100.7", "2001:db8:1::7"}[i])
			s.transferBytes("client", vip, enough)
			if n := s.forwarded(vip) - before; a.onBox() && n > 0 { // of datagrams, later fragments of answers: they show no port
				t.Errorf("%s: the kernel has forwarded %d packets of what tunlb takes", vip, n)
			}
			s.datagrams("client", vip)
			before = s.forwarded(vip)
			s.ping("client", vip)
			if n := s.forwarded(vip) - before; a.onBox() && n > 0 {
				t.Errorf("%s: the kernel has forwarded a ping that tunlb answers", vip)
			}
			if options.OwnVIP {
				s.echo(s.dial("client", "tcp", hostPort(vip, 22)), []byte("ssh"))
				if name := s.echo(s.dial("client", "udp", hostPort(vip, 500)), []byte("ike")); name != "lb" {
					t.Errorf("udp 500 of %s was answered by %s", vip, name)
				}
			}
			if !options.OwnVIP || !a.onBox() { // a server is a client: there has to be an address to translate its own to
				if got := s.sequence("rs1", "http://"+hostPort(vip, 80)+"/", 3); len(strings.Fields(got)) != 3 {
					t.Errorf("rs1 to %s: %s", vip, got)
				}
				s.datagrams("rs1", vip)
			}
			s.boxToServer([]string{"192.168.0.10", "2001:db8:c0::10"}[i])
			s.serverToClient([]string{"192.168.0.10", "2001:db8:c0::10"}[i], []string{"198.51.100.7", "2001:db8:1::7"}[i])
		}
		s.refuses(81)
		s.refuses(99)
		s.echo(session, []byte("after"))
		s.wentBy(a)
	})
}

// wentBy wants the packets to have gone the way that the test is about.
func (s *site) wentBy(a attachment) {
	s.t.Helper()
	status := s.status()
	carried := a.name == "kernel"
	for _, p := range status.Ports { // by each of the box's, one direction of each transfer
		if whole := p.RxBytes > 2*enough && p.TxBytes > 2*enough; p.Box != a.onBox() || !whole && !carried {
			s.t.Errorf("port %s: box %v, %d bytes in, %d out", p.Name, p.Box, p.RxBytes, p.TxBytes)
		}
	}
	if carried { // from when depends on how busy the machine is
		for _, vip := range vips {
			s.until("most of a transfer goes by the kernel", func() error {
				before := s.received()
				s.transferBytes("client", vip, enough)
				if read := s.received() - before; read > enough/2 {
					return fmt.Errorf("%s: %d bytes of %d have passed tunlb", vip, read, 2*enough)
				}
				return nil
			})
		}
	}
	switch f := status.Fastpath; {
	case carried && (f == nil || f.HandedOver == 0 || f.Errors > 0):
		s.t.Errorf("the kernel has carried %+v", f)
	case !carried && f != nil && f.HandedOver > 0:
		s.t.Errorf("the kernel has carried %+v, and was not to", f)
	}
}

// forwarded counts the packets that lb's kernel has routed, of an address's family.
func (s *site) forwarded(vip string) (n int) {
	s.t.Helper()
	file, line, field := "snmp", "\nIp:", 5 // the second such line: the first one has the names
	if strings.Contains(vip, ":") {
		file, line, field = "snmp6", "\nIp6OutForwDatagrams", 0
	}
	s.must(s.lab.NS("lb").Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(string(b), line)
		n, err = strconv.Atoi(strings.Fields(after)[field])
		return err
	}))
	return n
}

// balances wants requests to be answered by one server after the other, which sees the client's address.
func (s *site) balances(vip, client string) {
	s.t.Helper()
	for n := range 6 {
		text, server := s.get("client", "http://"+hostPort(vip, 80)+"/x")
		if want := fmt.Sprintf("rs%d", n%3+1); server != want {
			s.t.Errorf("%s request %d went to %s, want %s", vip, n, server, want)
		}
		if !strings.Contains(text, " from "+strings.Trim(hostPort(client, 0), "0")) {
			s.t.Errorf("%s: the server does not see the client's address: %s", vip, text)
		}
	}
}

// boxToServer uses a server from the box itself, past tunlb.
func (s *site) boxToServer(server string) {
	s.t.Helper()
	if _, name, err := s.fetch("lb", http.MethodGet, "http://"+hostPort(server, 8080)+"/", nil); name != "rs1" {
		s.t.Errorf("%s is answered for by %q: %v", server, name, err)
	}
	s.datagrams("lb", server)
	s.ping("lb", server)
}

// serverToClient uses a client from rs1, past tunlb: the box routes what servers send on their own account.
func (s *site) serverToClient(server, client string) {
	s.t.Helper()
	if text, _ := s.get("rs1", "http://"+hostPort(client, 80)+"/"); !strings.Contains(text, " from "+strings.Trim(hostPort(server, 0), "0")) {
		s.t.Errorf("routed: %s", text)
	}
	s.datagrams("rs1", client)
	s.ping("rs1", client)
}

// refuses wants connections to a port of the VIP to be refused at once.
func (s *site) refuses(port int) {
	s.t.Helper()
	s.until("a refusal at once", func() error { // and not when the SYN has come for the second time
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		began := time.Now()
		_, err := s.lab.NS("client").DialContext(ctx, "tcp", hostPort(labnet.VIP, port))
		took := time.Since(began)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			s.t.Fatalf("port %d: %v after %v, want a refusal", port, err, took)
		}
		if took > time.Second {
			return fmt.Errorf("port %d: refused after %v", port, took)
		}
		return nil
	})
	conn := s.dial("client", "udp", hostPort(labnet.VIP, port))
	if _, err := conn.Write([]byte("x")); err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
		s.t.Errorf("port %d/udp: %v, want refused", port, err)
	}
}

// TestAttachmentsChange: services, servers and the box's addresses come and go while connections are open.
func TestAttachmentsChange(t *testing.T) {
	needLab(t)
	for _, a := range attachments[1:] { // of the TUN other tests tell
		t.Run(a.name, func(t *testing.T) {
			s := openLab(t, serving(labnet.StoryOptions{}), a.file+storyConfig)
			s.start()
			t.Cleanup(s.stop)
			conn := s.lasting(s.dial("client", "tcp", hostPort(labnet.VIP, 7)))
			s.echo(conn, []byte("hello"))
			s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")
			if a.onBox() {
				for _, line := range []string{"ok    interface", "tunlb takes what is for services, and the kernel none of it", "ok    overrun", "ok    server"} {
					if out := s.done("doctor"); !strings.Contains(out, line) {
						t.Errorf("doctor does not say %q:\n%s", line, out)
					}
				}
				if out := s.done("status"); !strings.Contains(out, "eth0 (box)") {
					t.Errorf("status:\n%s", out)
				}
			}

			s.write(a.file + storyConfig + "  - {name: new, listen: ['203.0.113.23:82/tcp', '203.0.113.22:82'], servers: ['192.168.0.11:8080']}\n")
			if got := s.done("reload"); !strings.Contains(got, "+ service new") {
				t.Errorf("reload: %s", got)
			}
			for _, vip := range []string{"203.0.113.23", labnet.VIP} {
				if _, server := s.get("client", "http://"+hostPort(vip, 82)+"/"); server != "rs2" {
					t.Errorf("the new service is answered by %s", server)
				}
			}
			s.echo(conn, []byte("after a reload"))

			// ipvsadm's service gets what the file says of all.
			s.done("ipvsadm", "-A", "-t", "203.0.113.24:80", "-s", "rr")
			s.done("ipvsadm", "-a", "-t", "203.0.113.24:80", "-r", "192.168.0.12:8080", "-m")
			if _, server := s.get("client", "http://203.0.113.24/"); server != "rs3" {
				t.Errorf("ipvsadm's service is answered by %s", server)
			}
			for _, svc := range s.status().Services {
				if svc.Fastpath == a.onBox() {
					t.Errorf("service %s: fast path %v", svc.Name, svc.Fastpath)
				}
			}

			// The VIP becomes the box's, and ceases to be.
			for _, owner := range []string{"box", "tunlb"} {
				s.moveVIP(owner == "box")
				s.until("VIP of "+owner, func() error { // whose ssh is it?
					c, err := s.lab.NS("client").DialContext(t.Context(), "tcp", hostPort(labnet.VIP, 22))
					if err == nil {
						c.Close()
					}
					if (err == nil) != (owner == "box") || err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
						return fmt.Errorf("a connection to its port 22: %v", err)
					}
					if got := s.status().Services[0].Owner; got != owner { // the kernel's rules have followed
						return fmt.Errorf("owner is %s", got)
					}
					return nil
				})
				s.echo(conn, []byte("VIP of "+owner))
				s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")
			}

			s.write(a.file + strings.Replace(storyConfig, "servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]\n  - name: drained\n", "servers: [192.168.0.11]\n  - name: drained\n", 1))
			s.done("reload")
			s.until("a connection to a server that is gone is reset", func() error {
				if _, err := conn.Write([]byte("anybody there?")); errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
					return nil
				}
				return errors.New("not reset yet")
			})
			if _, _, err := s.fetch("client", http.MethodGet, "http://203.0.113.23:82/", nil); err == nil {
				t.Error("a service that is gone answers")
			}
			if a.onBox() {
				return
			}
			s.write(storyConfig)
			if got := s.done("reload"); !strings.Contains(got, "~ service web 203.0.113.22:80/tcp: kernel fast path on -> off") || !strings.Contains(got, "~ fastpath") {
				t.Errorf("reload: %s", got)
			}
			before := s.status().Fastpath.HandedOver
			s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")
			if f := s.status().Fastpath; f.HandedOver != before {
				t.Errorf("handed over though it is switched off: %+v", f)
			}
		})
	}
}

// moveVIP gives the box the VIP on lo, or takes it away.
func (s *site) moveVIP(add bool) {
	s.t.Helper()
	h, vip := s.lab.NS("lb").Handle(), netip.MustParsePrefix(labnet.VIP+"/32")
	if add {
		s.must(s.lab.NS("lb").AddAddress("lo", vip))
		return
	}
	lo, err := h.LinkByName("lo")
	s.must(err)
	addrs, err := h.AddrList(lo, 2)
	s.must(err)
	for _, a := range addrs {
		if a.IP.String() == labnet.VIP {
			s.must(h.AddrDel(lo, &a))
		}
	}
}

// TestAttachmentsPathMTU: a router beyond the director has a narrower link. Its "too big" has to reach the server.
func TestAttachmentsPathMTU(t *testing.T) {
	attached(t, attachments[1:], func(t *testing.T, a attachment, options labnet.StoryOptions) { // TestPathMTU has the TUN
		options.Router, options.ClientMTU = true, 1400
		s := openSite(t, options, a.file+storyConfig)
		for _, vip := range vips {
			s.transferBytes("client", vip, enough)
			s.datagrams("client", vip)
		}
	})
}

// TestAttachmentsKilled: after a kill -9 the box's kernel handles everything itself again. Nothing is left
// but what is left of a TUN's ways, and a new start finds nothing in its way.
func TestAttachmentsKilled(t *testing.T) {
	needLab(t)
	for _, a := range attachments[1:] {
		t.Run(a.name, func(t *testing.T) {
			s := openLab(t, serving(labnet.StoryOptions{OwnVIP: true}), a.file+storyConfig)
			for range 2 {
				s.start()
				conn := s.dial("client", "tcp", hostPort(labnet.VIP, 7))
				s.echo(conn, []byte("hello"))
				s.kill()
				s.echo(s.dial("client", "tcp", hostPort(labnet.VIP, 22)), []byte("ssh"))
			}
			if stdout, stderr, code := s.tunlb("clean"); code != 0 || a.onBox() != strings.Contains(stdout, "nothing to clean") {
				t.Errorf("clean: exit %d %s%s", code, stdout, stderr)
			}
			s.unchanged()
			// Whose is the VIP's port now? The kernel refuses, as nobody listens.
			if _, _, err := s.fetch("client", http.MethodGet, "http://"+hostPort(labnet.VIP, 80)+"/", nil); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a connection to the service after all that: %v, want the kernel to refuse it", err)
			}
		})
	}
}
