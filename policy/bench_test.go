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

// client is one of very many.
func client(i int) policy.Client {
	return policy.Client{Src: [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}, SrcPort: uint16(i)}
}

func BenchmarkPick(b *testing.B) {
	for _, name := range policy.Schedulers() {
		for _, n := range []int{10, 1000} {
			svc := build(b, nil, many(name, n)).Services()[0]
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if svc.Pick(client(i)) == nil {
						b.Fatal("picked none")
					}
				}
			})
		}
	}
}

// BenchmarkFlow is a pick and what goes with it: the flow is counted, becomes inactive and ends after 256 others.
func BenchmarkFlow(b *testing.B) {
	for _, name := range policy.Schedulers() {
		for _, n := range []int{10, 1000} {
			svc := build(b, nil, many(name, n)).Services()[0]
			var flows [256]*policy.Server
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if s := flows[i%256]; s != nil {
						s.Move(false)
						s.Remove(false)
					}
					s := svc.Pick(client(i))
					if s != nil { // ovf: all are full
						s.Add(true)
					}
					flows[i%256] = s
				}
			})
		}
	}
}

// BenchmarkPickSkewed is one heavy server among 1,000: wrr's longest walks.
func BenchmarkPickSkewed(b *testing.B) {
	for _, name := range policy.Schedulers() {
		spec := many(name, 1000)
		for i := range spec.Servers {
			spec.Servers[i].Weight = 1
		}
		spec.Servers[500].Weight = 65535
		benchmarkPick(b, name, build(b, nil, spec))
	}
}

// BenchmarkPickQuiesced has one server of 1,000 with a weight.
func BenchmarkPickQuiesced(b *testing.B) {
	for _, name := range policy.Schedulers() {
		spec := many(name, 1000)
		spec.Flags = policy.Fallback
		table := build(b, nil, spec)
		for i := range spec.Servers {
			spec.Servers[i].Weight = 0
		}
		spec.Servers[0].Weight = 65535
		benchmarkPick(b, name, build(b, table, spec))
	}
}

// BenchmarkPickUnreachable has one server of 1,000 that can be reached, the lightest.
func BenchmarkPickUnreachable(b *testing.B) {
	for _, name := range policy.Schedulers() {
		spec := many(name, 1000)
		spec.Flags = policy.Fallback
		for i := range spec.Servers[1:] {
			spec.Servers[i+1].Weight = 60000 + i
		}
		table := build(b, nil, spec)
		for _, s := range table.Services()[0].Servers[1:] {
			s.SetUnreachable(true)
		}
		benchmarkPick(b, name, table)
	}
}

// BenchmarkPickNone has 1,000 servers of which none is available.
func BenchmarkPickNone(b *testing.B) {
	for _, name := range policy.Schedulers() {
		spec := many(name, 1000)
		spec.Flags = policy.Fallback
		table := build(b, nil, spec)
		for _, s := range table.Services()[0].Servers {
			s.SetUnreachable(true)
		}
		benchmarkPick(b, name, table)
	}
}

func benchmarkPick(b *testing.B, name string, table *policy.Table) {
	svc := table.Services()[0]
	b.Run(name, func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			svc.Pick(client(i))
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	var specs []policy.Spec
	var vips [][16]byte
	for i := range 1024 {
		spec := web("rr", 1, 1)
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		spec.Listen = policy.On(netip.AddrPortFrom(addr, 80), policy.TCP)
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
	for _, name := range policy.Schedulers() {
		spec := many(name, 1000)
		table := build(b, nil, spec)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				spec.Servers[0].Weight ^= 16
				table = build(b, table, spec)
			}
		})
	}
}
