package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
)

// BenchmarkAllocate assigns addresses to n new Services, and confirms n held
// ones, from pools of very different sizes, on which the cost does not depend.
func BenchmarkAllocate(b *testing.B) {
	for _, p := range []string{"10.0.0.0/18", "10.0.0.0/8", "2001:db8::/64"} {
		for _, n := range []int{10, 1_000, 10_000} {
			pools := []Pool{pool("p", p)}
			prepared := NewPools(pools, nil)
			family := FamilyOf(pools[0].Ranges[0].From())
			fresh := make([]Request, n)
			for i := range fresh {
				fresh[i] = Request{Key: key(fmt.Sprintf("s%06d", i)), Families: []Want{{Family: family}}, Pools: []string{"p"}}
			}
			held := make([]Request, n)
			for i, a := range Allocate(NewPools(pools, nil), fresh).Assignments {
				held[i] = fresh[i]
				held[i].Have = []Have{{Addr: a.Held[0].Addr, Pool: "p"}}
			}
			for name, requests := range map[string][]Request{"new": fresh, "held": held} {
				b.Run(fmt.Sprintf("pool=%s/services=%d/%s", p, n, name), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						Allocate(prepared, requests)
					}
				})
			}
		}
	}
}

// BenchmarkSettled confirms 10,000 Services in 50 pools of 1,024 ranges, with
// pools that are prepared already, and prepares these.
func BenchmarkSettled(b *testing.B) {
	pools, requests := settled(singles(50, 1024), plain(10_000))
	for _, order := range []struct {
		name     string
		requests []Request
	}{{"by age", requests}, {"random", shuffled(slices.Clone(requests))}} {
		b.Run(order.name, func(b *testing.B) {
			prepared := NewPools(pools, nil)
			b.ReportAllocs()
			for b.Loop() {
				Allocate(prepared, order.requests)
			}
		})
	}
	b.Run("NewPools", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			NewPools(pools, nil)
		}
	})
}

// BenchmarkShapes measures every shape of input at n and 2n.
func BenchmarkShapes(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{4000, 8000} {
			pools, requests := s.make(n)
			prepared := NewPools(pools, nil)
			b.Run(fmt.Sprintf("%s/n=%d", s.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Allocate(prepared, requests)
				}
			})
		}
	}
}

// BenchmarkMoves has 5,000 Services change their pool, while one waits for an
// address that nobody gives up, or 5,000 wait for what the others leave.
func BenchmarkMoves(b *testing.B) {
	const n = 5_000
	old := pool("p", "10.0.0.0/20")
	old.Ranges[0] = netipx.IPRangeFrom(old.Ranges[0].From(), netip.AddrFrom4([4]byte{10, 0, n >> 8, n & 255})) // one more than n
	for _, waiting := range []int{1, n} {
		requests := make([]Request, n, 2*n+1)
		for i := range requests {
			requests[i] = Request{Key: key(fmt.Sprintf("s%06d", i)), Families: []Want{{Family: IPv4}}, Pools: []string{"p"}}
		}
		requests = written(requests, Allocate(NewPools([]Pool{old}, nil), requests))
		for i := range requests {
			requests[i].Pools, requests[i].Pinned = []string{"q"}, true
		}
		last := old.Ranges[0].To()
		requests = append(requests, Request{
			Key:      key("last"),
			Have:     []Have{{Addr: last, Pool: "p"}},
			Families: []Want{{Family: IPv4}},
			Pools:    []string{"p"},
		})
		for i := range waiting {
			r := Request{Key: key(fmt.Sprintf("r%06d", i)), Families: []Want{{Family: IPv4}}, Pools: []string{"p"}}
			if i == 0 {
				r.Addrs = []netip.Addr{last}
			}
			requests = append(requests, r)
		}
		pools := []Pool{old, pool("q", "10.1.0.0/16")}
		prepared := NewPools(pools, nil)
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			for b.Loop() {
				Allocate(prepared, requests)
			}
		})
	}
}

// BenchmarkSharing has 10,000 Services with one key: all with one port, so that
// each needs an address of its own, or ten to an address.
func BenchmarkSharing(b *testing.B) {
	const n = 10_000
	for _, different := range []int{1, 10} {
		fresh := make([]Request, n)
		for i := range fresh {
			fresh[i] = ports(
				Request{Key: key(fmt.Sprintf("s%06d", i)), Families: []Want{{Family: IPv4}}, Pools: []string{"p"}},
				int32(80+i%different),
			)
		}
		pools := NewPools([]Pool{pool("p", "10.0.0.0/8")}, nil)
		held := written(fresh, Allocate(pools, fresh))
		for name, requests := range map[string][]Request{"new": fresh, "held": held} {
			b.Run(fmt.Sprintf("ports=%d/%s", different, name), func(b *testing.B) {
				for b.Loop() {
					Allocate(pools, requests)
				}
			})
		}
	}
}
