package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	links "github.com/gopacket/gopacket/layers"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// routerConfig is a virtual router between two namespaces.
const routerConfig = `
ports:
  - {name: front, netns: /run/netns/front, addresses: [10.0.1.1/24, "2001:db8:1::1/64"], router: [10.0.1.2, "2001:db8:1::2"], routes: [198.51.100.0/24, "2001:db8:2::/64"]}
  - {name: back, netns: /run/netns/back, addresses: [192.168.0.1/24, "2001:db8:c0::1/64"], router: [192.168.0.2, "2001:db8:c0::2"]}
services:
  - {name: web, listen: 203.0.113.22:80/tcp, scheduler: rr, servers: [192.168.0.10:8080]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", scheduler: rr, servers: ["[2001:db8:c0::10]:8080"]}
`

// connection is a request and its answer.
func connection(t testing.TB, v6 bool) []timed {
	client, vip, rs := at("198.51.100.7", 40000), at("203.0.113.22", 80), at("192.168.0.10", 8080)
	if v6 {
		client, vip, rs = at("2001:db8:2::7", 40000), at("2001:db8:113::22", 80), at("2001:db8:c0::10", 8080)
	}
	return []timed{
		{frame: pt.TCP(t, client, vip, pt.Flags(packet.TCPSyn), pt.TTL(64))},
		{after: time.Millisecond, frame: pt.TCP(t, rs, client, pt.Flags(packet.TCPSyn|packet.TCPAck), pt.TTL(64))},
	}
}

// TestForeign: of a capture by somebody else the source says the port, and its link layer goes.
func TestForeign(t *testing.T) {
	ethernet := func(tags ...byte) func(ip []byte) []byte {
		return func(ip []byte) []byte {
			return slices.Concat(make([]byte, 12), tags, be.AppendUint16(nil, packet.EtherTypeOf(ip[0]>>4 == 6)), ip)
		}
	}
	typed := func(ip []byte) []byte { return be.AppendUint16(nil, packet.EtherTypeOf(ip[0]>>4 == 6)) }
	for name, kind := range map[string]struct {
		link links.LinkType
		wrap func(ip []byte) []byte
	}{
		"raw":      {links.LinkTypeRaw, func(ip []byte) []byte { return ip }},
		"ipv4":     {links.LinkTypeIPv4, func(ip []byte) []byte { return ip }},
		"bsd raw":  {12, func(ip []byte) []byte { return ip }},
		"ethernet": {links.LinkTypeEthernet, ethernet()},
		"vlan":     {links.LinkTypeEthernet, ethernet(0x88, 0xa8, 0, 7, 0x81, 0, 0, 8)},
		"null":     {links.LinkTypeNull, func(ip []byte) []byte { return append([]byte{2, 0, 0, 0}, ip...) }},
		"loop":     {links.LinkTypeLoop, func(ip []byte) []byte { return append([]byte{0, 0, 0, 2}, ip...) }},
		"cooked":   {links.LinkTypeLinuxSLL, func(ip []byte) []byte { return slices.Concat(make([]byte, 14), typed(ip), ip) }},
		"cooked 2": {links.LinkTypeLinuxSLL2, func(ip []byte) []byte { return slices.Concat(typed(ip), make([]byte, 18), ip) }},
	} {
		for _, v6 := range []bool{false, true} {
			var list []timed
			for _, p := range connection(t, v6) {
				list = append(list, timed{p.after, append(make([]byte, packet.VnetLen), kind.wrap(p.frame[packet.VnetLen:])...), 0})
			}
			sum, out := rerun(t, save(t, kind.link, list), routerConfig, 1)
			var ways []string
			for _, p := range packets(t, out) {
				ways = append(ways, p.Port+" "+p.Side.String())
			}
			if want := []string{"front in", "back out", "back in", "front out"}; !slices.Equal(ways, want) || sum.Flows != 1 || sum.Dropped != 0 {
				t.Errorf("%s, v6 %v: %q, want %q: %+v", name, v6, ways, want, sum)
			}
		}
	}
}

// TestSkipped: what is not replayed is counted by its cause.
func TestSkipped(t *testing.T) {
	list := connection(t, false)
	cut := list[0]
	cut.frame, cut.wire = cut.frame[:len(cut.frame)-10], len(cut.frame)-packet.VnetLen
	own := timed{frame: pt.TCP(t, at("203.0.113.22", 80), at("198.51.100.7", 40000))}
	sum, _ := rerun(t, save(t, links.LinkTypeRaw, append(list, cut, own, timed{frame: append(make([]byte, packet.VnetLen), 0x11, 2, 3)}, timed{frame: make([]byte, packet.VnetLen)})), routerConfig, 1)
	if sum.Read != 6 || sum.In != 2 || sum.Skipped[CutOff] != 1 || sum.Skipped[skipOwn] != 1 || sum.Skipped[skipNoIP] != 2 {
		t.Errorf("%+v", sum)
	}
	long := make([]byte, packet.VnetLen+1<<17)
	long[packet.VnetLen] = 0x45
	sum, _ = rerun(t, save(t, links.LinkTypeRaw, []timed{{frame: long}}), routerConfig, 1)
	if sum.Skipped[skipTooBig] != 1 {
		t.Errorf("128 KiB: %+v", sum)
	}
}

