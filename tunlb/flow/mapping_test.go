package flow

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/stack/packet"
	"pgregory.net/rapid"
)

var externalAddr = netip.MustParseAddr("198.51.100.1")

func inside(host uint32) (a [16]byte) {
	v4(&a, 0xc0a80000+host)
	return a
}

func TestMappingIsEndpointIndependent(t *testing.T) {
	m := NewMappings(externalAddr, 1024, 65535, nil)
	first, err := m.Acquire(packet.ProtoUDP, inside(10), 5000)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := m.Acquire(packet.ProtoUDP, inside(10), 5000)
	addr, port := first.External()
	if again != first || addr != externalAddr.As16() || port < 1024 {
		t.Errorf("%p, %p at %v:%d", first, again, addr, port)
	}
	if got := m.ByExternal(packet.ProtoUDP, port); got != first {
		t.Errorf("by external port: %p", got)
	}
	if a, p := first.Inside(); a != inside(10) || p != 5000 {
		t.Errorf("inside %v:%d", a, p)
	}
	if m.ByExternal(packet.ProtoTCP, port) != nil {
		t.Error("found for another protocol")
	}
	first.Hold()
	for range 3 {
		if m.ByExternal(packet.ProtoUDP, port) == nil {
			t.Fatal("gone while held")
		}
		m.ByExternal(packet.ProtoUDP, port).Release()
	}
	if m.ByExternal(packet.ProtoUDP, port) != nil || m.Len() != 0 {
		t.Error("not gone with its last hold")
	}
	first.Release()
}

// One release too many must not take the port from its next owner.
func TestSurplusRelease(t *testing.T) {
	m := NewMappings(externalAddr, 5000, 5000, nil)
	first, _ := m.Acquire(packet.ProtoTCP, inside(10), 1)
	first.Release()
	second, err := m.Acquire(packet.ProtoTCP, inside(11), 1)
	if err != nil {
		t.Fatal(err)
	}
	first.Release()
	if got := m.ByExternal(packet.ProtoTCP, 5000); got != second {
		t.Errorf("port 5000 leads to %p, want %p", got, second)
	}
}

func TestMappingsAgainstMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		first := rapid.Uint16Range(0, 65535).Draw(rt, "first")
		last := first + min(rapid.Uint16Range(0, 100).Draw(rt, "size"), 65535-first)
		m := NewMappings(externalAddr, first, last, nil)
		type key struct{ proto, host uint8 }
		holds := map[key]int{}
		ports := map[key]uint16{}
		count := map[uint8]int{}
		for range 200 {
			k := key{rapid.SampledFrom([]uint8{6, 17}).Draw(rt, "proto"), rapid.Uint8().Draw(rt, "host")}
			if holds[k] > 0 && rapid.Bool().Draw(rt, "release") {
				m.ByExternal(k.proto, ports[k]).Release()
				if holds[k]--; holds[k] == 0 {
					delete(ports, k)
					count[k.proto]--
				}
			} else {
				mp, err := m.Acquire(k.proto, inside(uint32(k.host)), 1)
				full := holds[k] == 0 && count[k.proto] == int(last-first)+1
				if errors.Is(err, ErrPorts) != full {
					rt.Fatalf("full %v: %v", full, err)
				}
				if full {
					continue
				}
				_, port := mp.External()
				if known, ok := ports[k]; ok && known != port || port < first || port > last {
					rt.Fatalf("port %d, before %d, range %d-%d", port, known, first, last)
				}
				if holds[k]++; holds[k] == 1 {
					count[k.proto]++
				}
				ports[k] = port
			}
			if m.Len() != len(ports) {
				rt.Fatalf("%d mappings, want %d", m.Len(), len(ports))
			}
			for k, port := range ports {
				if a, _ := m.ByExternal(k.proto, port).Inside(); a != inside(uint32(k.host)) {
					rt.Fatalf("port %d leads to %v, want host %d", port, a, k.host)
				}
			}
		}
	})
}
