package replay

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	links "github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func at(a string, port int) netip.AddrPort { return netip.AddrPortFrom(addr(a), uint16(port)) }

var begun = time.Unix(1_700_000_000, 123_456_789)

// boxConfig is a TUN on the box, both families.
const boxConfig = `
services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: wrr
    servers:
      - {name: rs1, address: 192.168.0.10:8080, weight: 2}
      - {name: rs2, address: 192.168.0.11:8080}
  - name: web6
    listen: "[2001:db8:113::22]:80/tcp"
    scheduler: p2c
    servers: ["[2001:db8:c0::10]:8080", "[2001:db8:c0::11]:8080", "[2001:db8:c0::12]:8080"]
  - name: full
    listen: 203.0.113.22:443/tcp
    mode: fullnat
    scheduler: p2c
    servers: [192.168.0.10:8443, 192.168.0.11:8443]
  - name: dns
    listen: 203.0.113.22:53/udp
    scheduler: mh
    servers: [192.168.0.10, 192.168.0.11]
    health: {type: dns, interval: 1s, timeout: 500ms}
  - name: drained
    listen: 203.0.113.22:81/tcp
    servers: [{address: 192.168.0.10, weight: 0}]
gateway:
  - {inside: 192.168.0.0/24, masquerade: 203.0.113.50}
`

func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("tunlb.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// timed is a packet and when it came, after the first.
type timed struct {
	after time.Duration
	frame []byte // vnet header first, as the builders make it
	wire  int    // its length, where the file has a part of it only; 0: all
}

// story is a day of the box in short: connections to all services in both families, pings, strays, a server's own
// connections, and a super-packet.
func story(t testing.TB) (list []timed) {
	now := time.Duration(0)
	add := func(frame []byte) {
		list = append(list, timed{after: now, frame: frame})
		now += 7 * time.Millisecond
	}
	for i := range 40 {
		client, client6 := at(fmt.Sprintf("198.51.100.%d", 1+i%7), 40000+i), at(fmt.Sprintf("2001:db8:1::%d", 1+i%7), 40000+i)
		add(pt.TCP(t, client, at("203.0.113.22", 80), pt.Flags(packet.TCPSyn), pt.Seq(uint32(i))))
		add(pt.TCP(t, client6, at("2001:db8:113::22", 80), pt.Flags(packet.TCPSyn)))
		add(pt.TCP(t, netip.AddrPortFrom(client.Addr(), uint16(1000+i)), at("203.0.113.22", 443), pt.Flags(packet.TCPSyn))) // below tunlb's own ports
		add(pt.UDP(t, client, at("203.0.113.22", 53), pt.PayloadLen(30)))
		add(pt.TCP(t, client, at("203.0.113.22", 80), pt.Flags(packet.TCPAck), pt.Seq(uint32(i+1)), pt.PayloadLen(i)))
		add(pt.TCP(t, at("192.168.0.10", 8080), client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.Ack(uint32(i+1))))
		add(pt.UDP(t, at("192.168.0.11", 1000+i), at("198.51.100.99", 123)))
		now += 100 * time.Millisecond
	}
	add(pt.Echo(t, addr("198.51.100.1"), addr("203.0.113.22"), 7, 1, pt.PayloadLen(56)))
	add(pt.Echo(t, addr("2001:db8:1::1"), addr("2001:db8:113::22"), 7, 1, pt.PayloadLen(56)))
	add(pt.UDP(t, at("198.51.100.1", 5000), at("192.0.2.1", 9))) // nobody's here
	for i := range 140 {                                         // twice more than the host's stack answers at once
		add(pt.UDP(t, at("198.51.100.1", 5000+i), at("203.0.113.22", 9)))
		if now -= 7 * time.Millisecond; i == 69 {
			now += time.Second
		}
	}
	add(pt.TCP(t, at("198.51.100.1", 9), at("203.0.113.22", 9), pt.Flags(packet.TCPSyn)))
	for i := range 400 { // and than tunlb does
		add(pt.TCP(t, at("198.51.100.1", 2000+i), at("203.0.113.22", 81), pt.Flags(packet.TCPSyn)))
		if now -= 7 * time.Millisecond; i == 199 {
			now += time.Second
		}
	}
	add(pt.TCP(t, at("198.51.100.1", 40000), at("203.0.113.22", 80), pt.Flags(packet.TCPAck), pt.Seq(1), pt.PayloadLen(9000), pt.DontFragment()))
	now += 20 * time.Minute // all flows end
	add(pt.TCP(t, at("198.51.100.1", 40000), at("203.0.113.22", 80), pt.Flags(packet.TCPAck), pt.Seq(9001)))
	return list
}

// save writes packets as pcap with nanoseconds, and returns the file's path.
func save(t testing.TB, link links.LinkType, list []timed) string {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(1<<17, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		data := p.frame[packet.VnetLen:]
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: begun.Add(p.after), CaptureLength: len(data), Length: max(p.wire, len(data))}, data); err != nil {
			t.Fatal(err)
		}
	}
	return saved(t, b.Bytes())
}

func saved(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rerun replays and returns what was written, too.
func rerun(t testing.TB, path, cfg string, seed uint64) (*Summary, []byte) {
	t.Helper()
	var out bytes.Buffer
	sum, err := Run(t.Context(), Options{File: path, Config: parse(t, cfg), Seed: seed, Out: &out, Header: capture.Header{Application: capture.Application + "test"}})
	if err != nil {
		t.Fatal(err)
	}
	return sum, out.Bytes()
}

// packets reads what was written.
func packets(t testing.TB, b []byte) (list []capture.Packet) {
	t.Helper()
	r, err := capture.NewReader(bytes.NewReader(b), "out")
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if err != nil {
			if len(list) == 0 {
				t.Fatal(err)
			}
			return list
		}
		kept := *p
		kept.Data = bytes.Clone(p.Data)
		list = append(list, kept)
	}
}

// differ is cmp.Diff for what has addresses in it.
func differ(a, b any) string { return cmp.Diff(a, b, cmpopts.EquateComparable(netip.AddrPort{})) }
