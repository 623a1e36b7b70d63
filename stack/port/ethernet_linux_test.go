package port

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// TestEthernetReads: offsets count from the Ethernet header, and the rest is as on a TUN.
func TestEthernetReads(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		for _, tx := range []string{"tx on", "tx off"} {
			t.Run(tx, func(t *testing.T) {
				s := k.open(t)
				if s.Link() != packet.LinkEthernet {
					t.Errorf("link is %d", s.Link())
				}
				complete := k.name == "tap-off"
				if tx == "tx off" {
					s.host.noTxOffload(t, s.device)
					complete = true
				}
				for _, far := range []netip.AddrPort{played4, played6} {
					l3 := 20
					if far.Addr().Is6() {
						l3 = 40
					}
					c := s.host.listenUDP(t, localAddr(far, "0"))
					payload := bytes.Repeat([]byte("tunlb"), 100)
					if _, err := c.WriteToUDPAddrPort(payload, far); err != nil {
						t.Fatal(err)
					}
					frame := s.readUDP(t, far)
					want := packet.Vnet{Flags: packet.FlagNeedsCsum, CsumStart: uint16(packet.EthernetLen + l3), CsumOffset: 6}
					if complete {
						want = packet.Vnet{}
						if err := checkUDP(frame[packet.VnetLen+packet.EthernetLen:]); err != nil {
							t.Error(err)
						}
					}
					if got := packet.DecodeVnet(frame); got != want {
						t.Errorf("%s: vnet header is %+v, want %+v", far, got, want)
					}
					ether, _ := packet.DecodeEthernet(frame)
					if want := (packet.Ethernet{Dst: playedMAC, Src: s.mac, Type: packet.EtherTypeOf(far.Addr().Is6())}); ether != want {
						t.Errorf("%s: Ethernet header is %+v, want %+v", far, ether, want)
					}
					if got := frame[packet.VnetLen+packet.EthernetLen+l3+8:]; !bytes.Equal(got, payload) {
						t.Errorf("%s: payload is %q", far, got)
					}
				}
			})
		}
	})
}

func TestEthernetReadsUDPSuperPackets(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		for _, far := range []netip.AddrPort{played4, played6} {
			headers := 28
			if far.Addr().Is6() {
				headers = 48
			}
			sendSegmented(t, s.host.listenUDP(t, localAddr(far, "0")), far)
			for sent := 2500; sent > 0; {
				frame := s.readUDP(t, far)
				h := packet.DecodeVnet(frame)
				size := len(frame) - packet.VnetLen - packet.EthernetLen - headers
				if k.super && (h.GSOType != packet.GSOUDPL4 || h.GSOSize != 1000 || size != 2500) {
					t.Skipf("this kernel has no USO: %d bytes, %+v", size, h)
				}
				if !k.super && (h.GSOType != packet.GSONone || size > 1000) {
					t.Fatalf("%d bytes, %+v", size, h)
				}
				sent -= size
			}
		}
	})
}

func TestEthernetWrites(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		for _, tt := range []struct {
			name          string
			from          netip.AddrPort
			size, gso     int
			wantSegmented bool
		}{
			{"v4", played4, 500, 0, false},
			{"v6", played6, 500, 0, false},
			{"v4 super-packet", played4, 2500, 1000, false},
			{"v6 super-packet", played6, 2500, 1000, false},
			// The kernel's limit is 128 segments: a valid frame that it refuses.
			{"v4 refused", played4, 2000, 10, true},
			{"v6 refused", played6, 2000, 10, true},
		} {
			before := StatsOf(s.Port).Segmented
			c := s.host.listenUDP(t, localAddr(tt.from, "53"))
			payload := bytes.Repeat([]byte("0123456789"), tt.size/10)
			frame := s.frame(tt.from, localAddr(tt.from, "53"), payload, tt.gso)
			borrowed := bytes.Clone(frame)
			if err := s.Write(frame); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if !bytes.Equal(frame, borrowed) {
				t.Errorf("%s: Write changed the frame", tt.name)
			}
			var got []byte
			buf := make([]byte, 4096)
			for len(got) < len(payload) {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != tt.from {
					t.Fatalf("%s: from %s, %v", tt.name, from, err)
				}
				if tt.gso > 0 && n > tt.gso {
					t.Fatalf("%s: a datagram of %d bytes", tt.name, n)
				}
				got = append(got, buf[:n]...)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("%s: payload differs", tt.name)
			}
			if got := StatsOf(s.Port).Segmented > before; got != tt.wantSegmented {
				t.Errorf("%s: segmented in software: %t, want %t", tt.name, got, tt.wantSegmented)
			}
			c.Close()
		}
	})
}

// A frame that a port has sent does not come back to it, and those for other stations do come.
func TestEthernetHears(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		own := append(make([]byte, packet.VnetLen), s.mac[:]...)
		own = append(own, 0x02, 0, 0, 0, 0, 0x02, 0x88, 0xb5, 'o')
		own = append(own, make([]byte, 40)...)
		if err := s.Write(own); err != nil {
			t.Fatal(err)
		}
		s.host.raw(t, s.device, playedMAC, "p")
		s.host.raw(t, s.device, packet.MAC{0x02, 9, 9, 9, 9, 9}, "f")
		s.host.raw(t, s.device, packet.MAC{0x01, 0, 0x5e, 9, 9, 9}, "m")
		s.host.raw(t, s.device, packet.Broadcast, "b.")
		if got := marks(t, s, '.'); string(got) != "pfmb" {
			t.Errorf("got %q, want %q", got, "pfmb")
		}
	})
}

