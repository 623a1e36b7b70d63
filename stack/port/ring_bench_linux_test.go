package port

import (
	"fmt"
	"net/netip"
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
