// This file retries refused requests when an address is released, without trying
// all of them: a request is found by the address, the pool or the port that it
// waits for.

package allocator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// releasedAddr is an address that one of its holders has released.
type releasedAddr struct {
	addr   netip.Addr
	source *poolSource // that contains it, or nil
	ports  []Port      // that the holder used
	// open: candidates may hold it that could not before, with any ports.
	open bool
	// inUse are ports that are in use since then. For each index, all candidates up
	// to the place in after use one of these.
	inUse []Port
	after map[*pendingIndex]int
}

// pendingQueue has pending requests in the order of service.
type pendingQueue []*pendingRequest

// afterPlace returns the requests after a place.
func (q *pendingQueue) afterPlace(place int) pendingQueue {
	// Requests that are done stay in the queue until it is read: they wait in
	// several queues, and only one of them granted the address.
	for len(*q) > 0 && (*q)[0].done {
		*q = (*q)[1:]
	}
	i, _ := slices.BinarySearchFunc(*q, place+1, func(p *pendingRequest, place int) int { return cmp.Compare(p.place, place) })
	return (*q)[i:]
}

// firstAfter returns the first request after a place that can use the address. It
// drops the ones before it that are done.
func (q *pendingQueue) firstAfter(place int, can func(*pendingRequest) bool) (first *pendingRequest) {
	rest := q.afterPlace(place)
	passed := slices.IndexFunc(rest, can)
	if passed < 0 {
		passed = len(rest)
	} else {
		first = rest[passed]
	}
	if len(rest) < len(*q) {
		return first
	}
	// The requests that were passed over keep their order, and those that are done
	// are not examined again.
	left := passed // requests that are not done move to the right
	for i := passed - 1; i >= 0; i-- {
		if !rest[i].done {
			left--
			rest[left] = rest[i]
		}
	}
	*q = rest[left:]
	return first
}

// pendingIndex has the requests that wait for an address, or for one of a table.
type pendingIndex struct {
	all    pendingQueue
	byPort map[Port]*pendingQueue
	using  map[Port]int // up to this place all use the port
}

func newPendingIndex() *pendingIndex {
	return &pendingIndex{byPort: map[Port]*pendingQueue{}, using: map[Port]int{}}
}

// allUsing returns the place up to which all requests use the port.
func (r *run) allUsing(x *pendingIndex, port Port) int {
	for _, p := range x.all.afterPlace(x.using[port]) {
		r.steps++
		// The first request without the port ends the search. The next call
		// continues after the place that was reached, so that no request is
		// examined twice for one port.
		if !p.done && !p.Share.usesPort(port) {
			break
		}
		x.using[port] = p.place
	}
	return x.using[port]
}

// add appends the request. Requests must be added in the order of service.
func (x *pendingIndex) add(p *pendingRequest) {
	x.all = append(x.all, p)
	for _, port := range p.Share.Ports {
		if x.byPort[port] == nil {
			x.byPort[port] = &pendingQueue{}
		}
		*x.byPort[port] = append(*x.byPort[port], p)
	}
}

// waitForAddr registers a refused request, to be retried when the address is released.
func (r *run) waitForAddr(p *pendingRequest, addr netip.Addr) {
	if reason, _ := p.whyUnusable(r.sourceContaining(addr, ""), addr); reason != "" {
		return // its release would not help
	}
	if r.waiting[addr] == nil {
		r.waiting[addr] = newPendingIndex()
	}
	r.waiting[addr].add(p)
}

// wait registers a refused request, to be retried when an address is released.
func (r *run) wait(p *pendingRequest) {
	c, f := p.candidate, familyIndex(p.Family)
	if p.byName {
		addr, _ := c.requestedAddr(p.Family)
		r.waitForAddr(p, addr)
		return
	}
	for _, addr := range c.Prefer {
		if FamilyOf(addr) == p.Family && c.held[f] == 0 {
			r.waitForAddr(p, addr)
		}
	}
	for _, s := range r.sourcesOf(c) {
		if !s.servesFamily(c, f) {
			continue
		}
		q := &r.states[s.index].waiting[f]
		*q = append(*q, p)
		if c.Share.Key == "" {
			continue
		}
		// A candidate with a key can be helped by an address that stays in use,
		// too: when one of its holders leaves.
		for _, k := range c.joinKeys(s, f) {
			r.tableFor(k).waiting.add(p)
		}
	}
}

// grantReleased serves the requests that wait for released addresses, until none of
// them can use one.
func (r *run) grantReleased() {
	for len(r.released) > 0 {
		var first *pendingRequest
		// The earliest request is served first, whichever of the addresses it waits
		// for: this is the order in which all would be retried. Addresses that none
		// waits for are dropped.
		r.released = slices.DeleteFunc(r.released, func(e *releasedAddr) bool {
			p := r.waitingFor(e)
			first = earlierOf(first, p)
			return p == nil
		})
		if first == nil {
			return
		}
		// waitingFor and tryGrant decide by the same rules; a difference is a
		// defect of this package.
		if !r.tryGrant(first) {
			panic(fmt.Sprintf("%s cannot use the address that it waits for", first.Key))
		}
		// The grant may have added released addresses itself, and may have used
		// ports of those in the list.
		for _, e := range r.released {
			if r.holdsAddr(first.candidate, e.addr) {
				e.inUse = append(e.inUse, first.Share.Ports...)
			}
		}
	}
}

func earlierOf(p, q *pendingRequest) *pendingRequest {
	if p == nil || q != nil && q.place < p.place {
		return q
	}
	return p
}

// waitingFor returns the first request that can use the released address, or nil.
func (r *run) waitingFor(e *releasedAddr) (first *pendingRequest) {
	can := func(p *pendingRequest) bool {
		r.steps++
		return !p.done && !r.isBlocked(p.candidate, e.addr) && !r.holdsAddr(p.candidate, e.addr) && !slices.Contains(p.Release, e.addr)
	}
	// Without a holder the address is free: those that wait for the address itself,
	// or for any of its pool, can have it with any ports.
	byName := r.waiting[e.addr]
	if r.owners[e.addr] == nil {
		if byName != nil {
			first = byName.all.firstAfter(0, can)
		}
		if e.source != nil && e.source.canAssign(e.addr) {
			first = earlierOf(first, r.states[e.source.index].waiting[familyIndex(FamilyOf(e.addr))].firstAfter(0, can))
		}
		return first
	}
	defer func() { e.inUse = nil }()
	if byName != nil {
		first = r.firstJoining(e, byName, can)
	}
	for _, k := range r.tableKeys(e.addr, e.source) {
		if t := r.tables[k]; t != nil {
			first = earlierOf(first, r.firstJoining(e, t.waiting, can))
		}
	}
	return first
}

// firstJoining returns the first request of the index that can share the address.
func (r *run) firstJoining(e *releasedAddr, x *pendingIndex, can func(*pendingRequest) bool) (first *pendingRequest) {
	r.steps += len(e.ports) + len(e.inUse)
	for _, port := range e.ports {
		if q := x.byPort[port]; q != nil {
			first = earlierOf(first, q.firstAfter(0, can))
		}
	}
	// Nothing else about the address has changed: requests for other ports were not
	// blocked by the holder that left.
	if !e.open {
		return first
	}
	// Requests that need a port which was taken in the meantime are skipped
	// together.
	for _, port := range e.inUse {
		e.after[x] = max(e.after[x], r.allUsing(x, port))
	}
	return earlierOf(first, x.all.firstAfter(e.after[x], can))
}
