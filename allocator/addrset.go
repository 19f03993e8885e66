package allocator

import (
	"net/netip"

	"github.com/google/btree"
)

// addrSet is an ordered set of addresses. The zero value is empty.
type addrSet struct{ tree *btree.BTreeG[netip.Addr] }

// next returns the lowest member above a, and the zero Addr if there is none.
// All are above the zero Addr.
// A loop over all members begins with the zero Addr, and costs O(log n) for each
// member.
func (s *addrSet) next(a netip.Addr) (next netip.Addr) {
	if s.tree == nil {
		return next
	}
	s.tree.AscendGreaterOrEqual(a, func(member netip.Addr) bool {
		if member == a {
			return true
		}
		next = member
		return false
	})
	return next
}

func (s *addrSet) add(a netip.Addr) {
	if s.tree == nil {
		s.tree = btree.NewG(32, netip.Addr.Less)
	}
	s.tree.ReplaceOrInsert(a)
}

func (s *addrSet) remove(a netip.Addr) {
	if s.tree != nil {
		s.tree.Delete(a)
	}
}
