package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
)

// storyConfig balances the story's network, both families.
const storyConfig = demoConfig + `
  - name: echo
    listen: 203.0.113.22:7/udp
    scheduler: rr
    servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]
  - name: echo6
    listen: "[2001:db8:113::22]:7/udp"
    scheduler: rr
    servers: ["2001:db8:c0::10", "2001:db8:c0::11", "2001:db8:c0::12"]
  - name: tcpecho
    listen: 203.0.113.22:7/tcp
    scheduler: rr
    servers: [192.168.0.10, 192.168.0.11, 192.168.0.12]
  - name: drained
    listen: 203.0.113.22:81/tcp
    servers: [{address: 192.168.0.10:8080, weight: 0}]
  - name: drained-udp
    listen: 203.0.113.22:81/udp
    servers: [{address: 192.168.0.10:8080, weight: 0}]
`

var vips = []string{labnet.VIP, labnet.VIP6}

// hostPort is net.JoinHostPort with a number.
func hostPort(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// TestBalance: both families, both transports, the client's address kept, data whole.
func TestBalance(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("own-vip=%v", own), func(t *testing.T) {
				s := openSite(t, labnet.StoryOptions{OwnVIP: own, NoOffload: off}, storyConfig)
				for i, vip := range vips {
					client := []string{"198.51.100.7", "2001:db8:1::7"}[i]
					for n := range 6 {
						text, server := s.get("client", "http://"+hostPort(vip, 80)+"/x")
						if want := fmt.Sprintf("rs%d", n%3+1); server != want {
							t.Errorf("%s request %d went to %s, want %s", vip, n, server, want)
						}
						if !strings.Contains(text, " from "+strings.Trim(hostPort(client, 0), "0")) {
							t.Errorf("%s: the server does not see the client's address: %s", vip, text)
						}
					}
					s.transfer("client", vip)
					s.datagrams("client", vip)
					s.ping("client", vip)
				}
				if got := s.sequence("client", "http://203.0.113.22:8080/", 12); got != "rs1 rs2 rs3 rs1 rs1 rs2 rs1 rs2 rs3 rs1 rs1 rs2" {
					t.Errorf("wrr 3,2,1: %s", got)
				}
			})
		}
	})
}

// sequence is who answers n requests.
func (s *site) sequence(node, url string, n int) string {
	s.t.Helper()
	var servers []string
	for range n {
		_, server := s.get(node, url)
		servers = append(servers, server)
	}
	return strings.Join(servers, " ")
}

// transfer moves megabytes both ways and compares their sums.
func (s *site) transfer(node, vip string) {
	s.t.Helper()
	s.transferBytes(node, vip, 20<<20)
}

func (s *site) transferBytes(node, vip string, n int64) {
	s.t.Helper()
	want := sha256.New()
	io.Copy(want, labnet.Bytes(n))
	text, _ := s.get(node, fmt.Sprintf("http://%s/bytes/%d", hostPort(vip, 80), n))
	if got := sha256.Sum256([]byte(text)); !bytes.Equal(got[:], want.Sum(nil)) {
		s.t.Errorf("%s: the download of %d bytes is not what was sent", vip, len(text))
	}
	text, _, err := s.fetch(node, http.MethodPost, "http://"+hostPort(vip, 80)+"/", labnet.Bytes(n))
	if err != nil || !strings.Contains(text, fmt.Sprintf("%x", want.Sum(nil))) {
		s.t.Errorf("%s: the upload did not arrive as it was sent: %v %s", vip, err, text)
	}
}

// datagrams go there and back, small ones and such as have to be fragmented.
func (s *site) datagrams(node, vip string) {
	s.t.Helper()
	conn := s.dial(node, "udp", hostPort(vip, 7))
	for _, n := range []int{1, 1000, 4000, 20000} {
		payload, _ := io.ReadAll(labnet.Bytes(int64(n)))
		s.echo(conn, payload)
	}
}

// ping wants an answer to an echo request.
func (s *site) ping(node, to string) {
	s.t.Helper()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if strings.Contains(to, ":") {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn := s.dial(node, network, to)
	echo := append([]byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}, "tunlb ping"...)
	if network == "ip4:icmp" {
		binary.BigEndian.PutUint16(echo[2:], internetChecksum(echo))
	}
	if _, err := conn.Write(echo); err != nil {
		s.t.Fatalf("%s: ping %s: %v", node, to, err)
	}
	for b := make([]byte, 1500); ; {
		n, err := conn.Read(b)
		if err != nil {
			s.t.Fatalf("%s: ping %s: %v", node, to, err)
		}
		answer := b[:n]
		if network == "ip4:icmp" {
			answer = answer[int(b[0]&15)*4:] // Read leaves the IPv4 header in place
		}
		if len(answer) >= 8 && answer[0] == reply && bytes.Equal(answer[4:], echo[4:]) {
			return
		}
	}
}

// internetChecksum is RFC 1071's, for the one packet that this file makes itself.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// TestOffloadModes: with super-packets of TCP only, and with none at all.
func TestOffloadModes(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, mode := range []string{"tcp", "off"} {
			s := openSite(t, labnet.StoryOptions{NoOffload: off}, fmt.Sprintf("ports: [{name: tunlb0, addresses: [10.255.0.1/30, fd00:7474::1/126], offload: %q}]\n%s", mode, storyConfig))
			for _, vip := range vips {
				s.transfer("client", vip)
				s.datagrams("client", vip)
			}
		}
	})
}

