package health

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// inside is a Dialer in a namespace.
type inside struct {
	Kernel
	ns *netns.NS
}

func (d inside) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	_ = d.ns.Do(func() error { c, err = d.Kernel.DialContext(ctx, network, address); return nil })
	return c, err
}

func (d inside) Ping(ctx context.Context, addr netip.Addr) (err error) {
	_ = d.ns.Do(func() error { err = d.Kernel.Ping(ctx, addr); return nil })
	return err
}

// pair is two namespaces and a link between them: 192.0.2.1 and 2001:db8::1 here, .2 and ::2 there.
func pair(t *testing.T) (here, there *netns.NS) {
	t.Helper()
	var ends []netns.End
	for i, name := range []string{"here", "there"} {
		ns, err := netns.New(name)
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() {
			if err := ns.Close(); err != nil {
				t.Error(err)
			}
		})
		four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		if i == 1 {
			four, six = four.Next(), six.Next()
		}
		ends = append(ends, netns.End{NS: ns, Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(four, 24), netip.PrefixFrom(six, 64)}})
	}
	if err := netns.Connect(ends[0], ends[1]); err != nil {
		t.Fatal(err)
	}
	for _, e := range ends {
		if err := e.NS.Settle(); err != nil {
			t.Fatal(err)
		}
	}
	return ends[0].NS, ends[1].NS
}

func TestPing(t *testing.T) {
	for _, kind := range []struct{ name, groups string }{{"raw", "1 0"}, {"datagram", "0 2147483647"}} {
		t.Run(kind.name, func(t *testing.T) {
			here, there := pair(t)
			if err := here.Sysctl("net/ipv4/ping_group_range", kind.groups); err != nil {
				t.Fatal(err)
			}
			var datagram error
			if err := here.Do(func() error {
				conn, err := openDatagramPing(netip.MustParseAddr("192.0.2.2"))
				if datagram = err; err == nil {
					return conn.Close()
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if (datagram == nil) != (kind.name == "datagram") {
				t.Fatalf("datagram socket: %v", datagram)
			}
			check := func(addr, want string) {
				t.Helper()
				target := Target{Address: netip.AddrPortFrom(netip.MustParseAddr(addr), 0), Dial: inside{ns: here}}
				target.Health.Type, target.Health.Timeout = "icmp", patient
				if want == "no answer in 50ms" {
					target.Health.Timeout = short
				}
				if got := newProbe(&target).run(t.Context()); got != want {
					t.Errorf("ping %s: got %q, want %q", addr, got, want)
				}
			}
			check("192.0.2.2", "")
			check("2001:db8::2", "")
			check("::ffff:192.0.2.2", "")
			check("192.0.2.1", "") // our own: a raw socket sees the request as well, see below
			check("2001:db8::1", "")
			check("127.0.0.1", "")
			check("::1", "")
			check("198.51.100.1", "network is unreachable")
			check("2001:db8:1::1", "network is unreachable")
			check("192.0.2.3", "no answer in 50ms") // no such neighbour, not known yet
			check("2001:db8::3", "no answer in 50ms")
			for path, value := range map[string]string{"net/ipv4/icmp_echo_ignore_all": "1", "net/ipv6/icmp/echo_ignore_all": "1"} {
				for _, ns := range []*netns.NS{here, there} {
					if err := ns.Sysctl(path, value); err != nil {
						t.Fatal(err)
					}
				}
			}
			check("192.0.2.2", "no answer in 50ms")
			check("2001:db8::2", "no answer in 50ms")
			check("192.0.2.1", "no answer in 50ms")
			check("::1", "no answer in 50ms")
		})
	}
}

// TestUnreachable: the kernel finds that a host does not answer for its address, and so do probes.
func TestUnreachable(t *testing.T) {
	here, _ := pair(t)
	for _, path := range []string{"net/ipv4/neigh/eth0/retrans_time_ms", "net/ipv6/neigh/eth0/retrans_time_ms"} {
		if err := here.Sysctl(path, "10"); err != nil { // three questions
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ kind, groups, want string }{
		{"icmp", "1 0", "no route to host"},
		{"icmp", "0 2147483647", "no route to host"},
		{"udp", "1 0", "read: no route to host"},
		{"dns", "1 0", "read: no route to host"},
		{"tcp", "1 0", "connect: no route to host"},
	} {
		if err := here.Sysctl("net/ipv4/ping_group_range", test.groups); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []string{"192.0.2.3:53", "[2001:db8::3]:53"} {
			target := Target{Address: netip.MustParseAddrPort(addr), Dial: inside{ns: here}}
			target.Health.Type, target.Health.Timeout = test.kind, patient
			if got := newProbe(&target).run(t.Context()); got != test.want {
				t.Errorf("%s %s: got %q, want %q", test.kind, addr, got, test.want)
			}
		}
	}
}

// TestPingForbidden: without the privilege it says what to do.
func TestPingForbidden(t *testing.T) {
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // and ends with it: capabilities are the thread's
		header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capset(&header, &none[0]); err != nil {
			got <- err
			return
		}
		got <- Kernel{}.Ping(context.Background(), netip.IPv6Loopback())
	}()
	const want = "no permission to ping: give CAP_NET_RAW, or widen the sysctl net.ipv4.ping_group_range"
	if err := <-got; err == nil {
		t.Skip("datagram sockets are allowed here")
	} else if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
