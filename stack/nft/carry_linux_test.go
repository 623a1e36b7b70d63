package nft

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"golang.org/x/sys/unix"
)

func cpu() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// sides are the lab's addresses in both families.
var sides = []struct {
	name                      string
	client, vip, back, server netip.Addr
}{
	{"IPv4", client4, vip4, back4, rs4},
	{"IPv6", client6, vip6, back6, rs6},
}

// TestCarry: packet in, packet out, as another implementation reads it; and what is not carried is left alone.
func TestCarry(t *testing.T) {
	l := newLab(t)
	l.pin(t)
	c, w := l.carrier(t, 100), l.witness(t)
	sniffer, err := l.server.Sniff("eth0")
	must(t, err)
	defer sniffer.Close()
	type packetOf = func(testing.TB, netip.AddrPort, netip.AddrPort, ...pt.Option) []byte
	number := 0
	for _, s := range sides {
		from, to := netip.AddrPortFrom(s.client, 4000), netip.AddrPortFrom(s.vip, 80)
		source, server := netip.AddrPortFrom(s.back, 50000), netip.AddrPortFrom(s.server, 8080)
		four := s.client.Is4()
		for _, err := range c.Add([]Conn{l.nat(6, from, to, source, server), l.nat(17, from, to, from, server)}) {
			must(t, err)
		}
		for _, tt := range []struct {
			what    string
			make    packetOf
			from    netip.AddrPort
			opts    []pt.Option
			carried bool
		}{
			{"TCP data", pt.TCP, from, nil, true},
			{"TCP pushed", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPAck | packet.TCPPsh | packet.TCPUrg | packet.TCPEce | packet.TCPCwr)}, true},
			{"TCP with options", pt.TCP, from, []pt.Option{pt.TCPOptions(1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2)}, true},
			{"wrong TCP checksum", pt.TCP, from, []pt.Option{pt.BadChecksum()}, true},
			{"TTL 2", pt.TCP, from, []pt.Option{pt.TTL(2)}, true},
			{"TTL 1", pt.TCP, from, []pt.Option{pt.TTL(1)}, false},
			{"SYN", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPSyn)}, false},
			{"SYN ACK", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPSyn | packet.TCPAck)}, true},
			{"SYN ACK RST", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPSyn | packet.TCPAck | packet.TCPRst)}, false},
			{"FIN", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPFin | packet.TCPAck)}, true},
			{"SYN FIN", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPSyn | packet.TCPFin)}, false},
			{"RST", pt.TCP, from, []pt.Option{pt.Flags(packet.TCPRst)}, true},
			{"another client", pt.TCP, netip.AddrPortFrom(s.client, 4001), nil, false},
			{"first fragment", pt.UDP, from, []pt.Option{pt.Fragment(1, 0, true)}, false},
			{"later fragment", pt.UDP, from, []pt.Option{pt.Fragment(1, 1480, false)}, false},
			{"UDP", pt.UDP, from, nil, true},
			{"UDP without checksum", pt.UDP, from, []pt.Option{pt.NoChecksum()}, four},
			{"wrong UDP checksum", pt.UDP, from, []pt.Option{pt.BadChecksum()}, true},
		} {
			number++
			payload := fmt.Appendf(nil, "number %4d, and as many bytes as a fragment has.", number)
			frame := tt.make(t, tt.from, to, append([]pt.Option{pt.Payload(payload), pt.Seq(7), pt.Ack(9), pt.ID(5)}, tt.opts...)...)
			passed := w.pass([][]byte{onCable(frame, l.macs["clients"])})[0]
			if passed == tt.carried {
				t.Errorf("%s, %s: carried: %t, want %t", s.name, tt.what, !passed, tt.carried)
			}
			if passed {
				continue
			}
			in, err := pt.Decode(frame)
			must(t, err)
			as := source
			if in.Proto == packet.ProtoUDP {
				as = from
			}
			checks := []pt.Checker{pt.SrcDst(as, server), pt.HasTTL(in.TTL - 1), pt.HasProto(in.Proto), pt.HasPayload(payload)}
			switch tt.what {
			case "wrong TCP checksum", "wrong UDP checksum":
				checks = append(checks, wrongChecksum)
			case "UDP without checksum":
				checks = append(checks, pt.NoUDPChecksum(), pt.ValidChecksums())
			default:
				checks = append(checks, pt.ValidChecksums())
			}
			if in.Proto == packet.ProtoTCP {
				checks = append(checks, pt.HasSeq(7), pt.HasAck(9), pt.HasFlags(in.L4[13]))
			}
			t.Run(s.name+"/"+tt.what, func(t *testing.T) { pt.Check(t, seen(t, sniffer, payload), checks...) })
		}
		plain := pt.UDP(t, from, to, pt.PayloadLen(40))
		extended := onCable(pt.UDP(t, from, to, pt.Extension(60, 1, 4, 0, 0, 0, 0)), l.macs["clients"])
		if four {
			extended = onCable(pt.UDP(t, from, to, pt.IPOptions(1, 1, 1, 1)), l.macs["clients"])
		}
		other := onCable(plain, [6]byte{2, 7, 7, 7, 7, 7})
		tagged := slices.Insert(onCable(plain, l.macs["clients"]), 12, 0x81, 0x00, 0, 5)
		if got := w.pass([][]byte{extended, other, tagged}); !slices.Equal(got, []bool{true, true, true}) {
			t.Errorf("%s: options, another station's, tagged: not carried: %t", s.name, got)
		}
	}
}

