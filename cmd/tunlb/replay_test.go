package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

const replayConfig = `
services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: wrr
    servers: [{name: rs1, address: 192.168.0.10:8080, weight: 3}, {name: rs2, address: 192.168.0.11:8080}]
  - name: web6
    listen: "[2001:db8:113::22]:80/tcp"
    scheduler: rr
    servers: ["[2001:db8:c0::10]:8080"]
  - {name: drained, listen: 203.0.113.22:81/tcp, servers: [{name: rs1, address: 192.168.0.10, weight: 0}]}
`

// replayCapture is eight connections and one of IPv6, a ping, one to a service without servers, one cut off.
func replayCapture(t *testing.T) string {
	vip := netip.MustParseAddrPort("203.0.113.22:80")
	var list [][]byte
	for i := range 8 {
		list = append(list, pt.TCP(t, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(40000+i)), vip, pt.Flags(packet.TCPSyn)))
	}
	list = append(list,
		pt.TCP(t, netip.MustParseAddrPort("[2001:db8:1::7]:40000"), netip.MustParseAddrPort("[2001:db8:113::22]:80"), pt.Flags(packet.TCPSyn)),
		pt.Echo(t, netip.MustParseAddr("198.51.100.7"), vip.Addr(), 1, 1),
		pt.TCP(t, netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("203.0.113.22:81"), pt.Flags(packet.TCPSyn)),
		list[0])
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(1500, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for i, frame := range list {
		data := frame[packet.VnetLen:]
		ci := gopacket.CaptureInfo{Timestamp: time.Date(2026, 1, 2, 3, 4, 5, i*1e6, time.UTC), CaptureLength: len(data), Length: len(data)}
		if i == len(list)-1 {
			ci.CaptureLength, data = 30, data[:30]
		}
		if err := w.WritePacket(ci, data); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReplay: what a replay tells people and programs is as in testdata/replay.
func TestReplay(t *testing.T) {
	path := replayCapture(t)
	cfg := filepath.Join(t.TempDir(), "tunlb.yaml")
	if err := os.WriteFile(cfg, []byte(replayConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for format, golden := range map[string]string{"table": "summary.txt", "json": "summary.json"} {
		var out, errOut bytes.Buffer
		if code := run([]string{"tunlb", "replay", path, "--config", cfg, "-o", format}, strings.NewReader(""), &out, &errOut); code != 0 {
			t.Fatalf("exit %d: %s", code, &errOut)
		}
		want := filepath.Join("testdata", "replay", golden)
		text, err := os.ReadFile(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(text), out.String()); diff != "" {
			t.Errorf("%s is another (-file +got):\n%s\n%s", want, diff, &out)
		}
	}
}
