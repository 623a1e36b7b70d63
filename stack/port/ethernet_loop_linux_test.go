package port

import (
	"sync"
	"testing"
)

// place is where a host hangs on a port.
type place struct {
	name string
	hang func(t *testing.T) (host *space, p Port)
	off  bool // the kernel splits for the port
}

// The ways for a host to hang on a port:
//
//	host eth0 -- veth -- br0 -- TAP port
//	host eth0 -- veth -- packet port
var places = []place{
	{"bridge-auto", func(t *testing.T) (*space, Port) { return inBridge(t, OffloadAuto) }, false},
	{"bridge-tcp", func(t *testing.T) (*space, Port) { return inBridge(t, OffloadTCP) }, false},
	{"bridge-off", func(t *testing.T) (*space, Port) { return inBridge(t, OffloadOff) }, true},
	{"packet", func(t *testing.T) (*space, Port) {
		host, lan := newSpace(t), newSpace(t)
		host.veth(t, "eth0", lan, "p0")
		return host, lan.openPacket(t, PacketConfig{Interface: "p0"})
	}, false},
}

func inBridge(t *testing.T, o Offload) (*space, Port) {
	host, lan := newSpace(t), newSpace(t)
	lan.bridge(t, "br0")
	host.veth(t, "eth0", lan, "p0")
	lan.enslave(t, "p0", "br0")
	p := lan.openTAP(t, TAPConfig{Bridge: "br0", Offload: o})
	lan.setUp(t, p.Name())
	return host, p
}

// Two kernels find each other by ARP and neighbour discovery and talk TCP through two ports with a
// cable in userspace between them.
func TestTCPThroughTwoEthernetPorts(t *testing.T) {
	for _, tt := range []struct{ a, b int }{{0, 0}, {1, 1}, {2, 2}, {3, 3}, {0, 3}, {3, 0}, {3, 2}, {2, 3}} {
		for _, tx := range []bool{true, false} {
			pa, pb := places[tt.a], places[tt.b]
			name := pa.name + "-" + pb.name
			if !tx {
				name += "-no-tx-offload"
			}
			t.Run(name, func(t *testing.T) {
				client, a := pa.hang(t)
				server, b := pb.hang(t)
				client.host(t, "eth0", 1)
				server.host(t, "eth0", 2)
				if !tx {
					client.noTxOffload(t, "eth0")
					server.noTxOffload(t, "eth0")
				}
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
				for _, addr := range []string{"10.9.0.2:80", "[fd00:9::2]:80"} {
					echoTCP(t, client, server, addr)
				}
				a.Close()
				b.Close()
				wg.Wait()

				wantSuper := tx && !pa.off
				if got := super > 0; got != wantSuper {
					t.Errorf("%d super-packets, want some: %t", super, wantSuper)
				}
				if got := longest > 1514; got != wantSuper {
					t.Errorf("the longest frame has %d bytes", longest)
				}
				sa, sb := StatsOf(a), StatsOf(b)
				if sa.Segmented+sb.Segmented+sa.Unfit+sb.Unfit > 0 {
					t.Errorf("stats %+v and %+v", sa, sb)
				}
				t.Logf("%d super-packets, longest frame %d, stats %+v and %+v", super, longest, sa, sb)
			})
		}
	}
}
