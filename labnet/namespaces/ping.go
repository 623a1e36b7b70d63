package namespaces

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const (
	echoRequest, echoReply   = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// Ping is scenario.Lab's. It has a raw socket: those for pings alone are not for everybody in a new namespace.
func (l *lab) Ping(ctx context.Context, host string, to netip.Addr) (time.Duration, error) {
	ns, err := l.host(host)
	if err != nil {
		return 0, err
	}
	network, request, reply := "ip4:icmp", byte(echoRequest), byte(echoReply)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", echoRequest6, echoReply6
	}
	var conn net.PacketConn
	err = ns.Do(func() error {
		conn, err = net.ListenPacket(network, "")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ping from %s: %w", host, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()

	message := echo(request, to)
	began := time.Now()
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, fmt.Errorf("ping from %s: %w", host, err)
	}
	for buf := make([]byte, 1500); ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return 0, fmt.Errorf("ping %s from %s: no answer: %w", to, host, err)
		}
		// Identifier, sequence number and data come back as they were; the socket hears others' answers, too.
		answer, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		if n == len(message) && buf[0] == reply && answer.Unmap() == to.Unmap() && bytes.Equal(buf[4:n], message[4:]) {
			return time.Since(began), nil
		}
	}
}

// echo is a request that no other one is like.
func echo(request byte, to netip.Addr) []byte {
	b := make([]byte, 64)
	b[0] = request
	for i := 4; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], rand.Uint32())
	}
	if to.Is4() { // of ICMPv6 the kernel does it
		binary.BigEndian.PutUint16(b[2:], ^sum(b))
	}
	return b
}

// sum is the Internet's (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
