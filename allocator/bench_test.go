package allocator

import (
	"fmt"
	"testing"
)

// BenchmarkAllocate gives addresses to n new Services, and confirms n held
// ones, from pools of very different sizes. The cost of a pool does not depend
// on its size: B/op of the last columns says so.
func BenchmarkAllocate(b *testing.B) {
	for _, p := range []string{"10.0.0.0/18", "10.0.0.0/8", "2001:db8::/64"} {
		for _, n := range []int{10, 1_000, 10_000} {
			pools := []Pool{pool("p", p)}
			family := FamilyOf(pools[0].Ranges[0].From())
			fresh := make([]Request, n)
			for i := range fresh {
				fresh[i] = Request{Key: key(fmt.Sprintf("s%06d", i)), Families: []Want{{Family: family}}, Pools: []string{"p"}}
			}
			held := make([]Request, n)
			for i, a := range Allocate(pools, fresh).Assignments {
				held[i] = fresh[i]
				held[i].Have = []Have{{Addr: a.Held[0].Addr, Pool: "p"}}
			}
			for name, requests := range map[string][]Request{"new": fresh, "held": held} {
				b.Run(fmt.Sprintf("pool=%s/services=%d/%s", p, n, name), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						Allocate(pools, requests)
					}
				})
			}
		}
	}
}
