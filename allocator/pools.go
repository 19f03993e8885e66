// This file prepares the pools and searches them. It does not enumerate addresses,
// except those that are in use before the first free one.

package allocator

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Pools are indexed by name and address for Allocate. They are immutable and may be
// used concurrently, so they are prepared once for each configuration.
type Pools struct {
	sources []*poolSource         // in the order of the pools
	never   map[netip.Addr]string // addresses of nodes
	byName  map[string]*poolSource
	spans   [2][]addrSpan // of all pools, by family, sorted
}

// poolSource is a prepared pool.
type poolSource struct {
	Pool
	index    int
	ranges   [2][]netipx.IPRange // all addresses
	gives    [2][]netipx.IPRange // without the reserved addresses
	used     []Reserved          // those of Reserved that the cluster uses, sorted and disjoint
	capacity [2]*big.Int         // number of assignable addresses
}

// addrSpan is a range of a source. The ranges of all sources are disjoint.
type addrSpan struct {
	netipx.IPRange
	*poolSource
}

// NewPools prepares pools for Allocate. Their ranges must be disjoint. never are
// addresses of nodes, inside or outside the pools, each with the reason: they are kept
// only with the Evidence RecordedAndShown. Neither may be changed afterwards.
func NewPools(pools []Pool, never map[netip.Addr]string) *Pools {
	p := &Pools{never: never, byName: make(map[string]*poolSource, len(pools))}
	for i := range pools {
		s := newSource(pools[i], i)
		p.sources = append(p.sources, s)
		p.byName[s.Name] = s
	}
	for f := range p.spans {
		n := 0
		for _, s := range p.sources {
			n += len(s.ranges[f])
		}
		p.spans[f] = make([]addrSpan, 0, n)
		for _, s := range p.sources {
			for _, r := range s.ranges[f] {
				p.spans[f] = append(p.spans[f], addrSpan{r, s})
			}
		}
		slices.SortFunc(p.spans[f], func(a, b addrSpan) int { return a.From().Compare(b.From()) })
	}
	return p
}

// sourceContaining returns the pool that contains the address, or nil. It tries the
// named pool first.
func (p *Pools) sourceContaining(addr netip.Addr, name string) *poolSource {
	f := familyIndex(FamilyOf(addr))
	// An address is usually still in its recorded pool, which has fewer ranges than
	// all pools together.
	if s := p.byName[name]; s != nil && containsAddr(s.ranges[f], addr) {
		return s
	}
	// The address is the first one of the range found, or can only be in the range
	// before it: the ranges are disjoint and sorted.
	i, found := slices.BinarySearchFunc(p.spans[f], addr, func(s addrSpan, a netip.Addr) int { return s.From().Compare(a) })
	switch {
	case found:
		return p.spans[f][i].poolSource
	case i > 0 && p.spans[f][i-1].Contains(addr):
		return p.spans[f][i-1].poolSource
	}
	return nil
}

// newSource splits the ranges by family and subtracts the reserved ones. It panics
// if the ranges are invalid: the configuration was validated before.
func newSource(p Pool, index int) *poolSource {
	s := &poolSource{Pool: p, index: index, ranges: byFamily(p.Ranges)}
	s.Reserved = makeDisjoint(p.Reserved)
	s.used = makeDisjoint(slices.DeleteFunc(slices.Clone(p.Reserved), func(r Reserved) bool { return !r.Used }))
	s.gives = s.ranges
	if len(s.Reserved) > 0 {
		var b netipx.IPSetBuilder
		for _, r := range p.Ranges {
			b.AddRange(r)
		}
		for _, r := range s.Reserved {
			b.RemoveRange(r.IPRange)
		}
		set, err := b.IPSet()
		if err != nil {
			panic(fmt.Sprintf("pool %s: build a set of valid ranges: %v", p.Name, err))
		}
		s.gives = byFamily(set.Ranges())
	}
	for f := range s.gives {
		s.capacity[f] = s.countAssignable(f)
	}
	return s
}

