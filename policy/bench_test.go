package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/tunlb/tunlb/policy"
)

// many is a service of n servers with weights 1 to 10.
func many(scheduler string, n int) policy.Spec {
	weights := make([]int, n)
	for i := range weights {
		weights[i] = i%10 + 1
	}
	return web(scheduler, weights...)
}

func TestNoAllocations(t *testing.T) {
	addr := vip.Addr().As16()
	for _, name := range policy.Schedulers() {
		table := build(t, nil, many(name, 100))
		if n := testing.AllocsPerRun(1000, func() {
			if !table.IsVIP(addr) {
				t.Fatal("not a VIP")
			}
			id := table.Service(policy.TCP, addr, 80).Pick(policy.Client{Src: addr}).ID
			s := table.Server(id)
			s.Add(true)
			s.CountIn(1, 60)
			s.CountOut(1, 60)
			s.Move(false)
			s.Remove(false)
		}); n != 0 {
			t.Errorf("%s: %v allocations a flow, want none", name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, name := range policy.Schedulers() {
		for _, n := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				svc := build(b, nil, many(name, n)).Services()[0]
				b.ReportAllocs()
				for b.Loop() {
					svc.Pick(policy.Client{}).Add(true)
				}
			})
		}
	}
}

// BenchmarkPickSkewed is wrr's worst case: one heavy server, a walk past all the light ones for each pick.
func BenchmarkPickSkewed(b *testing.B) {
	spec := many("wrr", 1000)
	for i := range spec.Servers {
		spec.Servers[i].Weight = 1
	}
	spec.Servers[500].Weight = 65535
	svc := build(b, nil, spec).Services()[0]
	for b.Loop() {
		svc.Pick(policy.Client{}).Add(true)
	}
}

func BenchmarkLookup(b *testing.B) {
	var specs []policy.Spec
	var vips [][16]byte
	for i := range 1024 {
		spec := web("rr", 1, 1)
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		spec.Listen = netip.AddrPortFrom(addr, 80)
		specs, vips = append(specs, spec), append(vips, addr.As16())
	}
	for _, n := range []int{1, 1024} { // powers of two: a division would be in the figures
		table := build(b, nil, specs[:n]...)
		b.Run(fmt.Sprintf("Service/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if table.Service(policy.TCP, vips[i&(n-1)], 80) == nil {
					b.Fatal("no service")
				}
			}
		})
		b.Run(fmt.Sprintf("IsVIP/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if !table.IsVIP(vips[i&(n-1)]) {
					b.Fatal("not a VIP")
				}
			}
		})
		b.Run(fmt.Sprintf("Server/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if table.Server(uint32(1+i&(2*n-1))) == nil {
					b.Fatal("no server")
				}
			}
		})
	}
}

// BenchmarkReload changes one weight among 1,000.
func BenchmarkReload(b *testing.B) {
	spec := many("wrr", 1000)
	table := build(b, nil, spec)
	for b.Loop() {
		spec.Servers[0].Weight ^= 16
		table = build(b, table, spec)
	}
}
