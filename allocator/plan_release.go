package allocator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// release is an address that fewer hold than before.
type release struct {
	addr   netip.Addr
	source *source // that contains it; nil is none
	ports  []Port  // that were in use on it
	// open: candidates may hold it that could not before, whatever ports they use.
	open bool
	// inUse are ports that have come into use since, and after says of each index
	// up to which place all candidates use one of these.
	inUse []Port
	after map[*pendingIndex]int
}

// pendingQueue has pending candidates in the order in which they are served.
type pendingQueue []*pending

// after returns those behind a place.
func (q *pendingQueue) after(place int) pendingQueue {
	for len(*q) > 0 && (*q)[0].done {
		*q = (*q)[1:]
	}
	i, _ := slices.BinarySearchFunc(*q, place+1, func(p *pending, place int) int { return cmp.Compare(p.place, place) })
	return (*q)[i:]
}

// first returns the first one behind a place that can take the address. It drops
// those on its way that are done.
func (q *pendingQueue) first(place int, can func(*pending) bool) (first *pending) {
	rest := q.after(place)
	passed := slices.IndexFunc(rest, can)
	if passed < 0 {
		passed = len(rest)
	} else {
		first = rest[passed]
	}
	if len(rest) < len(*q) {
		return first
	}
	left := passed // those that are not done move to the right
	for i := passed - 1; i >= 0; i-- {
		if !rest[i].done {
			left--
			rest[left] = rest[i]
		}
	}
	*q = rest[left:]
	return first
}

// pendingIndex has the candidates that wait for an address, or for those of a
// table.
type pendingIndex struct {
	all    pendingQueue
	byPort map[Port]*pendingQueue
	using  map[Port]int // up to which place all use the port
}

func newPendingIndex() *pendingIndex {
	return &pendingIndex{byPort: map[Port]*pendingQueue{}, using: map[Port]int{}}
}

// allUsing returns up to which place all candidates use the port.
func (r *run) allUsing(x *pendingIndex, port Port) int {
	for _, p := range x.all.after(x.using[port]) {
		r.steps++
		if !p.done && !slices.Contains(p.Share.Ports, port) {
			break
		}
		x.using[port] = p.place
	}
	return x.using[port]
}

func (x *pendingIndex) add(p *pending) {
	x.all = append(x.all, p)
	for _, port := range p.Share.Ports {
		if x.byPort[port] == nil {
			x.byPort[port] = &pendingQueue{}
		}
		*x.byPort[port] = append(*x.byPort[port], p)
	}
}

// wait has the pending candidate tried again when what it waits for is released.
func (r *run) wait(p *pending) {
	c, f := p.candidate, slot(p.Family)
	if p.byName {
		addr, _ := c.asked(p.Family)
		if reason, _ := c.unfit(r.container(addr, ""), addr); reason != "" {
			return // whoever holds it
		}
		if r.waiting[addr] == nil {
			r.waiting[addr] = newPendingIndex()
		}
		r.waiting[addr].add(p)
		return
	}
	for _, s := range r.sourcesOf(c) {
		if !s.serves(c, f) {
			continue
		}
		q := &r.states[s.index].waiting[f]
		*q = append(*q, p)
		if c.Share.Key == "" {
			continue
		}
		for _, k := range c.joinKeys(s, f) {
			r.table(k).waiting.add(p)
		}
	}
}

// grantReleased serves those that wait for what was released, until none of them
// can take any of it.
func (r *run) grantReleased() {
	for len(r.released) > 0 {
		var first *pending
		r.released = slices.DeleteFunc(r.released, func(e *release) bool {
			p := r.waitingFor(e)
			first = earlier(first, p)
			return p == nil
		})
		if first == nil {
			return
		}
		if !r.tryGrant(first) {
			panic(fmt.Sprintf("%s cannot take what it waits for", first.Key))
		}
		for _, e := range r.released {
			if r.holds(first.candidate, e.addr) {
				e.inUse = append(e.inUse, first.Share.Ports...)
			}
		}
	}
}

func earlier(p, q *pending) *pending {
	if p == nil || q != nil && q.place < p.place {
		return q
	}
	return p
}

// waitingFor returns the first of those that can take the released address, and
// nil if there is none.
func (r *run) waitingFor(e *release) (first *pending) {
	can := func(p *pending) bool {
		r.steps++
		return !p.done && !r.blocked(p.candidate, e.addr) && !r.holds(p.candidate, e.addr) && !slices.Contains(p.Release, e.addr)
	}
	byName := r.waiting[e.addr]
	if r.owners[e.addr] == nil {
		if byName != nil {
			first = byName.all.first(0, can)
		}
		if e.source != nil && e.source.available(e.addr) {
			first = earlier(first, r.states[e.source.index].waiting[slot(FamilyOf(e.addr))].first(0, can))
		}
		return first
	}
	defer func() { e.inUse = nil }()
	if byName != nil {
		first = r.joining(e, byName, can)
	}
	for _, k := range r.tableKeys(e.addr, e.source) {
		if t := r.tables[k]; t != nil {
			first = earlier(first, r.joining(e, t.waiting, can))
		}
	}
	return first
}

// joining returns the first candidate of the index that can share the address.
func (r *run) joining(e *release, x *pendingIndex, can func(*pending) bool) (first *pending) {
	r.steps += len(e.ports) + len(e.inUse)
	for _, port := range e.ports {
		if q := x.byPort[port]; q != nil {
			first = earlier(first, q.first(0, can))
		}
	}
	if !e.open {
		return first
	}
	for _, port := range e.inUse {
		e.after[x] = max(e.after[x], r.allUsing(x, port))
	}
	return earlier(first, x.all.first(e.after[x], can))
}
