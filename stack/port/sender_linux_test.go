package port

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRingSendsAfterDown: a port sends and receives by one socket, which tells whoever calls next that the interface went down. The first
// frame after that goes out all the same, and who waits for frames is told of the interface's end whoever has had the word.
func TestRingSendsAfterDown(t *testing.T) {
	y := newYard(t)
	other, err := OpenPacket(PacketConfig{Interface: "eth0", NetNS: y.host.path})
	must(t, err)
	defer func() { must(t, other.Close()) }()
	for i := range 5 {
		must(t, y.lan.nl.LinkSetDown(y.lan.link(t, "p0")))
		if i%2 == 1 {
			if err := y.Write(numbered(i, 60)); !errors.Is(err, ErrDown) {
				t.Errorf("down: %v", err)
			}
		}
		y.lan.setUp(t, "p0")
		if err := y.Write(numbered(100+i, 60)); err != nil {
			t.Fatalf("up again: %v", err)
		}
		frames := make([][]byte, 64)
		for found := false; !found; {
			n, err := other.(Ring).Receive(frames)
			must(t, err)
			for _, f := range experiments(frames[:n]) {
				found = found || numberOf(f) == 100+i
			}
		}
		other.(Ring).TryReceive(frames)
	}
	ended := make(chan error, 1)
	go func() { // ends when the interface has gone
		frames := make([][]byte, 64)
		for {
			if _, err := y.Receive(frames); err != nil {
				ended <- err
				return
			}
		}
	}()
	must(t, y.lan.nl.LinkDel(y.lan.link(t, "p0")))
	timeout := time.After(20 * time.Second)
	for {
		_ = y.Write(numbered(1, 60))
		select {
		case err := <-ended:
			if !errors.Is(err, ErrGone) {
				t.Errorf("gone: %v", err)
			}
			return
		case <-timeout:
			t.Fatal("the reader has not heard of it")
		default:
		}
	}
}

// TestDirectInherited: the way out goes from one to the next on one socket; what is none, or in another namespace, or hears something, is
// closed, and a new one opened.
func TestDirectInherited(t *testing.T) {
	y := newYard(t)
	socket := func(s *space, protocol uint16) (fd int) {
		must(t, inNetNS(s.path, func() (err error) {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(networkOrder(protocol)))
			return err
		}))
		return fd
	}
	sender := func(s *space) int {
		own, ok := s.direct(t).Descriptor()
		if !ok {
			t.Fatal("no descriptor")
		}
		fd, err := unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 3)
		must(t, err)
		return fd
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	for _, tt := range []struct {
		name string
		fd   int
		fits bool
	}{
		{"a predecessor's", sender(y.host), true},
		{"another namespace's", sender(y.lan), false},
		{"without vnet headers", socket(y.host, 0), false},
		{"one that hears", duplicate(t, y.Ring), false},
		{"one that hears everything", socket(y.host, unix.ETH_P_ALL), false},
		{"a file", null, false},
	} {
		var was unix.Stat_t
		must(t, unix.Fstat(tt.fd, &was))
		d, err := OpenDirect(y.host.path, tt.fd)
		must(t, err)
		var is unix.Stat_t
		fd, _ := d.Descriptor()
		must(t, unix.Fstat(fd, &is))
		if got := is.Ino == was.Ino && is.Dev == was.Dev; got != tt.fits {
			t.Errorf("%s: taken: %t", tt.name, got)
		}
		must(t, d.Write(numbered(7, 60), y.link))
		must(t, d.Close())
	}
}
