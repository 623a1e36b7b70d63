package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

// TestStorm: while a station floods questions and lies, from its own MAC and from made-up ones, connections
// are opened and data is whole, no client and no server is led astray, and tunlb does not grow.
func TestStorm(t *testing.T) {
	needLab(t)
	for _, shape := range []labnet.Shape{labnet.OneArm, labnet.Inline} {
		t.Run(string(shape), func(t *testing.T) {
			s := openDR(t, labnet.DROptions{Shape: shape, Clients: 2, Quiet: true})
			for _, vip := range vips {
				s.get("client", "http://"+hostPort(vip, 80)+"/")
			}
			before := s.memory()
			flooded := make(chan error)
			go func() { flooded <- s.flood("client2", 40_000) }()
			rounds := 0
			for during := true; during; rounds++ {
				for _, vip := range vips {
					s.download("client", vip, 4<<20)
					s.get("client", "http://"+hostPort(vip, 80)+"/")
				}
				select {
				case err := <-flooded:
					s.must(err)
					during = false
				default:
				}
			}
			t.Logf("%d rounds of downloads and requests meanwhile", rounds)
			for _, neighbour := range s.segment().Neighbours {
				if neighbour.Server != "" && (neighbour.MAC != "02:00:cb:00:71:0"+string("abc"[neighbour.Server[2]-'1'])) {
					t.Errorf("%s is believed at %s", neighbour.Server, neighbour.MAC)
				}
			}
			status := s.status()
			t.Logf("drops: %v, %d stations", status.Drops, status.Segments[0].Stations)
			if status.Drops["rate-limited"] == 0 {
				t.Error("no answer was refused")
			}
			if grown := s.memory() - before; grown > 32<<20 {
				t.Errorf("tunlb has grown by %d MiB", grown>>20)
			}
		})
	}
}

// download fetches n bytes and compares their sum, without keeping them.
func (s *site) download(node, vip string, n int64) {
	s.t.Helper()
	client := s.lab.NS(node).HTTPClient()
	client.Timeout = patience
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://%s/bytes/%d", hostPort(vip, 80), n))
	s.must(err)
	defer resp.Body.Close()
	got, want := sha256.New(), sha256.New()
	if _, err := io.Copy(got, resp.Body); err != nil {
		s.t.Fatal(err)
	}
	io.Copy(want, labnet.Bytes(n))
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		s.t.Errorf("%s: the download is not what was sent", vip)
	}
}

// memory is what tunlb keeps resident.
func (s *site) memory() int64 {
	s.t.Helper()
	var pages, resident int64
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.status().Daemon.PID))
	s.must(err)
	if _, err := fmt.Sscan(string(b), &pages, &resident); err != nil {
		s.t.Fatal(err)
	}
	return resident << 12
}

// flood sends n questions for the VIPs and lies about servers out of a node, at most 100,000 a second.
func (s *site) flood(node string, n int) error {
	liar := packet.MAC{2, 0, 0xba, 0xd0, 0, 0}
	var frames [][]byte
	for i, vip := range vips {
		own := netip.MustParseAddr([]string{"203.0.113.8", "2001:db8:113::8"}[i])
		rs1 := netip.MustParseAddr([]string{"203.0.113.10", "2001:db8:113::10"}[i])
		tunlb := netip.MustParseAddr([]string{labnet.TunlbAddr, labnet.TunlbAddr6}[i])
		frames = append(frames, pt.Ask(liar, own, netip.MustParseAddr(vip)), pt.Ask(liar, own, tunlb),
			pt.Tell(liar, packet.Broadcast, rs1, rs1), pt.Ask(liar, rs1, tunlb),
			pt.Tell(liar, packet.Broadcast, rs1, rs1)[:40])
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	return s.sending(node, func(send func(frame []byte) error) error {
		for i := range n {
			if i%100 == 0 {
				<-tick.C
			}
			f := bytes.Clone(frames[i%len(frames)])
			if i%3 == 0 { // from a made-up station
				binary.BigEndian.PutUint32(f[packet.VnetLen+8:], uint32(i))
			}
			if err := send(f); err != nil {
				return err
			}
		}
		return nil
	})
}