// TestRefused: what a file can't be replayed for, where, and what to do.
func TestRefused(t *testing.T) {
	raw := save(t, links.LinkTypeRaw, connection(t, false))
	radio := save(t, links.LinkTypeIEEE80211Radio, connection(t, false))
	for _, test := range []struct{ path, cfg, want string }{
		{raw, armConfig, "packet 1 at byte 24: it has no Ethernet header, and port tunlb0 of the configuration is one of type tap, capture on an Ethernet interface, or replay with a configuration whose ports are of type tun"},
		{radio, routerConfig, "packet 1 at byte 24: its link type is 127 (802.11 with radiotap), want Ethernet, raw IP, Linux cooked or BSD loopback"},
		{save(t, links.LinkTypeRaw, nil), routerConfig, "there is no packet in it"},
		{saved(t, []byte("text")), routerConfig, "neither pcap nor pcapng"},
		{t.TempDir(), routerConfig, "save it as a file first"},
		{"/nowhere/x.pcap", routerConfig, "no such file"},
	} {
		_, err := Run(t.Context(), Options{File: test.path, Config: parse(t, test.cfg)})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
		var located *capture.Error
		if strings.Contains(test.want, "packet 1") && (!errors.As(err, &located) || !strings.HasPrefix(err.Error(), test.path+": ")) {
			t.Errorf("%T, and not *capture.Error with the file's name: %[1]v", err)
		}
	}
}

// TestOnlyOut: a file of tunlb's own with the packets that left says nothing of those that came.
func TestOnlyOut(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, capture.Options{Header: capture.Header{Application: capture.Application + "1"}, Side: capture.Out})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"front", "elsewhere"} {
		p := connection(t, false)[0].frame
		f := watch.Frame{Port: port, Data: p, Length: len(p) - packet.VnetLen}
		if err := w.Write(&watch.Record{Time: begun, Out: []watch.Frame{f}}); err != nil {
			t.Fatal(err)
		}
	}
	sum, _ := rerun(t, saved(t, b.Bytes()), routerConfig, 1)
	if sum.In != 0 || sum.Skipped[skipOut] != 2 {
		t.Errorf("%+v", sum)
	}
}

// armConfig is a director on a segment, direct routing and NAT; clients come by a router.
const armConfig = `
ports:
  - {name: tunlb0, type: tap, addresses: [203.0.113.2/24, "2001:db8:113::2/64"], routes: [default via 203.0.113.1, "default via 2001:db8:113::1"]}
services:
  - {name: web, listen: 203.0.113.22:80/tcp, mode: dr, scheduler: rr, servers: [203.0.113.10]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, scheduler: rr, servers: ["2001:db8:113::10"]}
  - {name: nat, listen: 203.0.113.22:81/tcp, scheduler: rr, servers: [203.0.113.11]}
`

// inlineConfig is the same as a switch.
const inlineConfig = `
ports:
  - {name: tunlb0, type: tap, side: clients, addresses: [203.0.113.2/24, "2001:db8:113::2/64"], routes: [default via 203.0.113.1, "default via 2001:db8:113::1"]}
  - {name: tunlb1, type: tap, side: servers}
services:
  - {name: web, listen: 203.0.113.22:80/tcp, mode: dr, scheduler: rr, servers: [203.0.113.10]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, scheduler: rr, servers: ["2001:db8:113::10"]}
`

var (
	macDirector = packet.MAC{2, 0, 0, 0, 0, 0xd}
	macRouter   = packet.MAC{2, 0, 0, 0, 0, 1}
	macServer   = packet.MAC{2, 0, 0, 0, 0, 0x10}
)

func on(frame []byte, to, from packet.MAC) []byte { return packet.AppendEthernet(nil, frame, to, from) }

// segment is what was captured on the director's segment: requests of both families, and, later, what the server and
// the router have answered when the director of that time had asked for their MACs.
func segment(t testing.TB, answers bool) []timed {
	list := []timed{
		{frame: on(pt.TCP(t, at("198.51.100.7", 40000), at("203.0.113.22", 80), pt.Flags(packet.TCPSyn)), macDirector, macRouter)},
		{after: time.Millisecond, frame: on(pt.TCP(t, at("2001:db8:1::7", 40000), at("2001:db8:113::22", 80), pt.Flags(packet.TCPSyn)), macDirector, macRouter)},
		{after: 2 * time.Millisecond, frame: on(pt.TCP(t, at("203.0.113.22", 80), at("198.51.100.7", 40000), pt.Flags(packet.TCPSyn|packet.TCPAck)), macRouter, macDirector)},
	}
	if answers {
		for i, tell := range [][]byte{
			pt.Tell(macServer, packet.MAC{2, 0, 0, 0, 0, 0xee}, addr("203.0.113.10"), addr("203.0.113.3")), // somebody else had asked
			pt.Tell(macServer, macDirector, addr("2001:db8:113::10"), addr("2001:db8:113::2")),
			pt.Tell(macRouter, macDirector, addr("203.0.113.1"), addr("203.0.113.2")),
		} {
			list = append(list, timed{after: time.Minute + time.Duration(i)*time.Millisecond, frame: tell})
		}
	}
	return list
}

