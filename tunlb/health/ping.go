package health

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// Types of ICMP messages, RFC 792 and RFC 4443.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

const (
	echoHeader = 8
	// tokenSize is that of the random payload by which a reply is known: a datagram socket does not let us
	// choose the identifier.
	tokenSize = 16
)

// Ping sends an echo request through a datagram socket, which the kernel permits to the groups in the
// sysctl net.ipv4.ping_group_range, or else a raw one, which takes CAP_NET_RAW.
func (Kernel) Ping(ctx context.Context, addr netip.Addr) error {
	addr = addr.Unmap()
	conn, read, err := openPing(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := echo(addr.Is6())
	if _, err := conn.Write(request); err != nil {
		return err
	}
	want := byte(echoReply4)
	if addr.Is6() {
		want = echoReply6
	}
	buf := make([]byte, 1500)
	for {
		n, err := read(buf)
		if err != nil {
			return err
		}
		if got := buf[:n]; n == len(request) && got[0] == want && bytes.Equal(got[echoHeader:], request[echoHeader:]) {
			return nil
		}
	}
}

// openPing returns a connected socket, so that it hears of ICMP errors and of nobody else, and how to read
// ICMP messages from it.
func openPing(ctx context.Context, addr netip.Addr) (net.Conn, func([]byte) (int, error), error) {
	if conn, err := openDatagramPing(addr); err == nil {
		return conn, conn.Read, nil
	}
	network := "ip4:icmp"
	if addr.Is6() {
		network = "ip6:ipv6-icmp"
	}
	d := net.Dialer{Control: hearErrors}
	conn, err := d.DialIP(ctx, network, netip.Addr{}, addr)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, nil, errors.New("no permission to ping: give CAP_NET_RAW, or widen the sysctl net.ipv4.ping_group_range")
	case err != nil:
		return nil, nil, err
	}
	return conn, func(b []byte) (int, error) {
		n, _, err := conn.ReadFrom(b) // unlike Read it strips the IPv4 header
		return n, err
	}, nil
}

// echo makes a request. The kernel fills in the checksum of ICMPv6, which covers addresses.
func echo(ipv6 bool) []byte {
	b := make([]byte, echoHeader+tokenSize)
	b[0] = echoRequest4
	if ipv6 {
		b[0] = echoRequest6
	}
	_, _ = crand.Read(b[4:]) // never fails; the identifier, the sequence number and the token
	if ipv6 {
		return b
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}
