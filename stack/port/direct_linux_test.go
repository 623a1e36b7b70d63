package port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tunlb/tunlb/stack/packet"
)

// farm is a director with two interfaces, and a real server at each, with the VIP on lo. Who answers is told by
// the servers' neighbour entries: the played stations are clients beyond the director.
//
//	director p0 -- eth0 10.9.0.1, fd00:9::1 server 0     p1 -- eth0, the same addresses, server 1
type farm struct {
	*Direct
	director *space
	servers  [2]*segment // their ports hear what the servers send
	links    [2]int      // the director's
}

var vips = []netip.Addr{netip.MustParseAddr("203.0.113.22"), netip.MustParseAddr("2001:db8:22::22")}

// clients are in another subnet than the servers.
var clients = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.2:40000"), netip.MustParseAddrPort("[2001:db8:1::2]:40000")}

func newFarm(t *testing.T) *farm {
	t.Helper()
	f := &farm{director: newSpace(t)}
	for i, name := range []string{"p0", "p1"} {
		host := newSpace(t)
		host.veth(t, "eth0", f.director, name)
		host.setUp(t, "lo")
		f.servers[i] = newSegment(t, f.director.openPacket(t, PacketConfig{Interface: name}), host, "eth0", f.director)
		f.links[i] = f.director.link(t, name).Attrs().Index
		for _, vip := range vips {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}}
			must(t, host.nl.AddrAdd(host.link(t, "lo"), addr))
			host.awaitLocal(t, addr.IP)
		}
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			_, dst, _ := net.ParseCIDR(all)
			gw := played4.Addr()
			if dst.IP.To4() == nil {
				gw = played6.Addr()
			}
			must(t, host.nl.RouteAdd(&netlink.Route{Dst: dst, Gw: gw.AsSlice()}))
		}
	}
	d, err := OpenDirect(f.director.path, 0)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	must(t, err)
	f.Direct = d
	t.Cleanup(func() { must(t, d.Close()) })
	return f
}

