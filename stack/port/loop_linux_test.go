package port

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

// forward moves frames until a port closes, as a lane does but for the edits,
// and returns how many were super-packets and how long the longest packet was.
func forward(from, to Port) (super, longest int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	receive, frames := receiver(from), make([][]byte, 64)
	burst := sender(to)
	for {
		n, err := receive(frames)
		for _, frame := range frames[:n] {
			if isGSO(frame) {
				super++
			}
			longest = max(longest, len(frame)-packet.VnetLen)
			burst.Put(frame, 0)
		}
		if err == nil {
			_, err = burst.Flush()
		}
		if errors.Is(err, os.ErrClosed) {
			return super, longest, nil
		}
		if err != nil {
			return super, longest, fmt.Errorf("from %s to %s: %w", from.Name(), to.Name(), err)
		}
	}
}

// receiver brings frames as they come from a ring, or those of any other port one by one.
func receiver(p Port) func(frames [][]byte) (int, error) {
	if ring, ok := p.(Ring); ok {
		return ring.Receive
	}
	buf := make([]byte, packet.BufferSize)
	return func(frames [][]byte) (int, error) {
		n, err := p.Read(buf)
		if err != nil {
			return 0, err
		}
		frames[0] = buf[:n]
		return 1, nil
	}
}

// sender sends frames together where the port can.
func sender(p Port) Burst {
	if ring, ok := p.(Ring); ok {
		return ring.NewBurst()
	}
	return Singly(func(frame []byte, _ int) error { return p.Write(frame) })
}

// client (10.1.0.1) -- port a -- forward -- port b -- server (10.2.0.1),
// both namespaces with nothing but their port.
func TestTCPThroughTwoPorts(t *testing.T) {
	for _, tt := range []struct {
		a, b      Offload
		wantSuper bool // from client to server
	}{
		{OffloadAuto, OffloadAuto, true},
		{OffloadTCP, OffloadTCP, true},
		{OffloadOff, OffloadOff, false},
		{OffloadAuto, OffloadOff, true},
		{OffloadOff, OffloadAuto, false},
	} {
		t.Run(tt.a.String()+"-"+tt.b.String(), func(t *testing.T) {
			client, server := newSpace(t), newSpace(t)
			a, b := client.open(t, TUNConfig{Offload: tt.a}), server.open(t, TUNConfig{Offload: tt.b})
			client.up(t, a.Name(), 1)
			server.up(t, b.Name(), 2)

			var wg sync.WaitGroup
			var super, longest int
			wg.Go(func() {
				var err error
				if super, longest, err = forward(a, b); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, _, err := forward(b, a); err != nil {
					t.Error(err)
				}
			})
			for _, addr := range []string{"10.2.0.1:80", "[fd00:2::1]:80"} {
				echoTCP(t, client, server, addr)
			}
			a.Close()
			b.Close()
			wg.Wait()

			if got := super > 0; got != tt.wantSuper {
				t.Errorf("%d super-packets, want some: %t", super, tt.wantSuper)
			}
			if got := longest > a.MTU(); got != tt.wantSuper {
				t.Errorf("the longest packet has %d bytes, MTU %d", longest, a.MTU())
			}
			if got, want := StatsOf(b).Segmented > 0, tt.wantSuper && tt.b == OffloadOff; got != want {
				t.Errorf("%d segmented in software, want some: %t", StatsOf(b).Segmented, want)
			}
			t.Logf("%d super-packets, longest packet %d, segmented %d and %d", super, longest, StatsOf(a).Segmented, StatsOf(b).Segmented)
		})
	}
}

// echoTCP sends some MiB to a server which sends them back, and compares.
func echoTCP(t *testing.T, client, server *space, addr string) {
	t.Helper()
	const size = 8 << 20
	var listener net.Listener
	server.do(t, func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer listener.Close()
	wg.Go(func() {
		c, err := listener.Accept()
		if err != nil {
			return // the dial has failed and says why
		}
		defer c.Close()
		if _, err := io.Copy(c, c); err != nil {
			t.Errorf("echo: %v", err)
		}
	})
	var c net.Conn
	client.do(t, func() (err error) {
		c, err = net.Dial("tcp", addr)
		return err
	})
	defer c.Close()

	data := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte(addr))).Read(data)
	wg.Go(func() {
		if _, err := c.Write(data); err != nil {
			t.Errorf("send: %v", err)
		}
		c.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%s: %d bytes came back for %d, and they differ", addr, len(got), size)
	}
}
