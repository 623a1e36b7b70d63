package capture_test

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/stack/packet"
	pt "github.com/tunlb/tunlb/stack/packet/packettest"
	"github.com/tunlb/tunlb/stack/port"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNobodyReads: a capture that nobody reads costs records, and not one packet; nor does it make the lane wait.
func TestNobodyReads(t *testing.T) {
	const packets = 20_000
	client, vip := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("203.0.113.22:53")
	near, far := port.Pipe("tunlb0", packet.LinkIP, 1500)
	all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	e, err := tunlb.New(tunlb.Options{Attachments: []tunlb.Attachment{{Port: near, Routes: all, Kernel: true}}}, tunlb.Config{Services: []policy.Spec{{
		Name: "dns", Listen: policy.On(vip, policy.UDP), Servers: []policy.ServerSpec{{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:53"), Weight: 1}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		far.Close()
	}()
	frame := pt.UDP(t, client, vip, pt.PayloadLen(1400))
	forward := func() time.Duration {
		begin := time.Now()
		sent := make(chan error, 1)
		go func() {
			for range packets {
				if err := far.Write(frame); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		buf := make([]byte, packet.BufferSize)
		for range packets {
			if _, err := far.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		return time.Since(begin)
	}
	alone := forward()

	sub := e.Watch(watch.Options{Snap: capture.MaxSnap, Slots: capture.Slots(capture.MaxSnap), Why: true})
	stuck, socket := io.Pipe() // nobody reads
	written := make(chan error, 1)
	go func() {
		w, err := capture.NewWriter(socket, capture.Options{})
		if err == nil {
			err = capture.Follow(ctx, sub, w, func() error { return nil })
		}
		written <- err
	}()
	beside := forward()
	stuck.Close()
	if err := <-written; err == nil {
		t.Error("a socket that nobody reads was written to")
	}
	sub.Close()
	if lost, want := sub.Lost(), uint64(packets-capture.Slots(capture.MaxSnap)-1); lost < want {
		t.Errorf("%d records lost, want %d", lost, want)
	}
	if drops := e.Drops(); len(drops) > 0 {
		t.Errorf("drops: %v", drops)
	}
	t.Logf("%d packets of 1428 bytes: %v alone, %v with the capture; %d records lost", packets, alone, beside, sub.Lost())
}
