package allocator

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// source is a pool while addresses are taken from it.
type source struct {
	*Pool
	ranges [2][]netipx.IPRange // what it contains
	gives  [2][]netipx.IPRange // without what is reserved
	next   [2]netip.Addr       // every address that it gives below this one was taken
	freed  [2][]netip.Addr     // and has become free since: sorted, and some are taken again
}

func newSource(p *Pool) *source {
	s := &source{Pool: p, ranges: byFamily(p.Ranges)}
	s.gives = s.ranges
	if len(p.Reserved) > 0 {
		var b netipx.IPSetBuilder
		for _, r := range p.Ranges {
			b.AddRange(r)
		}
		for _, r := range p.Reserved {
			b.RemoveRange(r.IPRange)
		}
		set, err := b.IPSet()
		if err != nil {
			panic(fmt.Sprintf("pool %s: valid ranges make no set: %v", p.Name, err))
		}
		s.gives = byFamily(set.Ranges())
	}
	for f, ranges := range s.gives {
		if len(ranges) > 0 {
			s.next[f] = ranges[0].From()
		}
	}
	return s
}

func byFamily(ranges []netipx.IPRange) (split [2][]netipx.IPRange) {
	for _, r := range ranges {
		f := slot(FamilyOf(r.From()))
		split[f] = append(split[f], r)
	}
	return split
}

// giving reports whether the source gives the address.
func (s *source) giving(addr netip.Addr) bool {
	return within(s.gives[slot(FamilyOf(addr))], addr) && !(s.AvoidBuggyIPs && buggy(addr))
}

// within searches sorted ranges of one family.
func within(ranges []netipx.IPRange, addr netip.Addr) bool {
	i, found := slices.BinarySearchFunc(ranges, addr, func(r netipx.IPRange, a netip.Addr) int { return r.From().Compare(a) })
	return found || i > 0 && ranges[i-1].Contains(addr)
}

// whyNot says why the pool, which contains the address, does not give it: "" if it does.
func (s *source) whyNot(addr netip.Addr) string {
	for _, r := range s.Reserved {
		if r.Contains(addr) {
			return r.Why
		}
	}
	if s.AvoidBuggyIPs && buggy(addr) {
		return fmt.Sprintf("ends in .0 or .255, which pool %s avoids", s.Name)
	}
	return ""
}

// buggy are the IPv4 addresses that old devices take for a network's own, or
// for its broadcast address, whatever the prefix length.
func buggy(a netip.Addr) bool {
	last := a.As16()[15]
	return a.Is4() && (last == 0 || last == 255)
}

// lowestFree moves the source's mark past addresses that were taken, and never
// walks over the same one twice, unless it is one that the request shall not have.
func (r *run) lowestFree(s *source, f int, not []netip.Addr) (netip.Addr, bool) {
	for len(s.freed[f]) > 0 && r.owners[s.freed[f][0]] != nil {
		s.freed[f] = s.freed[f][1:]
	}
	for _, a := range s.freed[f] {
		if r.owners[a] == nil && !slices.Contains(not, a) {
			return a, true
		}
	}
	next, mark := s.next[f], &s.next[f]
	for _, rng := range s.gives[f] {
		if !next.IsValid() || rng.To().Less(next) {
			continue // next is not valid behind the last address of the family
		}
		if next.Less(rng.From()) {
			next = rng.From()
		}
		for ; rng.Contains(next); next = next.Next() {
			taken := r.owners[next] != nil || s.AvoidBuggyIPs && buggy(next)
			if !taken && !slices.Contains(not, next) {
				return next, true
			}
			if !taken {
				mark = new(netip.Addr) // others may have this one
			}
			*mark = next.Next()
		}
	}
	return netip.Addr{}, false
}

// free notes that an address became free below the mark.
func (s *source) free(addr netip.Addr) {
	f := slot(FamilyOf(addr))
	if !s.giving(addr) || s.next[f].IsValid() && !addr.Less(s.next[f]) {
		return
	}
	if i, known := slices.BinarySearchFunc(s.freed[f], addr, netip.Addr.Compare); !known {
		s.freed[f] = slices.Insert(s.freed[f], i, addr)
	}
}

// container is the pool that contains the address, whoever may use it.
func (r *run) container(addr netip.Addr) *source {
	f := slot(FamilyOf(addr))
	i, found := slices.BinarySearchFunc(r.spans[f], addr, func(s span, a netip.Addr) int { return s.From().Compare(a) })
	if found {
		return r.spans[f][i].source
	}
	if i > 0 && r.spans[f][i-1].Contains(addr) {
		return r.spans[f][i-1].source
	}
	return nil
}

// span is a range of a source. Those of all sources together are disjoint.
type span struct {
	netipx.IPRange
	*source
}

// usage counts, without enumerating any pool.
func (r *run) usage() []Usage {
	usage := make([]Usage, len(r.order))
	at := make(map[*source]*Usage, len(r.order))
	for i, s := range r.order {
		u := &usage[i]
		at[s] = u
		for f := range s.gives {
			u.Capacity[f] = s.capacity(f)
			u.Free[f] = new(big.Int)
			if !s.Closed {
				u.Free[f].Set(u.Capacity[f])
			}
		}
	}
	taken := make(map[*source]*[2]int64, len(r.order))
	for addr := range r.owners {
		s := r.container(addr)
		if s == nil {
			continue
		}
		f := slot(FamilyOf(addr))
		at[s].Used[f]++
		if !s.Closed && s.giving(addr) {
			if taken[s] == nil {
				taken[s] = &[2]int64{}
			}
			taken[s][f]++
		}
	}
	for s, n := range taken {
		for f := range n {
			at[s].Free[f].Sub(at[s].Free[f], big.NewInt(n[f]))
		}
	}
	return usage
}

// capacity is how many addresses of the family the source can give.
func (s *source) capacity(f int) *big.Int {
	total := new(big.Int)
	for _, r := range s.gives[f] {
		from, to := r.From(), r.To()
		n := new(big.Int).SetBytes(to.AsSlice())
		n.Sub(n, new(big.Int).SetBytes(from.AsSlice())).Add(n, big.NewInt(1))
		if s.AvoidBuggyIPs && from.Is4() {
			a, b := from.As4(), to.As4()
			low, high := int64(binary.BigEndian.Uint32(a[:])), int64(binary.BigEndian.Uint32(b[:]))
			zeros := high/256 - (low+255)/256 + 1
			ones := (high+1)/256 - low/256
			n.Sub(n, big.NewInt(zeros+ones))
		}
		total.Add(total, n)
	}
	return total
}
