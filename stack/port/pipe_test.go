package port

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
)

func TestPipeMovesFrames(t *testing.T) {
	a, b := Pipe("lan", packet.LinkEthernet, 1400)
	defer a.Close()
	defer b.Close()
	if a.Link() != packet.LinkEthernet || b.Link() != packet.LinkEthernet {
		t.Errorf("links are %d and %d", a.Link(), b.Link())
	}
	if a.Name() != "lan.a" || b.Name() != "lan.b" || a.MTU() != 1400 || b.MTU() != 1400 {
		t.Errorf("ends are %s (MTU %d) and %s (MTU %d)", a.Name(), a.MTU(), b.Name(), b.MTU())
	}
	frame := []byte("one")
	for range pipeFrames { // so many fit without a reader
		if err := a.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	copy(frame, "two") // the pipe keeps a copy
	buf := make([]byte, packet.BufferSize)
	for range pipeFrames {
		if n, err := b.Read(buf); err != nil || string(buf[:n]) != "one" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
	}
	if err := b.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(buf[:99]); err != io.ErrShortBuffer {
		t.Errorf("read into a short buffer: %v", err)
	}
}

func TestPipeCloseUnblocks(t *testing.T) {
	for _, tt := range []struct {
		name      string
		own       bool // the blocked end itself is closed, not its peer
		wantRead  error
		wantWrite error
	}{
		{"own end", true, os.ErrClosed, os.ErrClosed},
		{"other end", false, ErrGone, ErrGone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := Pipe("p", packet.LinkIP, 1500)
			for range pipeFrames {
				a.Write([]byte("x"))
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := a.Write([]byte("one too many")); !errors.Is(err, tt.wantWrite) {
					t.Errorf("blocked write: %v, want %v", err, tt.wantWrite)
				}
			})
			wg.Go(func() {
				if _, err := a.Read(make([]byte, 10)); !errors.Is(err, tt.wantRead) {
					t.Errorf("blocked read: %v, want %v", err, tt.wantRead)
				}
			})
			closing, rest := a, b
			if !tt.own {
				closing, rest = b, a
			}
			closing.Close()
			closing.Close()
			wg.Wait()
			rest.Close()
		})
	}
}

func TestPipeDrainsAfterPeerClosed(t *testing.T) {
	a, b := Pipe("p", packet.LinkIP, 1500)
	a.Write([]byte("last words"))
	a.Close()
	buf := make([]byte, 100)
	if n, err := b.Read(buf); err != nil || string(buf[:n]) != "last words" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if _, err := b.Read(buf); !errors.Is(err, ErrGone) {
		t.Errorf("read after the last frame: %v", err)
	}
	b.Close()
	if _, err := b.Read(buf); err != os.ErrClosed {
		t.Errorf("read after close: %v", err)
	}
}
