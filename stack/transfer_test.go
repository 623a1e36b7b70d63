package stack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
)

var errQueueFull = errors.New("queue full")

// pair is two hosts wired back to back: the client owns the families' client
// addresses, the server their VIPs. carry is the wire from one to the other.
type pair struct {
	client, server *Host
	supers         atomic.Int64 // super-packets seen on the wire
}

func newPair(t testing.TB, carry func(frame []byte, to *Host) error) *pair {
	p := new(pair)
	wire := func(to **Host) func([]byte) error {
		return func(frame []byte) error {
			if packet.DecodeVnet(frame).GSOType != packet.GSONone {
				p.supers.Add(1)
			}
			return carry(frame, *to)
		}
	}
	// Both pointers are set before the first packet, which is that of a Dial.
	p.client = newTestHost(t, HostConfig{Addresses: []netip.Addr{families[0].client, families[1].client}, Output: wire(&p.server)})
	p.server = newTestHost(t, HostConfig{Addresses: []netip.Addr{families[0].vip, families[1].vip}, Output: wire(&p.client)})
	return p
}

func deliverTo(frame []byte, to *Host) error {
	if !to.Deliver(frame) {
		return errQueueFull
	}
	return nil
}

// segmented is a wire without offloads: single packets, checksums to be verified.
func segmented(frame []byte, to *Host) error {
	return packet.Segment(packet.LinkIP, frame, func(f []byte) error { return deliverTo(f, to) })
}

// dial returns both ends of a connection between the pair's hosts.
func (p *pair) dial(t testing.TB, l net.Listener, to netip.AddrPort) (client, server net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := p.client.Dial(ctx, "tcp", to, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

func listen(t testing.TB, h *Host, addr netip.AddrPort) net.Listener {
	t.Helper()
	l, err := h.ListenTCP(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// transfer sends data through a connection and expects it unchanged.
func transfer(t *testing.T, from, to net.Conn, data []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("the data arrived changed")
	}
}

func TestTransfer(t *testing.T) {
	var frames atomic.Uint64
	for _, tt := range []struct {
		name  string
		carry func(frame []byte, to *Host) error
	}{
		{"super-packets", deliverTo},
		{"checked", func(frame []byte, to *Host) error {
			pt.Check(t, frame, pt.ValidChecksums())
			if _, form := classify(frame); form == formRefused || form == formSplit {
				t.Errorf("classify(%x) = %v", frame[:100], form)
			}
			return deliverTo(frame, to)
		}},
		{"segmented", segmented},
		{"segmented and corrupted", func(frame []byte, to *Host) error {
			return packet.Segment(packet.LinkIP, frame, func(f []byte) error {
				if frames.Add(1)%500 == 0 {
					f[len(f)-1]++
				}
				return deliverTo(f, to)
			})
		}},
	} {
		for _, fam := range families {
			t.Run(tt.name+"/"+fam.name, func(t *testing.T) {
				p := newPair(t, tt.carry)
				l := listen(t, p.server, at(fam.vip, 80))
				client, server := p.dial(t, l, at(fam.vip, 80))
				if got, want := server.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(), fam.client; got != want {
					t.Errorf("remote address: got %v, want %v", got, want)
				}
				data := randomBytes(4 << 20)
				transfer(t, client, server, data)
				transfer(t, server, client, data)
				if p.supers.Load() == 0 {
					t.Error("no super-packets seen")
				}
				for _, h := range []*Host{p.client, p.server} {
					if s := h.Stats(); s.Delivered == 0 || s.Sent == 0 || s.Refused != 0 || s.Panics != 0 {
						t.Errorf("%+v", s)
					}
				}
			})
		}
	}
}

func TestDial(t *testing.T) {
	p := newPair(t, deliverTo)
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			any4, any6 := ip("0.0.0.0"), ip("::")
			port := uint16(8000)
			for _, listenOn := range []netip.Addr{fam.vip, any4, any6} {
				if listenOn == any4 && fam.vip.Is6() {
					continue
				}
				port++
				l := listen(t, p.server, at(listenOn, port))
				from := at(fam.client, 4000+port)
				conn, err := p.client.Dial(t.Context(), "tcp", at(fam.vip, port), from)
				if err != nil {
					t.Fatalf("dial %v: %v", listenOn, err)
				}
				if got := conn.LocalAddr().(*net.TCPAddr).AddrPort(); got != from {
					t.Errorf("source: got %v, want %v", got, from)
				}
				conn.Close()
				l.Close()
			}
			if _, err := p.client.Dial(t.Context(), "tcp", at(fam.vip, 1), netip.AddrPort{}); err == nil {
				t.Error("a closed port accepted")
			}
			if _, err := p.client.Dial(t.Context(), "tcp", at(fam.vip, 1), at(fam.other, 0)); err == nil {
				t.Error("a source that is not owned was taken")
			}
			conn, err := p.client.Dial(t.Context(), "udp", at(fam.vip, 1), netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			var timeout net.Error
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("read from a closed UDP port: %v, want refused", err)
			}
		})
	}
	if _, err := p.client.Dial(t.Context(), "sctp", at(families[0].vip, 1), netip.AddrPort{}); err == nil {
		t.Error("sctp was taken")
	}
	if _, err := p.client.Dial(t.Context(), "tcp", at(families[0].vip, 1), at(families[1].client, 0)); err == nil {
		t.Error("mixed families were taken")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.client.Dial(ctx, "tcp", at(families[0].other, 1), netip.AddrPort{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: got %v, want deadline exceeded", err)
	}
}

// Listening with port 0 says which port it is; closing ends Accept.
func TestListen(t *testing.T) {
	p := newPair(t, deliverTo)
	vip := families[0].vip
	l := listen(t, p.server, at(vip, 0))
	to := l.Addr().(*net.TCPAddr).AddrPort()
	if to.Port() == 0 || to.Addr() != vip {
		t.Errorf("listens on %v", to)
	}
	if _, err := p.server.ListenTCP(to); err == nil {
		t.Error("listens twice on one port")
	}
	if _, err := p.server.ListenTCP(at(families[0].other, 80)); err == nil {
		t.Error("listens on an address that is not owned")
	}
	p.dial(t, l, to)
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	time.Sleep(10 * time.Millisecond)
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v, want net.ErrClosed", err)
	}
}

// Changing other addresses leaves a connection alone; removing and adding back
// its own one revives it.
func TestSetAddressesKeepsConnections(t *testing.T) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			p := newPair(t, deliverTo)
			client, server := p.dial(t, listen(t, p.server, at(fam.vip, 80)), at(fam.vip, 80))
			data := randomBytes(100_000)
			for _, addrs := range [][]netip.Addr{{fam.vip, fam.other}, {fam.other, fam.vip}, {fam.vip}, {}, {fam.vip}} {
				if err := p.server.SetAddresses(addrs); err != nil {
					t.Fatal(err)
				}
				if len(addrs) == 0 {
					continue
				}
				transfer(t, client, server, data)
				transfer(t, server, client, data)
			}
		})
	}
}

func BenchmarkTransfer(b *testing.B) {
	for _, wire := range []struct {
		name  string
		carry func(frame []byte, to *Host) error
	}{{"super-packets", deliverTo}, {"segmented", segmented}} {
		b.Run(wire.name, func(b *testing.B) {
			p := newPair(b, wire.carry)
			client, server := p.dial(b, listen(b, p.server, at(families[0].vip, 80)), at(families[0].vip, 80))
			go io.Copy(io.Discard, server)
			data := randomBytes(1 << 20)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := client.Write(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
