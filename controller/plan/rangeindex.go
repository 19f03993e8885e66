package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// rangeClaim is what a node reports about the addresses of a range.
type rangeClaim[T any] struct {
	netipx.IPRange
	value T
}

// rangeIndex finds the claims about an address by binary search. Its size depends on
// the number of ranges, not of addresses in them. The zero rangeIndex is empty.
type rangeIndex[T any] struct {
	starts []netip.Addr       // sorted
	claims [][]*rangeClaim[T] // about the addresses from the start up to the next start
}

// newRangeIndex returns an index of the claims. Claims about one address keep their order.
func newRangeIndex[T any](claims []rangeClaim[T]) (index rangeIndex[T]) {
	starts := make([]netip.Addr, 0, 2*len(claims))
	order := make([]int, len(claims))
	for i, c := range claims {
		order[i] = i
		starts = append(starts, c.From())
		if after := c.To().Next(); after.IsValid() {
			starts = append(starts, after)
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	index.starts = slices.Compact(starts)
	index.claims = make([][]*rangeClaim[T], len(index.starts))
	slices.SortStableFunc(order, func(a, b int) int { return claims[a].From().Compare(claims[b].From()) })
	var current []int // claims about the addresses that begin at the start, in order
	for i, start := range index.starts {
		current = slices.DeleteFunc(current, func(n int) bool { return claims[n].To().Less(start) })
		for len(order) > 0 && claims[order[0]].From() == start {
			current, order = append(current, order[0]), order[1:]
		}
		slices.Sort(current)
		for _, n := range current {
			index.claims[i] = append(index.claims[i], &claims[n])
		}
	}
	return index
}

// about returns the claims about the address.
func (x rangeIndex[T]) about(addr netip.Addr) []*rangeClaim[T] {
	i, found := slices.BinarySearchFunc(x.starts, addr, netip.Addr.Compare)
	if !found {
		i--
	}
	// No start follows the last IPv4 address, so that the family is compared.
	if i < 0 || x.starts[i].Is4() != addr.Is4() {
		return nil
	}
	return x.claims[i]
}

// disjointClaims returns the claims of one node without the addresses that an earlier
// range contains. The size of the index is therefore bounded by the number of ranges
// multiplied by the number of nodes that claim the same address.
func disjointClaims[T any](claims []rangeClaim[T]) []rangeClaim[T] {
	slices.SortStableFunc(claims, func(a, b rangeClaim[T]) int {
		return cmp.Or(a.From().Compare(b.From()), a.To().Compare(b.To()))
	})
	disjoint := claims[:0]
	for _, c := range claims {
		if n := len(disjoint); n > 0 && !disjoint[n-1].To().Less(c.From()) {
			if !disjoint[n-1].To().Less(c.To()) {
				continue
			}
			c.IPRange = netipx.IPRangeFrom(disjoint[n-1].To().Next(), c.To())
		}
		disjoint = append(disjoint, c)
	}
	return disjoint
}