func wrongChecksum(p *pt.Packet) string {
	if pt.ValidChecksums()(p) == "" {
		return "a wrong checksum was made right"
	}
	return ""
}

// seen is the packet with a payload, with a vnet header.
func seen(t testing.TB, s *netns.Sniffer, payload []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := s.Wait(ctx, func(p netns.Packet) bool { return bytes.HasSuffix(p.Data, payload) })
	must(t, err)
	return append(make([]byte, packet.VnetLen), p.Payload()...)
}

// offloads runs a test with and without: wrong checksums show without, and super-packets come with.
func offloads(t *testing.T, f func(t *testing.T, l *lab, on bool)) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload=%t", on), func(t *testing.T) {
			l := newLab(t)
			for _, at := range []struct {
				ns    *netns.NS
				iface string
			}{{l.client, "eth0"}, {l.server, "eth0"}, {l.box, "clients"}, {l.box, "servers"}} {
				must(t, at.ns.SetOffload(at.iface, on))
			}
			f(t, l, on)
		})
	}
}

// TestCarryUDP: both ways, between kernels' sockets.
func TestCarryUDP(t *testing.T) {
	offloads(t, func(t *testing.T, l *lab, on bool) {
		c := l.carrier(t, 100)
		for _, s := range sides {
			for _, sums := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/checksum=%t", s.name, sums), func(t *testing.T) {
					if !sums && s.client.Is6() {
						t.Skip("IPv6 has no UDP without checksum") // but in tunnels
					}
					carryUDP(t, l, c, s.client, s.vip, s.server, sums)
				})
			}
		}
	})
}

func carryUDP(t *testing.T, l *lab, c *Carrier, client, vip, server netip.Addr, sums bool) {
	near, err := l.client.ListenPacket("udp", netip.AddrPortFrom(client, 0).String())
	must(t, err)
	defer near.Close()
	far, err := l.server.ListenPacket("udp", netip.AddrPortFrom(server, 5353).String())
	must(t, err)
	defer far.Close()
	if !sums {
		for _, conn := range []net.PacketConn{near, far} {
			raw, err := conn.(*net.UDPConn).SyscallConn()
			must(t, err)
			must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }))
			must(t, err)
		}
	}
	to := netip.AddrPortFrom(vip, 53)
	from := near.LocalAddr().(*net.UDPAddr).AddrPort()
	conn := l.nat(17, from, to, from, netip.AddrPortFrom(server, 5353))
	must(t, c.Add([]Conn{conn})[0])
	for i := range 20 {
		sent := bytes.Repeat([]byte{byte(i)}, 1+70*i) // odd and even
		_, err := near.WriteTo(sent, net.UDPAddrFromAddrPort(to))
		must(t, err)
		got, sender := receive(t, far)
		if !bytes.Equal(got, sent) || sender != from {
			t.Fatalf("the server got %d bytes from %s", len(got), sender)
		}
		_, err = far.WriteTo(got, net.UDPAddrFromAddrPort(sender))
		must(t, err)
		if got, sender = receive(t, near); !bytes.Equal(got, sent) || sender != to {
			t.Fatalf("the client got %d bytes from %s", len(got), sender)
		}
	}
	for _, u := range usage(t, c) {
		if u.Outer == conn.Outer && u.Packets != 20 {
			t.Errorf("%+v", u)
		}
	}
	must(t, c.Remove([]Conn{conn}))
	_, err = near.WriteTo([]byte("too late"), net.UDPAddrFromAddrPort(to))
	must(t, err)
	must(t, far.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	if n, _, err := far.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes of a connection that was removed", n)
	}
}

