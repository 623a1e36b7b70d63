package port

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/stack/packet"
)

// frame is one for nobody that the kernel at the other end knows: it ends there.
func (y *yard) frame(size, gso int) []byte {
	from, to := netip.MustParseAddrPort("10.9.0.2:5353"), netip.MustParseAddrPort("10.9.0.77:53")
	return packet.AppendEthernet(nil, udpFrame(from, to, make([]byte, size), gso), packet.MAC{2, 9, 9}, playedMAC)
}

func BenchmarkSend(b *testing.B) {
	for _, size := range []struct{ bytes, gso int }{{18, 0}, {1400, 0}, {60000, 1400}} {
		for _, bypass := range []int{0, 1} {
			for _, way := range []string{"sendto", "sendmmsg"} {
				b.Run(fmt.Sprintf("%d/bypass=%d/%s", size.bytes, bypass, way), func(b *testing.B) {
					y := newYard(b)
					must(b, unix.SetsockoptInt(y.out.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, bypass))
					must(b, y.Close())
					frame := y.frame(size.bytes, size.gso)
					burst := y.out.NewBurst()
					b.SetBytes(int64(size.bytes))
					b.ResetTimer()
					for i := range b.N {
						if way == "sendto" {
							must(b, y.out.Write(frame, y.link))
							continue
						}
						burst.Put(frame, y.link)
						if i%64 == 63 {
							if _, err := burst.Flush(); err != nil {
								b.Fatal(err)
							}
						}
					}
				})
			}
		}
	}
}

// BenchmarkForward sends small frames through two rings with a loop between them, and TCP in bulk. What a receive brings
// is reported, too.
func BenchmarkForward(b *testing.B) {
	b.Run("small", func(b *testing.B) {
		y := newYard(b)
		z := secondYard(b, y)
		frame, out, through := y.frame(18, 0), y.out.NewBurst(), z.NewBurst()
		frames := make([][]byte, 64)
		calls, done := 0, 0
		for b.ResetTimer(); done < b.N; {
			b.StopTimer()
			for range 128 {
				out.Put(frame, y.link)
			}
			_, err := out.Flush()
			must(b, err)
			b.StartTimer()
			for got := 0; got < 128; calls++ {
				n, err := y.Receive(frames)
				must(b, err)
				for _, frame := range frames[:n] {
					through.Put(frame, 0)
				}
				_, err = through.Flush()
				must(b, err)
				got += n
				done += n
			}
		}
		b.ReportMetric(float64(done)/float64(calls), "frames/receive")
	})
	b.Run("TCP", func(b *testing.B) {
		client, server, lan := newSpace(b), newSpace(b), newSpace(b)
		client.veth(b, "eth0", lan, "p0")
		server.veth(b, "eth0", lan, "p1")
		client.host(b, "eth0", 1)
		server.host(b, "eth0", 2)
		p0 := lan.openPacket(b, PacketConfig{Interface: "p0"}).(Ring)
		p1 := lan.openPacket(b, PacketConfig{Interface: "p1"}).(Ring)
		counted := &countedRing{Ring: p0}
		var wg sync.WaitGroup
		wg.Go(func() { forward(counted, p1) })
		wg.Go(func() { forward(p1, p0) })
		var l net.Listener
		var c net.Conn
		server.do(b, func() (err error) { l, err = net.Listen("tcp", "10.9.0.2:80"); return err })
		received := make(chan int64)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, _ := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
			received <- n
		}()
		client.do(b, func() (err error) { c, err = net.Dial("tcp", "10.9.0.2:80"); return err })
		data := make([]byte, 1<<20)
		b.SetBytes(int64(len(data)))
		b.ResetTimer()
		for range b.N {
			if _, err := c.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		c.Close()
		if n := <-received; n != int64(b.N*len(data)) {
			b.Errorf("%d bytes came", n)
		}
		b.StopTimer()
		l.Close()
		p0.Close()
		p1.Close()
		wg.Wait()
		b.ReportMetric(float64(counted.frames)/float64(counted.calls), "frames/receive")
	})
}

// countedRing counts what Receive brings.
type countedRing struct {
	Ring
	calls, frames int
}

func (r *countedRing) Receive(frames [][]byte) (int, error) {
	n, err := r.Ring.Receive(frames)
	r.calls++
	r.frames += n
	return n, err
}

func BenchmarkReceive(b *testing.B) {
	for _, size := range []struct{ bytes, gso int }{{18, 0}, {1400, 0}, {60000, 1400}} {
		for _, way := range []string{"read", "receive"} {
			b.Run(fmt.Sprintf("%d/%s", size.bytes, way), func(b *testing.B) {
				y := newYard(b)
				frame := y.frame(size.bytes, size.gso)
				burst := y.out.NewBurst()
				frames := make([][]byte, 64)
				buf := make([]byte, packet.BufferSize)
				b.SetBytes(int64(size.bytes))
				b.ResetTimer()
				for done := 0; done < b.N; {
					b.StopTimer()
					for range 64 {
						burst.Put(frame, y.link)
					}
					_, err := burst.Flush()
					must(b, err)
					b.StartTimer()
					for got := 0; got < 64; {
						n := 1
						if way == "read" {
							_, err = y.Read(buf)
						} else {
							n, err = y.Receive(frames)
						}
						must(b, err)
						got += n
						done += n
					}
				}
			})
		}
	}
}
