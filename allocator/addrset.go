package allocator

import (
	"encoding/binary"
	"net/netip"
)

// addrSet is an ordered set of addresses: a treap, with hashes of the addresses
// as priorities, so that equal sets have equal trees.
type addrSet struct{ root *addrNode }

type addrNode struct {
	addr        netip.Addr
	priority    uint64
	left, right *addrNode
}

// next returns the lowest member above a, and the zero Addr if there is none.
// All are above the zero Addr.
func (s *addrSet) next(a netip.Addr) (next netip.Addr) {
	for n := s.root; n != nil; {
		if a.Less(n.addr) {
			next, n = n.addr, n.left
		} else {
			n = n.right
		}
	}
	return next
}

// add adds an address that is not in the set.
func (s *addrSet) add(a netip.Addr) {
	bytes := a.As16()
	hash := (binary.BigEndian.Uint64(bytes[:8])*0x9e3779b97f4a7c15 ^ binary.BigEndian.Uint64(bytes[8:])) * 0xd1342543de82ef95
	hash ^= hash >> 32
	low, high := s.root.split(a)
	s.root = mergeTrees(mergeTrees(low, &addrNode{addr: a, priority: hash * 0x9e3779b97f4a7c15}), high)
}

// remove removes an address that may be in the set.
func (s *addrSet) remove(a netip.Addr) {
	n := &s.root
	for *n != nil && (*n).addr != a {
		if a.Less((*n).addr) {
			n = &(*n).left
		} else {
			n = &(*n).right
		}
	}
	if *n != nil {
		*n = mergeTrees((*n).left, (*n).right)
	}
}

// split returns the trees of the addresses below a, and of the others.
func (n *addrNode) split(a netip.Addr) (low, high *addrNode) {
	switch {
	case n == nil:
		return nil, nil
	case n.addr.Less(a):
		n.right, high = n.right.split(a)
		return n, high
	default:
		low, n.left = n.left.split(a)
		return low, n
	}
}

// mergeTrees joins two trees. All addresses of low are below those of high.
func mergeTrees(low, high *addrNode) *addrNode {
	switch {
	case low == nil:
		return high
	case high == nil:
		return low
	case low.priority > high.priority:
		low.right = mergeTrees(low.right, high)
		return low
	default:
		high.left = mergeTrees(low, high.left)
		return high
	}
}