func receive(t *testing.T, conn net.PacketConn) ([]byte, netip.AddrPort) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	buf := make([]byte, 2000)
	n, from, err := conn.ReadFrom(buf)
	must(t, err)
	at := from.(*net.UDPAddr).AddrPort()
	return buf[:n], netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// opening is nft's part in TestCarryTCP: it translates what the carrier leaves, the SYN and what ends a connection, and has
// all else dropped.
const opening = `
table inet opening {
	chain first {
		type filter hook prerouting priority raw; policy accept;
		iif != lo tcp flags & (syn|fin|rst) == 0 drop
	}
	chain translate {
		type nat hook prerouting priority dstnat;
		ip daddr %s tcp dport 80 dnat ip to %s:8080
		ip6 daddr %s tcp dport 80 dnat ip6 to [%s]:8080
	}
}`

// TestCarryTCP: bulk both ways between kernels, of which only the opening and the end do not go by the carrier.
func TestCarryTCP(t *testing.T) {
	offloads(t, func(t *testing.T, l *lab, on bool) {
		must(t, l.box.Sysctl("ipv4/ip_forward", "1"))
		must(t, l.box.Sysctl("ipv6/conf/all/forwarding", "1"))
		l.nft(t, fmt.Sprintf(opening, vip4, rs4, vip6, rs6))
		must(t, l.box.Sysctl("netfilter/nf_conntrack_tcp_be_liberal", "1")) // it does not see what is in between
		c := l.carrier(t, 100)
		for _, s := range sides {
			t.Run(s.name, func(t *testing.T) { carryTCP(t, l, c, s.client, s.vip, s.server, on) })
		}
	})
}

func carryTCP(t *testing.T, l *lab, c *Carrier, client, vip, server netip.Addr, offload bool) {
	const size = 8 << 20
	listener, err := l.server.Listen("tcp", netip.AddrPortFrom(server, 8080).String())
	must(t, err)
	defer listener.Close()
	result := make(chan error, 1)
	digests := make(chan [32]byte, 2)
	go func() { result <- echoSum(listener, size, digests) }() // ends with its connection
	from, to := netip.AddrPortFrom(client, 40000), netip.AddrPortFrom(vip, 80)
	conn := l.nat(6, from, to, from, netip.AddrPortFrom(server, 8080))
	must(t, c.Add([]Conn{conn})[0]) // before the handshake's last ACK
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := l.client.DialFrom(ctx, "tcp", from, to)
	must(t, err)
	defer stream.Close()
	must(t, stream.SetDeadline(time.Now().Add(60*time.Second)))
	data := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
	_, err = stream.Write(data)
	must(t, err)
	got, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())
	must(t, <-result)
	if want := sha256.Sum256(data); <-digests != want || sha256.Sum256(got) != want {
		t.Errorf("what came is not what was sent: %d bytes", len(got))
	}
	for _, u := range usage(t, c) {
		if u.Outer != conn.Outer {
			continue
		}
		t.Logf("%+v", u)
		// What comes last comes with FIN, and goes past the carrier.
		if u.Bytes < size-1<<17 || offload && u.Bytes/u.Packets < 3000 {
			t.Errorf("carried: %+v", u)
		}
	}
	must(t, c.Remove([]Conn{conn}))
}

// echoSum takes size bytes, sends them back and closes.
func echoSum(l net.Listener, size int, digest chan<- [32]byte) error {
	stream, err := l.Accept()
	if err != nil {
		return err
	}
	defer stream.Close()
	data := make([]byte, size)
	if _, err := io.ReadFull(stream, data); err != nil {
		return err
	}
	digest <- sha256.Sum256(data)
	_, err = stream.Write(data)
	return errors.Join(err, stream.(*net.TCPConn).CloseWrite())
}