// TestRefused: no server, and no service, are known to the client at once.
func TestRefused(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			s := openSite(t, labnet.StoryOptions{OwnVIP: own, NoOffload: off}, storyConfig)
			for _, port := range []int{81, 99} {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				began := time.Now()
				_, err := s.lab.NS("client").DialContext(ctx, "tcp", hostPort(labnet.VIP, port))
				if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > time.Second {
					t.Errorf("own=%v port %d: %v after %v, want a refusal at once", own, port, err, time.Since(began))
				}
				conn := s.dial("client", "udp", hostPort(labnet.VIP, port))
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("own=%v port %d/udp: %v, want refused", own, port, err)
				}
			}
		}
	})
}

// TestOtherPorts: what else listens on the box's own VIP goes on working: ssh, say.
func TestOtherPorts(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		topology := labnet.Story(labnet.StoryOptions{OwnVIP: true, NoOffload: off})
		for i := range topology.Nodes {
			if topology.Nodes[i].Name == "lb" {
				topology.Nodes[i].Services = []labnet.Service{{Kind: labnet.TCPEcho, Port: 22}, {Kind: labnet.UDPEcho, Port: 500}}
			}
		}
		s := openLab(t, topology, storyConfig)
		before := s.dial("client", "tcp", hostPort(labnet.VIP, 22))
		s.echo(before, []byte("before"))
		s.start()
		t.Cleanup(s.stop)
		s.echo(before, []byte("a session that was there before goes on"))
		for _, vip := range vips {
			s.echo(s.dial("client", "tcp", hostPort(vip, 22)), []byte("ssh"))
			if name := s.echo(s.dial("client", "udp", hostPort(vip, 500)), []byte("ike")); name != "lb" {
				t.Errorf("udp 500 of %s was answered by %s", vip, name)
			}
			s.ping("client", vip)
			s.get("client", "http://"+hostPort(vip, 80)+"/")
		}
	})
}

// TestVIPComesAndGoes: the VIP becomes the box's own address while connections are open, and ceases to be.
func TestVIPComesAndGoes(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		s := openSite(t, labnet.StoryOptions{NoOffload: off}, storyConfig)
		conn := s.dial("client", "tcp", hostPort(labnet.VIP, 7))
		s.echo(conn, []byte("routed"))
		lo, err := s.lab.NS("lb").Handle().LinkByName("lo")
		s.must(err)
		owner := func(want string) {
			s.until("VIP of "+want, func() error {
				if got := s.status().Services[0].Owner; got != want {
					return fmt.Errorf("owner is %s", got)
				}
				return nil
			})
			s.echo(conn, []byte("VIP of "+want))
			s.get("client", "http://"+hostPort(labnet.VIP, 80)+"/")
			s.get("lb", "http://"+hostPort(labnet.VIP, 80)+"/")
			s.ping("client", labnet.VIP)
		}
		owner("tunlb")
		s.must(s.lab.NS("lb").AddAddress("lo", netip.MustParsePrefix(labnet.VIP+"/32")))
		owner("box")
		addrs, err := s.lab.NS("lb").Handle().AddrList(lo, 2)
		s.must(err)
		for _, a := range addrs {
			if a.IP.String() == labnet.VIP {
				s.must(s.lab.NS("lb").Handle().AddrDel(lo, &a))
			}
		}
		owner("tunlb")
	})
}

// TestInsiders: clients whose answers would bypass the director: a server that calls its own VIP (every
// server in turn answers, itself among them), and the director itself.
func TestInsiders(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			s := openSite(t, labnet.StoryOptions{OwnVIP: own, NoOffload: off}, storyConfig)
			for _, node := range []string{"rs1", "lb"} {
				for _, vip := range vips {
					if got := s.sequence(node, "http://"+hostPort(vip, 80)+"/", 3); len(strings.Fields(got)) != 3 {
						t.Errorf("%s to %s: %s", node, vip, got)
					}
					s.datagrams(node, vip)
				}
				s.transfer(node, labnet.VIP)
			}
		}
	})
}

// TestBoxToServer: the director itself uses the real servers' services, past tunlb: health checks, say. Their answers
// must not take the way of those to clients: where the kernel has a socket for a packet it does not forward it.
func TestBoxToServer(t *testing.T) {
	offloads(t, func(t *testing.T, off bool) {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("own-vip=%v", own), func(t *testing.T) {
				s := openSite(t, labnet.StoryOptions{OwnVIP: own, NoOffload: off}, storyConfig)
				for _, server := range []string{"192.168.0.10", "2001:db8:c0::10"} {
					if _, name, err := s.fetch("lb", http.MethodGet, "http://"+hostPort(server, 8080)+"/", nil); name != "rs1" {
						t.Errorf("%s is answered for by %q: %v", server, name, err)
					}
				}
				for _, server := range []string{"192.168.0.10", "2001:db8:c0::10"} {
					s.datagrams("lb", server)
					s.ping("lb", server)
				}
			})
		}
	})
}
