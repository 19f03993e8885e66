package allocator

import (
	"net/netip"
	"slices"
)

// refused is a claimant that goes without, for want of a free address.
type refused struct {
	*claimant
	Want
	byName bool
	done   bool // has asked again
}

func (o *refused) ask(r *run) {
	if o.byName {
		r.grantByName(o.claimant, o.Want)
	} else {
		r.grantAny(o.claimant, o.Want)
	}
}

// queue holds those who were refused, by what may help them, oldest first. It
// makes a move cost what it changes: without it everybody would ask again.
type queue struct {
	named map[netip.Addr][]*refused
	pools map[*source]*[2][]*refused
	freed []netip.Addr // fewer hold these than before
	moved bool         // somebody gave up an address
}

// forAddr has o ask again when the address becomes free.
func (q *queue) forAddr(addr netip.Addr, o *refused) {
	if q.named == nil {
		q.named = make(map[netip.Addr][]*refused)
	}
	q.named[addr] = append(q.named[addr], o)
}

// forPool has o ask again when an address of the source becomes free.
func (q *queue) forPool(s *source, o *refused) {
	if q.pools == nil {
		q.pools = make(map[*source]*[2][]*refused)
	}
	if q.pools[s] == nil {
		q.pools[s] = new([2][]*refused)
	}
	f := slot(o.Family)
	q.pools[s][f] = append(q.pools[s][f], o)
}

// serve has those ask again whom the freed addresses help, as if all began
// anew: those who ask by name first, and then the oldest first.
func (r *run) serve() {
	q := &r.queue
	for len(q.freed) > 0 {
		var first *refused
		q.freed = slices.DeleteFunc(q.freed, func(a netip.Addr) bool {
			o := r.helped(a)
			if o != nil && (first == nil || o.before(first)) {
				first = o
			}
			return o == nil
		})
		if first != nil {
			first.done = true
			first.ask(r)
		}
	}
}

func (o *refused) before(other *refused) bool {
	if o.byName != other.byName {
		return o.byName
	}
	return o.rank < other.rank
}

// helped is the first of those whom the address, which fewer hold than before,
// will help; nil if there is nobody.
func (r *run) helped(addr netip.Addr) *refused {
	owner := r.owners[addr]
	if owner != nil && owner.Share.Key == "" {
		return nil
	}
	can := func(o *refused) bool {
		if o.done || owner != nil && owner.Share.Key != o.Share.Key {
			return false
		}
		other, _ := r.inTheWay(o.claimant, addr)
		return other == nil && !o.third(slot(o.Family)) && !o.holds(addr) && !slices.Contains(o.Release, addr)
	}
	if i := slices.IndexFunc(r.queue.named[addr], can); i >= 0 {
		return r.queue.named[addr][i]
	}
	s := r.container(addr)
	if s == nil || r.queue.pools[s] == nil || !s.giving(addr) {
		return nil
	}
	list := &r.queue.pools[s][slot(FamilyOf(addr))]
	for len(*list) > 0 && (*list)[0].done {
		*list = (*list)[1:]
	}
	if i := slices.IndexFunc(*list, can); i >= 0 {
		return (*list)[i]
	}
	return nil
}
