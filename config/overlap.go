package config

import (
	"math/big"
	"math/bits"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// poolEntry is an element of a pool's spec.addresses.
type poolEntry struct {
	netipx.IPRange       // invalid if err is set
	err            error // of ParseRange
	pool           int32
	precedence     int32 // the index of the used entry that it overlaps; -1 if it is used itself
	rank           int32 // among the valid entries, by their last addresses
	first          int32 // the lowest rank of an entry that does not end before this one begins
}

// entryBound is the first or the last address of an entry. It copies what a walk over
// all addresses needs, because the entries are far apart in memory.
type entryBound struct {
	netip.Addr
	entry, pool int32
}

// poolEntries has the entries of all pools, in the order of precedence.
type poolEntries struct {
	pools       []*v1alpha1.IPAddressPool
	start       []int // of each pool, and the end of the last one
	all         []poolEntry
	last, first []entryBound // of the valid entries, sorted
}

// newEntries parses the entries.
func newEntries(pools []*v1alpha1.IPAddressPool) *poolEntries {
	es := &poolEntries{pools: pools, start: make([]int, 1, len(pools)+1)}
	n := 0
	for _, p := range pools {
		n += len(p.Spec.Addresses)
	}
	es.all = make([]poolEntry, 0, n)
	for i, p := range pools {
		for _, text := range p.Spec.Addresses {
			r, err := ParseRange(string(text))
			es.all = append(es.all, poolEntry{IPRange: r, err: err, pool: int32(i), precedence: -1})
		}
		es.start = append(es.start, len(es.all))
	}
	es.sortBounds()
	return es
}

// entryText returns the i-th entry as it is written in the spec.
func (es *poolEntries) entryText(i int32) string {
	p := es.all[i].pool
	return string(es.pools[p].Spec.Addresses[int(i)-es.start[p]])
}

func (es *poolEntries) sortBounds() {
	es.last = make([]entryBound, 0, len(es.all))
	for i := range es.all {
		if e := &es.all[i]; e.err == nil {
			es.last = append(es.last, entryBound{e.To(), int32(i), e.pool})
		}
	}
	compare := func(a, b entryBound) int { return a.Compare(b.Addr) }
	slices.SortFunc(es.last, compare)
	es.first = slices.Clone(es.last)
	for rank, b := range es.last {
		e := &es.all[b.entry]
		e.rank = int32(rank)
		es.first[rank].Addr = e.From()
	}
	slices.SortFunc(es.first, compare) // already sorted unless entries overlap
}

// findOverlaps returns for each pool the set of the indexes of pools that share
// addresses with it. A pair may be in one of its two sets only.
func (es *poolEntries) findOverlaps() []big.Int {
	sets := make([]big.Int, len(es.pools))
	var open big.Int                    // pools with entries that have begun and not ended
	count := make([]int, len(es.pools)) // of such entries
	ended := 0
	for _, b := range es.first {
		for es.last[ended].Less(b.Addr) {
			p := es.last[ended].pool
			if count[p]--; count[p] == 0 {
				open.SetBit(&open, int(p), 0)
			}
			ended++
		}
		es.all[b.entry].first = int32(ended)
		sets[b.pool].Or(&sets[b.pool], &open)
		if count[b.pool]++; count[b.pool] == 1 {
			open.SetBit(&open, int(b.pool), 1)
		}
	}
	return sets
}

// selectUsed decides, in order, which entries are used: those that do not overlap an
// earlier one that is used. If they overlap several, the lowest takes precedence.
func (es *poolEntries) selectUsed() {
	used := newRankSet(len(es.last))
	for i := range es.all {
		e := &es.all[i]
		if e.err != nil {
			continue
		}
		// Used entries are disjoint, so their last addresses are in the order of the first.
		if next := used.next(int(e.first)); next < len(es.last) && !e.To().Less(es.all[es.last[next].entry].From()) {
			e.precedence = es.last[next].entry
		} else {
			used.add(int(e.rank))
		}
	}
}

// rankSet is a set of ranks in a binary tree: element 1 is the root, 2i and 2i+1 are
// the children of i, and an element is true if its subtree has a member.
type rankSet []bool

// newRankSet returns the empty set of ranks below n. The rank n is a sentinel.
func newRankSet(n int) rankSet {
	s := make(rankSet, 2<<bits.Len(uint(n)))
	s.add(n)
	return s
}

func (s rankSet) add(rank int) {
	for i := len(s)/2 + rank; i > 0 && !s[i]; i /= 2 {
		s[i] = true
	}
}

// next returns the lowest member that is not below the rank.
func (s rankSet) next(rank int) int {
	i := len(s)/2 + rank
	for !s[i] {
		i++ // the neighbor, or its highest ancestor that has it as the first leaf
		i >>= bits.TrailingZeros(uint(i))
	}
	for i < len(s)/2 {
		if i *= 2; !s[i] {
			i++
		}
	}
	return i - len(s)/2
}
