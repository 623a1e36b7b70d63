package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkThroughput is one stream from the client through tunlb's NAT to a server that reads it to its end.
func BenchmarkThroughput(b *testing.B) {
	for name, vip := range map[string]string{"v4": vip, "v6": vip6} {
		b.Run(name, func(b *testing.B) { throughput(b, net.JoinHostPort(vip, "80")) })
	}
}

func throughput(b *testing.B, to string) {
	f := parse(b, fmt.Sprintf(natLab, ""))
	for i := range f.Hosts {
		f.Hosts[i].Services = nil
	}
	l := up(b, f)
	received := make(chan int64, 1)
	for _, rs := range []string{"rs1", "rs2"} {
		listener, err := l.hosts[rs].listen(8080)
		if err != nil {
			b.Fatal(err)
		}
		defer listener.Close()
		go func() { // ends with the listener
			c, err := listener.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			received <- drink(c)
		}()
	}
	c, err := l.Dial(context.Background(), "client", "tcp", netAddr(to))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	block := make([]byte, 256<<10)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := c.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.(*conn).CloseWrite(); err != nil {
		b.Fatal(err)
	}
	sent := int64(b.N) * int64(len(block))
	if got := <-received; got != sent {
		b.Fatalf("%d bytes have come, of %d", got, sent)
	}
	b.ReportMetric(float64(sent)*8/1e9/b.Elapsed().Seconds(), "Gbit/s")
	for name, h := range l.hosts {
		if n := h.stack.Stats().TCP.Retransmits.Value(); n > 0 {
			b.Logf("%s: %d retransmissions", name, n)
		}
	}
}

// drink reads to the end and counts.
func drink(c net.Conn) (n int64) {
	buf := make([]byte, 256<<10)
	for {
		got, err := c.Read(buf)
		n += int64(got)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return -1
			}
			return n
		}
	}
}

// BenchmarkUp is bringing a lab up.
func BenchmarkUp(b *testing.B) {
	f := parse(b, fmt.Sprintf(natLab, ""))
	for b.Loop() {
		l, err := New(Options{}).Up(context.Background(), f)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
