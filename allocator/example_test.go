package allocator_test

import (
	"fmt"
	"net/netip"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/allocator"
)

// A Service keeps the address that its status shows, and others are assigned the
// lowest free one.
func ExampleAllocate() {
	pools := allocator.NewPools([]allocator.Pool{
		{Name: "public", Ranges: []netipx.IPRange{netipx.MustParseIPRange("192.0.2.1-192.0.2.2")}, Auto: true},
	}, nil)
	request := func(name string, shown ...allocator.Have) allocator.Request {
		return allocator.Request{
			Key:      types.NamespacedName{Namespace: "shop", Name: name},
			Families: []allocator.Want{{Family: allocator.IPv4}},
			Pools:    []string{"public"},
			Have:     shown,
		}
	}
	requests := []allocator.Request{
		request("api"),
		request("cart"),
		request("web", allocator.Have{Addr: netip.MustParseAddr("192.0.2.1"), Pool: "public"}),
	}
	result := allocator.Allocate(pools, requests)
	for i, a := range result.Assignments {
		for _, h := range a.Held {
			fmt.Printf("%s: %s from pool %s\n", requests[i].Key, h.Addr, h.Pool)
		}
		for _, m := range a.Missing {
			fmt.Printf("%s: %s: %s\n", requests[i].Key, m.Reason, m.Message)
		}
	}
	fmt.Println("free:", result.Pools[0].Free[0])
	// Output:
	// shop/api: 192.0.2.2 from pool public
	// shop/cart: PoolExhausted: pool public has no free IPv4 address
	// shop/web: 192.0.2.1 from pool public
	// free: 0
}
