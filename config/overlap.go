package config

import (
	"math/big"
	"math/bits"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// entry is one of a pool's spec.addresses.
type entry struct {
	netipx.IPRange       // invalid if err is set
	err            error // of ParseRange
	pool           int32
	precedence     int32 // the place of the entry that it overlaps and that is used; -1 if it is used itself
	rank           int32 // among the valid entries, by their last addresses
	first          int32 // the lowest rank of an entry that does not end before this one begins
}

// bound is the first or the last address of an entry. It has what a walk over
// all addresses needs, because the entries are far apart in memory.
type bound struct {
	netip.Addr
	entry, pool int32
}

// entries are those of all pools, in the order of precedence.
type entries struct {
	pools       []*v1alpha1.IPAddressPool
	start       []int // of each pool, and the end of the last one
	all         []entry
	last, first []bound // of the valid entries, sorted
}

// newEntries parses the entries, and decides which of them are used: those that
// overlap no earlier one that is used.
func newEntries(pools []*v1alpha1.IPAddressPool) *entries {
	es := &entries{pools: pools, start: make([]int, 1, len(pools)+1)}
	n := 0
	for _, p := range pools {
		n += len(p.Spec.Addresses)
	}
	es.all = make([]entry, 0, n)
	for i, p := range pools {
		for _, text := range p.Spec.Addresses {
			r, err := ParseRange(string(text))
			es.all = append(es.all, entry{IPRange: r, err: err, pool: int32(i), precedence: -1})
		}
		es.start = append(es.start, len(es.all))
	}
	es.sortBounds()
	return es
}

// text is the i-th entry as it is written.
func (es *entries) text(i int32) string {
	p := es.all[i].pool
	return string(es.pools[p].Spec.Addresses[int(i)-es.start[p]])
}

func (es *entries) sortBounds() {
	es.last = make([]bound, 0, len(es.all))
	for i := range es.all {
		if e := &es.all[i]; e.err == nil {
			es.last = append(es.last, bound{e.To(), int32(i), e.pool})
		}
	}
	compare := func(a, b bound) int { return a.Compare(b.Addr) }
	slices.SortFunc(es.last, compare)
	es.first = slices.Clone(es.last)
	for rank, b := range es.last {
		e := &es.all[b.entry]
		e.rank = int32(rank)
		es.first[rank].Addr = e.From()
	}
	slices.SortFunc(es.first, compare) // they are sorted already, unless entries overlap
}

// findOverlaps walks over all addresses, and returns for each pool the ones
// that share addresses with it, as a set of their indexes. A pair may be in one
// of its two sets only.
func (es *entries) findOverlaps() []big.Int {
	sets := make([]big.Int, len(es.pools))
	var open big.Int                    // the pools with entries that have begun and not ended
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

// selectUsed decides, in order, which entries are used: those that overlap no
// earlier one that is used. Of several, the lowest takes precedence.
func (es *entries) selectUsed() {
	used := newRankSet(len(es.last))
	for i := range es.all {
		e := &es.all[i]
		if e.err != nil {
			continue
		}
		// What is used is disjoint, so that the last addresses are in the order of the first.
		if next := used.next(int(e.first)); next < len(es.last) && !e.To().Less(es.all[es.last[next].entry].From()) {
			e.precedence = es.last[next].entry
		} else {
			used.add(int(e.rank))
		}
	}
}

// rankSet is a set of ranks in a binary tree: element 1 is the root, 2i and
// 2i+1 are the children of i, and what is true has a member below it.
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
		i++ // the neighbor, or the highest parent whose subtree it begins
		i >>= bits.TrailingZeros(uint(i))
	}
	for i < len(s)/2 {
		if i *= 2; !s[i] {
			i++
		}
	}
	return i - len(s)/2
}