func TestEthernetCloseUnblocksRead(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		for i := range 10 {
			s := k.open(t)
			tid, result := reader(s)
			if i%2 == 0 { // the other times Close meets Read wherever it is
				awaitAsleep(t, tid)
			}
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			if err := <-result; err != os.ErrClosed {
				t.Fatalf("got %v, want %v", err, os.ErrClosed)
			}
			wg.Wait()
			if err := s.Write(s.frame(played4, localAddr(played4, "9"), nil, 0)); err != os.ErrClosed {
				t.Errorf("write after Close: %v", err)
			}
			if s.MTU() != 1500 || s.Name() == "" {
				t.Errorf("after Close: name %q, MTU %d", s.Name(), s.MTU())
			}
			StatsOf(s.Port)
		}
	})
}

// What happens to the device under a reader: it is deleted, while it is up or down, or carried
// off to another namespace.
func TestEthernetDeviceGoes(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(t *testing.T, s *segment)
	}{
		{"deleted", func(t *testing.T, s *segment) { must(t, s.lan.nl.LinkDel(s.lan.link(t, s.Name()))) }},
		{"deleted while down", func(t *testing.T, s *segment) {
			must(t, s.lan.nl.LinkSetDown(s.lan.link(t, s.Name())))
			must(t, s.lan.nl.LinkDel(s.lan.link(t, s.Name())))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, k kind) {
				for i := range 10 {
					s := k.open(t)
					tid, result := reader(s)
					if i%2 == 0 {
						awaitAsleep(t, tid)
					}
					tt.lose(t, s)
					if err := <-result; !errors.Is(err, ErrGone) {
						t.Fatalf("blocked read: %v, want %v", err, ErrGone)
					}
					if _, err := s.Read(make([]byte, packet.BufferSize)); !errors.Is(err, ErrGone) {
						t.Errorf("next read: %v, want %v", err, ErrGone)
					}
					if err := s.Write(s.frame(played4, localAddr(played4, "9"), nil, 0)); !errors.Is(err, ErrGone) {
						t.Errorf("write: %v, want %v", err, ErrGone)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A device that is down brings nothing and takes nothing; up again it goes on.
func TestEthernetDownAndUp(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		must(t, s.lan.nl.LinkSetDown(s.lan.link(t, s.Name())))
		frame := s.frame(played4, localAddr(played4, "9"), nil, 0)
		if err := s.Write(frame); !errors.Is(err, ErrDown) {
			t.Errorf("write: %v, want %v", err, ErrDown)
		}
		got := make(chan string)
		go func() { got <- string(marks(t, s, '.')) }()
		s.lan.setUp(t, s.Name())
		if s.device != s.Name() {
			s.lan.awaitCarrier(t, s.Name())
			s.host.awaitCarrier(t, s.device)
		}
		s.host.raw(t, s.device, playedMAC, "x.")
		if g := <-got; g != "x" {
			t.Errorf("got %q", g)
		}
		if err := s.Write(frame); err != nil {
			t.Error(err)
		}
	})
}

func TestEthernetMTU(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		if s.MTU() != 1500 {
			t.Errorf("MTU %d", s.MTU())
		}
		must(t, s.lan.nl.LinkSetMTU(s.lan.link(t, s.Name()), 1400))
		if s.MTU() != 1400 {
			t.Errorf("changed to 1400, MTU %d", s.MTU())
		}
	})
}

func TestEthernetReadNeedsRoom(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		if _, err := s.Read(make([]byte, packet.VnetLen+packet.EthernetLen+packet.MaxPacket-1)); err != io.ErrShortBuffer {
			t.Errorf("read into a short buffer: %v", err)
		}
	})
}

func TestEthernetAllocatesNothing(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		s := k.open(t)
		check := func(what string, f func()) {
			t.Helper()
			if n := testing.AllocsPerRun(200, f); n != 0 {
				t.Errorf("%s: %v allocations", what, n)
			}
		}
		frame := s.frame(played4, localAddr(played4, "9"), []byte("x"), 0)
		check("a write", func() { s.Write(frame) })
		c := s.host.listenUDP(t, localAddr(played4, "0"))
		for range 300 {
			if _, err := c.WriteToUDPAddrPort([]byte("x"), played4); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, packet.BufferSize)
		check("a read", func() { s.Read(buf) })
		check("a wait", func() { s.Port.(interface{ awaitFrame(int) error }).awaitFrame(0) })
		must(t, s.lan.nl.LinkSetDown(s.lan.link(t, s.Name())))
		check("a write to a device that is down", func() { s.Write(frame) })
	})
}

// Writers who meet Close get its error, and no other but that of a full queue.
func TestEthernetWritersDuringClose(t *testing.T) {
	eachKind(t, func(t *testing.T, k kind) {
		for range 5 {
			s := k.open(t)
			_, result := reader(s)
			frame := s.frame(played4, localAddr(played4, "9"), []byte("stray"), 0)
			var wg sync.WaitGroup
			started := make(chan struct{}, 4)
			for range 4 {
				wg.Go(func() {
					err := s.Write(frame)
					started <- struct{}{}
					for err == nil {
						err = s.Write(frame)
					}
					if err != os.ErrClosed && !errors.Is(err, unix.ENOBUFS) {
						t.Errorf("write: %v", err)
					}
				})
			}
			<-started
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
			if err := <-result; err != os.ErrClosed {
				t.Errorf("read: %v", err)
			}
		}
	})
}