// TestSegment: on a segment tunlb has the MAC that the file's frames go to, and its neighbours answer as they do in the
// file, whenever they are asked. Without answers, packets wait, and that is told.
func TestSegment(t *testing.T) {
	for name, cfg := range map[string]string{"one-arm": armConfig, "inline": inlineConfig} {
		sum, out := rerun(t, save(t, links.LinkTypeEthernet, segment(t, true)), cfg, 1)
		if sum.Flows != 2 || sum.Answers == 0 || sum.Held != 0 || sum.Skipped[skipOwn] != 1 || sum.Dropped > 1 {
			t.Errorf("%s: %+v", name, sum)
		}
		sent := 0
		for _, p := range packets(t, out) {
			if strings.HasPrefix(p.Comment, "after: flow ") {
				sent++
				if !bytes.Equal(p.Data[:12], append(macServer[:], macDirector[:]...)) || name == "inline" && p.Port != "tunlb1" {
					t.Errorf("%s: to the server by %s: % x", name, p.Port, p.Data[:14])
				}
			}
		}
		if sent != 2 {
			t.Errorf("%s: %d requests sent on", name, sent)
		}
		sum, _ = rerun(t, save(t, links.LinkTypeEthernet, segment(t, false)), cfg, 1)
		if sum.Flows != 2 || sum.Answers != 0 || sum.Held != 2 {
			t.Errorf("%s, nobody answers: %+v", name, sum)
		}
		pinned := strings.NewReplacer("[203.0.113.10]", `[{address: 203.0.113.10, mac: "02:00:00:00:00:10"}]`,
			`["2001:db8:113::10"]`, `[{address: "2001:db8:113::10", mac: "02:00:00:00:00:10"}]`).Replace(cfg)
		if sum, _ = rerun(t, save(t, links.LinkTypeEthernet, segment(t, false)), pinned, 1); sum.Held != 0 || sum.Exits["port"] != 2 {
			t.Errorf("%s, the configuration has the MACs: %+v", name, sum)
		}
	}
}

// FuzzPeel: headers that lie about what is behind them.
func FuzzPeel(f *testing.F) {
	for _, p := range segment(f, true) {
		f.Add(uint16(links.LinkTypeEthernet), p.frame[packet.VnetLen:])
	}
	f.Add(uint16(links.LinkTypeLinuxSLL), make([]byte, 16))
	f.Add(uint16(links.LinkTypeEthernet), binary.BigEndian.AppendUint16(make([]byte, 12), etherVLAN))
	cfg := parse(f, armConfig)
	known := &survey{}
	f.Fuzz(func(t *testing.T, link uint16, data []byte) {
		l, err := peel(int(link), data)
		if err != nil {
			return
		}
		newPlaces(cfg, macDirector).of(&capture.Packet{Data: data}, l)
		answerOf(l)
		known.answerTo(append(make([]byte, packet.VnetLen), data...), macDirector)
	})
}

// TestInterfaces: ports that are the box's own interfaces take captures of any link layer, and everybody is reached by
// them.
func TestInterfaces(t *testing.T) {
	const cfg = `
ports: [{name: eth0, type: packet}, {name: eth1, type: packet}]
services:
  - {name: web, listen: 203.0.113.22:80/tcp, scheduler: rr, servers: [192.168.0.10:8080]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", scheduler: rr, servers: ["[2001:db8:c0::10]:8080"]}
`
	for _, v6 := range []bool{false, true} {
		for _, link := range []links.LinkType{links.LinkTypeRaw, links.LinkTypeEthernet} {
			list := connection(t, v6)
			for i := range list {
				if link == links.LinkTypeEthernet {
					list[i].frame = on(list[i].frame, macDirector, macRouter)
				}
			}
			sum, out := rerun(t, save(t, link, list), cfg, 1)
			var ways []string
			for _, p := range packets(t, out) {
				ways = append(ways, p.Port+" "+p.Side.String())
			}
			if want := []string{"eth0 in", "eth0 out", "eth0 in", "eth0 out"}; !slices.Equal(ways, want) || sum.Flows != 1 || sum.Dropped != 0 {
				t.Errorf("link %v, v6 %v: %q, want %q: %+v", link, v6, ways, want, sum)
			}
		}
	}
}