// makeDisjoint sorts the ranges, and removes from each what an earlier one contains.
func makeDisjoint(reserved []Reserved) (cut []Reserved) {
	sorted := slices.SortedStableFunc(slices.Values(reserved), func(a, b Reserved) int { return a.From().Compare(b.From()) })
	var last netip.Addr // of the ranges so far
	for _, r := range sorted {
		// The range is inside of the ones before it. Its reason is not reported
		// then.
		if !last.Less(r.To()) {
			continue
		}
		// Only the part behind the ranges before it remains, so that each address
		// has one reason.
		if !last.Less(r.From()) {
			r.IPRange = netipx.IPRangeFrom(last.Next(), r.To())
		}
		last = r.To()
		cut = append(cut, r)
	}
	return cut
}

// byFamily splits sorted ranges: IPv4 is first.
func byFamily(ranges []netipx.IPRange) [2][]netipx.IPRange {
	// netip.Addr.Compare orders all IPv4 addresses before all IPv6 addresses.
	n, _ := slices.BinarySearchFunc(ranges, IPv6, func(r netipx.IPRange, f Family) int { return int(FamilyOf(r.From())) - int(f) })
	return [2][]netipx.IPRange{ranges[:n], ranges[n:]}
}

// canAssign reports whether the source, which contains the address, can assign it.
// AvoidBuggyIPs is not part of gives, in which it would split each IPv4 range at
// every 256th address.
func (s *poolSource) canAssign(addr netip.Addr) bool {
	reserved := len(s.Reserved) > 0 && !containsAddr(s.gives[familyIndex(FamilyOf(addr))], addr)
	return !reserved && !(s.AvoidBuggyIPs && isBuggyAddr(addr))
}

