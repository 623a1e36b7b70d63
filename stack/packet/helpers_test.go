package packet_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// The story's network, and its IPv6 twin.
var (
	client4, vip4, server4 = ap("198.51.100.7:40000"), ap("203.0.113.22:80"), ap("192.168.0.10:8080")
	client6, vip6, server6 = ap("[2001:db8:1::7]:40000"), ap("[2001:db8::22]:80"), ap("[fd00::10]:8080")
	router4, router6       = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")
)

// parse fails the test unless frame parses.
func parse(t testing.TB, frame []byte) *packet.View {
	t.Helper()
	v := new(packet.View)
	if r := v.Parse(frame); r != packet.None {
		t.Fatalf("Parse: %v\n%s", r, hex.Dump(frame[:min(len(frame), 256)]))
	}
	return v
}

// same compares two frames byte by byte and prints both.
func same(t testing.TB, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("got\n%swant\n%s", hex.Dump(got[:min(len(got), 256)]), hex.Dump(want[:min(len(want), 256)]))
	}
}