// syn is the first packet of a connection to a VIP as a kernel hands it over: its checksum is left to the hardware. With
// spoilt, what is left to it comes out wrong.
func (f *farm) syn(server int, from, to netip.AddrPort, spoilt bool) []byte {
	src, dst := tcpip.AddrFromSlice(from.Addr().AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	l3, ip := header.IPv4MinimumSize, []byte(nil)
	if from.Addr().Is6() {
		l3 = header.IPv6MinimumSize
		ip = make([]byte, l3)
		header.IPv6(ip).Encode(&header.IPv6Fields{
			PayloadLength: header.TCPMinimumSize, TransportProtocol: header.TCPProtocolNumber, HopLimit: 63, SrcAddr: src, DstAddr: dst})
	} else {
		ip = make([]byte, l3)
		header.IPv4(ip).Encode(&header.IPv4Fields{TotalLength: uint16(l3 + header.TCPMinimumSize), TTL: 63, Protocol: 6, SrcAddr: src, DstAddr: dst})
		header.IPv4(ip).SetChecksum(^header.IPv4(ip).CalculateChecksum())
	}
	tcp := make(header.TCP, header.TCPMinimumSize)
	tcp.Encode(&header.TCPFields{SrcPort: from.Port(), DstPort: to.Port(), SeqNum: 1000, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, header.TCPMinimumSize)
	if spoilt {
		sum = checksum.Combine(sum, 1)
	}
	tcp.SetChecksum(sum)
	frame := append(append(make([]byte, packet.VnetLen), ip...), tcp...)
	packet.Vnet{Flags: packet.FlagNeedsCsum, CsumStart: uint16(l3), CsumOffset: header.TCPChecksumOffset}.Encode(frame)
	return packet.AppendEthernet(nil, frame, f.servers[server].mac, playedMAC)
}

// answer is the next TCP segment that a server sends to one of the ports of a client: whence, and whither.
func (f *farm) answer(t *testing.T, server int, client netip.Addr) (from netip.AddrPort, port uint16, flags header.TCPFlags) {
	t.Helper()
	for buf := make([]byte, packet.BufferSize); ; {
		n, err := f.servers[server].Read(buf)
		must(t, err)
		var v packet.View
		if v.ParseOn(packet.LinkEthernet, buf[:n]) != packet.None || v.Tuple.Proto != packet.ProtoTCP || v.Tuple.Dst != client.As16() {
			continue
		}
		return netip.AddrPortFrom(netip.AddrFrom16(v.Tuple.Src).Unmap(), v.Tuple.SrcPort), v.Tuple.DstPort, header.TCPFlags(buf[v.L4+13])
	}
}

// TestDirectSYN: a connection's first packet with a partial checksum gets to the server that its frame is for, and only
// there, and the server takes it, with offload and without; which means that the checksum is completed.
func TestDirectSYN(t *testing.T) {
	for _, tx := range []string{"tx on", "tx off"} {
		t.Run(tx, func(t *testing.T) {
			f := newFarm(t)
			if tx == "tx off" {
				for _, p := range []string{"p0", "p1"} {
					f.director.noTxOffload(t, p)
				}
			}
			for i, client := range clients {
				vip := netip.AddrPortFrom(vips[i], 80)
				for server := range f.servers {
					f.servers[server].host.listenTCP(t, vip.String())
					frame := f.syn(server, client, vip, false)
					borrowed := bytes.Clone(frame)
					if tx == "tx off" { // nobody checks what one kernel hands to the other unfinished
						spoilt := netip.AddrPortFrom(client.Addr(), client.Port()+1)
						must(t, f.Write(f.syn(server, spoilt, vip, true), f.links[server]))
					}
					must(t, f.Write(frame, f.links[server]))
					if !bytes.Equal(frame, borrowed) {
						t.Error("Write changed the frame")
					}
					from, port, flags := f.answer(t, server, client.Addr())
					if from != vip || port != client.Port() || flags != header.TCPFlagSyn|header.TCPFlagAck {
						t.Errorf("server %d answers from %s to port %d with %s", server, from, port, flags)
					}
				}
			}
			if s := f.Stats(); s != (Stats{}) {
				t.Errorf("stats are %+v", s)
			}
		})
	}
}

func (s *space) listenTCP(t *testing.T, addr string) {
	t.Helper()
	s.do(t, func() error {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
}

// TestDirectWrites: super-packets go out whole, or in pieces where the kernel refuses them.
func TestDirectWrites(t *testing.T) {
	for _, tx := range []string{"tx on", "tx off"} {
		t.Run(tx, func(t *testing.T) {
			f := newFarm(t)
			if tx == "tx off" {
				f.director.noTxOffload(t, "p1")
			}
			for i, client := range clients {
				vip := netip.AddrPortFrom(vips[i], 53)
				c := f.servers[1].host.listenUDP(t, vip.String())
				for _, tt := range []struct {
					size, gso int
					segmented uint64
				}{
					{500, 0, 0}, {2500, 1000, 0}, {60000, 1000, 0},
					{2000, 10, 1}, // more than 128 segments: a valid frame that the kernel refuses
				} {
					before := f.Stats().Segmented
					payload := bytes.Repeat([]byte("0123456789"), tt.size/10)
					must(t, f.Write(packet.AppendEthernet(nil, udpFrame(client, vip, payload, tt.gso), f.servers[1].mac, playedMAC), f.links[1]))
					var got []byte
					for buf := make([]byte, 4096); len(got) < len(payload); {
						n, from, err := c.ReadFromUDPAddrPort(buf)
						must(t, err)
						if tt.gso > 0 && n > tt.gso || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != client {
							t.Fatalf("a datagram of %d bytes from %s", n, from)
						}
						got = append(got, buf[:n]...)
					}
					if !bytes.Equal(got, payload) {
						t.Errorf("%+v: payload differs", tt)
					}
					if n := f.Stats().Segmented - before; n != tt.segmented {
						t.Errorf("%+v: %d segmented in software", tt, n)
					}
				}
			}
		})
	}
}

func TestDirectErrors(t *testing.T) {
	f := newFarm(t)
	frame := f.syn(0, clients[0], netip.AddrPortFrom(vips[0], 9), false)
	plain := func(size int) []byte {
		b := append(make([]byte, packet.VnetLen), f.servers[0].mac[:]...)
		b = append(append(b, playedMAC[:]...), 0x88, 0xb5)
		return append(b, make([]byte, size)...)
	}
	must(t, f.Write(frame, f.links[0]))
	must(t, f.director.nl.LinkSetDown(f.director.link(t, "p1")))
	gone := f.director.link(t, "p1").Attrs().Index + 1000
	for _, tt := range []struct {
		name  string
		frame []byte
		link  int
		want  error
	}{
		{"link down", frame, f.links[1], ErrDown},
		{"no such link", frame, gone, ErrGone},
		{"link 0", frame, 0, ErrGone},
		{"empty", nil, f.links[0], unix.EINVAL},
		{"cut", frame[:packet.VnetLen+13], f.links[0], unix.EINVAL},
		{"too long", plain(1600), f.links[0], unix.EMSGSIZE},
		{"as long as can be", plain(1500), f.links[0], nil},
	} {
		if err := f.Write(tt.frame, tt.link); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	for what, link := range map[string]int{"a write": f.links[0], "a write to a link that is down": f.links[1], "a write to no link": gone} {
		if n := testing.AllocsPerRun(100, func() { f.Write(frame, link) }); n > 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	f.director.setUp(t, "p1")
	must(t, f.Write(frame, f.links[1]))
	must(t, f.Close())
	must(t, f.Close())
	if err := f.Write(frame, f.links[0]); err != os.ErrClosed {
		t.Errorf("after Close: %v", err)
	}
	if s := f.Stats(); s.Full > 0 || s.Segmented > 0 {
		t.Errorf("stats are %+v", s)
	}
	if _, err := OpenDirect("/nonexistent/netns", 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no namespace: %v", err)
	}
}

// TestDirectFull: an interface that sends slower than we do costs its own frames, not those for the other one, unless it
// takes all of the socket's room.
func TestDirectFull(t *testing.T) {
	f := newFarm(t)
	slow := func(limit uint32) {
		t.Helper()
		err := f.director.nl.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: f.links[0], Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			// Bytes a second, and units of 64 ns: 10 s at that rate. Faster, a frame may leave while we look at the full queue.
			Rate: 300, Limit: limit, Buffer: 10e9 / 64,
		})
		if err != nil {
			t.Skipf("no token bucket filter: %v", err)
		}
	}
	frame := f.syn(0, clients[0], netip.AddrPortFrom(vips[0], 9), false)
	fill := func() {
		t.Helper()
		var err error
		for range 10000 {
			if err = f.Write(frame, f.links[0]); err != nil {
				break
			}
		}
		if !errors.Is(err, unix.ENOBUFS) || f.Stats().Full == 0 {
			t.Fatalf("%v, %+v", err, f.Stats())
		}
	}
	slow(3000)
	fill()
	must(t, f.Write(frame, f.links[1]))
	slow(1 << 20)
	must(t, unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<16))
	fill()
	if err := f.Write(frame, f.links[1]); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("with the socket's queue full: %v", err)
	}
}

// TestDirectDuringClose: lanes that meet Close get its error, and no other but that of a full queue.
func TestDirectDuringClose(t *testing.T) {
	for range 5 {
		f := newFarm(t)
		var wg sync.WaitGroup
		started := make(chan struct{}, 4)
		for lane := range 4 {
			wg.Go(func() {
				frame := f.syn(lane%2, clients[0], netip.AddrPortFrom(vips[0], 9), false)
				binary.BigEndian.PutUint32(frame[packet.VnetLen+packet.EthernetLen+16:], 0x0a090063) // nobody's address: no answers
				err := f.Write(frame, f.links[lane%2])
				started <- struct{}{}
				for err == nil || errors.Is(err, unix.ENOBUFS) {
					err = f.Write(frame, f.links[lane%2])
				}
				if err != os.ErrClosed {
					t.Errorf("write: %v", err)
				}
			})
		}
		<-started
		must(t, f.Close())
		wg.Wait()
	}
}