// containsAddr searches sorted ranges of one family. Most of the time of a decision
// that changes nothing is spent here.
func containsAddr(ranges []netipx.IPRange, addr netip.Addr) bool {
	low, high := 0, len(ranges) // ranges below low begin at the address or before
	for low < high {
		if middle := (low + high) / 2; addr.Less(ranges[middle].From()) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low > 0 && !ranges[low-1].To().Less(addr)
}

// whyNot returns why the source, which contains the address, cannot assign it, "" if
// it can.
func (s *poolSource) whyNot(addr netip.Addr) string {
	if why := reservedFor(s.Reserved, addr); why != "" {
		return why
	}
	if s.AvoidBuggyIPs && isBuggyAddr(addr) {
		return fmt.Sprintf("ends in .0 or .255, which pool %s avoids", s.Name)
	}
	return ""
}

// usedBy returns what of the cluster itself uses the address, which the source
// contains; "" if nothing does.
func (s *poolSource) usedBy(addr netip.Addr) string { return reservedFor(s.used, addr) }

// reservedFor returns why the address is in one of the sorted and disjoint ranges, "" if
// it is in none.
func reservedFor(reserved []Reserved, addr netip.Addr) string {
	i, _ := slices.BinarySearchFunc(reserved, addr, func(r Reserved, a netip.Addr) int { return r.To().Compare(a) })
	if i < len(reserved) && reserved[i].Contains(addr) {
		return reserved[i].Why
	}
	return ""
}

// isBuggyAddr reports whether old devices mistake the IPv4 address for a network or
// broadcast address, independent of the prefix length.
func isBuggyAddr(a netip.Addr) bool {
	last := a.As16()[15]
	return a.Is4() && (last == 0 || last == 255)
}

// countAssignable returns the number of assignable addresses of the family.
func (s *poolSource) countAssignable(f int) *big.Int {
	// An IPv6 range can have more than 2^64 addresses. IPv4 ranges are counted in
	// an int64, which is much faster for pools of many ranges.
	total, n, one := new(big.Int), new(big.Int), big.NewInt(1)
	var small int64 // of IPv4
	for _, r := range s.gives[f] {
		if from, to := r.From(), r.To(); from.Is4() {
			a, b := from.As4(), to.As4()
			low, high := int64(binary.BigEndian.Uint32(a[:])), int64(binary.BigEndian.Uint32(b[:]))
			small += high - low + 1
			if s.AvoidBuggyIPs {
				small -= high/256 - (low+255)/256 + 1 // those that end in .0
				small -= (high+1)/256 - low/256       // and in .255
			}
		} else {
			a, b := from.As16(), to.As16()
			total.Add(total, n.SetBytes(b[:])).Add(total, one)
			total.Sub(total, n.SetBytes(a[:]))
		}
	}
	return total.Add(total, n.SetInt64(small))
}

// poolState is the state of a source during a run.
type poolState struct {
	used, taken [2]int64        // number of held addresses, and of assignable ones among these
	at          [2]int          // the index in gives that the search for a free address has reached
	next        [2]netip.Addr   // the address there; the zero Addr is the first one
	freed       [2]addrSet      // free addresses that the search has passed
	avoided     [2]addrSet      // likewise, of those in spec.externalIPs of Services
	waiting     [2]pendingQueue // requests for a free address
}

// hasPassed reports whether the search has passed the address.
func (st *poolState) hasPassed(s *poolSource, addr netip.Addr) bool {
	f := familyIndex(FamilyOf(addr))
	switch {
	case st.next[f].IsValid():
		return addr.Less(st.next[f])
	case st.at[f] < len(s.gives[f]):
		return addr.Less(s.gives[f][st.at[f]].From())
	}
	return true
}

// lowestFree returns the lowest free address of the source that is not in not.
// It searches each range once.
func (r *run) lowestFree(s *poolSource, f int, not []netip.Addr) (netip.Addr, bool) {
	st := &r.states[s.index]
	// Addresses behind the search are lower than all that it can still find.
	for a := st.freed[f].next(netip.Addr{}); a.IsValid(); a = st.freed[f].next(a) {
		if !slices.Contains(not, a) {
			return a, true
		}
	}
	skipped := false // an address that other requests may use
	next := st.next[f]
	for i := st.at[f]; i < len(s.gives[f]); i++ {
		rng := s.gives[f][i]
		if !next.IsValid() {
			next = rng.From()
		}
		for ; rng.Contains(next); next = next.Next() {
			r.steps++
			if r.owners[next] == nil && !(s.AvoidBuggyIPs && isBuggyAddr(next)) {
				switch {
				case r.externalIPs[next]:
					st.avoided[f].add(next)
				case !slices.Contains(not, next):
					return next, true
				default:
					skipped = true
				}
			}
			if !skipped {
				st.at[f], st.next[f] = i, next.Next()
			}
		}
		if next = (netip.Addr{}); !skipped {
			st.at[f], st.next[f] = i+1, next
		}
	}
	return netip.Addr{}, false
}

// lowestAvoided returns the lowest free address of the source among those in
// spec.externalIPs of Services. lowestFree must have found none.
func (r *run) lowestAvoided(s *poolSource, f int, not []netip.Addr) (netip.Addr, bool) {
	set := &r.states[s.index].avoided[f]
	for a := set.next(netip.Addr{}); a.IsValid(); a = set.next(a) {
		r.steps++
		if r.owners[a] == nil && !slices.Contains(not, a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// poolUsage returns the usage of all pools, without enumerating them.
func (r *run) poolUsage() []Usage {
	usage := make([]Usage, len(r.sources))
	for i, s := range r.sources {
		st, u := &r.states[i], &usage[i]
		u.Capacity, u.Used = s.capacity, st.used
		for f := range u.Free {
			if u.Free[f] = new(big.Int); !s.Closed {
				u.Free[f].Sub(s.capacity[f], big.NewInt(st.taken[f]))
			}
		}
	}
	return usage
}
