// This file has the second and third step of Allocate: the requests that held
// addresses do not satisfy are collected, ordered, and granted addresses.

package allocator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// pendingRequest is a candidate that needs another address of a family.
type pendingRequest struct {
	*candidate
	Want
	byName bool
	prefer bool // only an address that the candidate prefers is granted; it has another request
	place  int  // in the order of service, from 1
	done   bool // an address was granted, or is not needed any more
}

// findPending lists the pending requests in the order of service: those for an
// address by name first, then those for a free one that the candidate prefers, then
// those for any address, each from the oldest candidate to the youngest.
func (r *run) findPending() {
	for i := range r.candidates {
		c := &r.candidates[i]
		if c.Frozen || c.foreign {
			continue
		}
		for _, w := range c.Families {
			f := familyIndex(w.Family)
			if c.held[f] > 0 && r.isSatisfied(c, c.held[f]) {
				continue
			}
			_, asks := c.requestedAddr(w.Family)
			// An address that is requested by name is required, even under
			// PreferDualStack.
			w.Optional = w.Optional && !asks
			p := pendingRequest{candidate: c, Want: w, byName: asks}
			if !asks && len(c.Prefer) > 0 {
				if _, s := r.preferredAddr(&p); s != nil {
					preferring := p
					preferring.prefer = true
					r.pending = append(r.pending, preferring)
				}
			}
			r.pending = append(r.pending, p)
			// Only a grant in place of a held address releases one. Under Renumber
			// the old address stays.
			r.mayRelease = r.mayRelease || c.held[f] > 0 && !c.Renumber
		}
	}
	slices.SortStableFunc(r.pending, func(a, b pendingRequest) int {
		r.steps++
		// Otherwise a request for any address could be granted the one that another
		// candidate requests by name.
		return cmp.Or(compareTrueFirst(a.byName, b.byName), compareTrueFirst(a.prefer, b.prefer), a.compareAge(b.candidate))
	})
	for i := range r.pending {
		r.pending[i].place = i + 1
	}
}

func compareTrueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// grantPending grants addresses to the pending requests. A grant that replaces an
// address releases the old one, so earlier requests are retried: the result is as if
// all of them were retried in order after each grant. Refusals are last, because
// they describe the final state.
func (r *run) grantPending() {
	for i := range r.pending {
		p := &r.pending[i]
		if p.prefer { // if it is taken by now, its other request is granted any address
			p.preferred[familyIndex(p.Family)] = r.tryGrant(p)
			p.done = true
			continue
		}
		// No release helps a candidate with two addresses: it would need a third
		// one. Without releases, registering the others would be wasted.
		if !r.tryGrant(p) && r.mayRelease && !r.isThird(p) {
			r.wait(p)
		}
		r.grantReleased()
	}
	for i := range r.pending {
		if p := &r.pending[i]; !p.done {
			r.refusePending(p)
		}
	}
	for i := range r.candidates {
		r.refuseLost(&r.candidates[i])
	}
}

// requestedAddr returns the address of the family that is requested by name.
func (c *candidate) requestedAddr(f Family) (netip.Addr, bool) {
	for _, a := range c.Addrs {
		if FamilyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// isSatisfied reports whether the held address is what the candidate requests.
func (r *run) isSatisfied(c *candidate, place int32) bool {
	// Any address satisfies most Services: they are decided without a search.
	if len(c.Addrs) == 0 && !c.Pinned && !c.Renumber {
		return true
	}
	h := &r.held[place]
	if addr, asks := c.requestedAddr(FamilyOf(h.Addr)); asks {
		return h.Addr == addr
	}
	// An address of the requested pool stays although the pool does not select the
	// Service any more: pools never take an address away.
	if c.Pinned && !slices.Contains(c.Pools, h.Pool) && !slices.Contains(c.Barred, h.Pool) {
		return false
	}
	if !c.Renumber {
		return true
	}
	// Under Renumber, an address that is kept out of its pool, or in a pool that is
	// being deleted, is replaced as well (docs/adr/0011-renumbering.md).
	s := r.byName[h.Pool]
	return !h.OutOfPool && !h.Unselected && s != nil && !s.Closed
}

// isThird reports whether the candidate already has two addresses of the family.
func (r *run) isThird(p *pendingRequest) bool {
	f := familyIndex(p.Family)
	return p.Renumber && p.held[f] > 0 && p.leaving[f] > 0
}

// tryGrant grants an address if one is available.
func (r *run) tryGrant(p *pendingRequest) bool {
	if r.isThird(p) {
		return false
	}
	if p.preferred[familyIndex(p.Family)] {
		p.done = true
		return true
	}
	addr, s := r.findAddr(p)
	if p.done = s != nil; p.done {
		r.grantAddr(p, addr, s)
	}
	return p.done
}

// findAddr returns an address that can be granted: the one that is requested by name,
// or one that it prefers, or one that can be shared, or the lowest free one of the most
// preferred pool. The source is nil if there is none.
func (r *run) findAddr(p *pendingRequest) (netip.Addr, *poolSource) {
	c, f := p.candidate, familyIndex(p.Family)
	if p.byName {
		addr, _ := c.requestedAddr(p.Family)
		s := r.sourceContaining(addr, "")
		// Neither AutoAssign nor the order of the pools matters for an address that
		// is requested by name.
		if reason, _ := c.whyUnusable(s, addr); reason != "" || r.isBlocked(c, addr) {
			return addr, nil
		}
		return addr, s
	}
	if addr, s := r.preferredAddr(p); s != nil || p.prefer {
		return addr, s
	}
	// All pools are searched for an address to share before any free one is used:
	// otherwise a free address of a preferred pool would prevent the sharing that
	// was requested.
	sources := r.sourcesOf(c)
	if c.Share.Key != "" {
		for _, s := range sources {
			if !s.servesFamily(c, f) {
				continue
			}
			if addr := r.lowestShared(c, s, f); addr.IsValid() {
				return addr, s
			}
		}
	}
	for _, s := range sources {
		if !s.servesFamily(c, f) {
			continue
		}
		if addr, free := r.lowestFree(s, f, c.Release); free {
			return addr, s
		}
	}
	// Only addresses in spec.externalIPs are left. Any tenant can list any number of
	// them, so they must not exhaust the pools.
	for _, s := range sources {
		if r.externalIPs == nil || !s.servesFamily(c, f) {
			continue
		}
		if addr, free := r.lowestAvoided(s, f, c.Release); free {
			return addr, s
		}
	}
	return netip.Addr{}, nil
}

// preferredAddr returns an address that a candidate without one prefers, if it can be
// granted: of a Service that was restored or copied, those of its original. The source
// is nil if there is none.
func (r *run) preferredAddr(p *pendingRequest) (netip.Addr, *poolSource) {
	for _, addr := range p.Prefer {
		if FamilyOf(addr) != p.Family || p.held[familyIndex(p.Family)] > 0 {
			continue
		}
		s := r.sourceContaining(addr, "")
		if reason, _ := p.whyUnusable(s, addr); reason == "" && !r.isBlocked(p.candidate, addr) {
			return addr, s
		}
	}
	return netip.Addr{}, nil
}

// sourceList caches the sources of the last list of pools. Many candidates share one.
type sourceList struct {
	first   *string
	sources []*poolSource
}

// sourcesOf returns the sources of the candidate's pools, nil for a pool that does
// not exist.
func (r *run) sourcesOf(c *candidate) []*poolSource {
	if len(c.Pools) == 0 {
		return nil
	}
	// Services that the same pools select share one list, so comparing its place in
	// memory is enough.
	if r.lastList.first == &c.Pools[0] && len(r.lastList.sources) == len(c.Pools) {
		return r.lastList.sources
	}
	r.lastList.first, r.lastList.sources = &c.Pools[0], r.lastList.sources[:0]
	for _, name := range c.Pools {
		r.lastList.sources = append(r.lastList.sources, r.byName[name])
	}
	return r.lastList.sources
}

// servesFamily reports whether the candidate may use addresses of the family from
// the source.
func (s *poolSource) servesFamily(c *candidate, f int) bool {
	return s != nil && (s.Auto || c.Pinned) && !s.Closed && len(s.ranges[f]) > 0
}

// grantAddr makes the candidate the holder of the address, in place of the one of
// the family that it holds, or alongside it under Renumber.
func (r *run) grantAddr(p *pendingRequest, addr netip.Addr, s *poolSource) {
	c, f := p.candidate, familyIndex(p.Family)
	old := *r.heldOf(c, f)
	if r.isTraced(c) {
		r.traceGrant(p, addr, s)
	}
	switch {
	// The old address leaves, but stays in the status until its time is over
	// (docs/adr/0011-renumbering.md).
	case !old.Addr.IsValid() || c.Renumber:
		if old.Addr.IsValid() {
			r.heldOf(c, f).Leaving = true
			c.leaving[f] = c.held[f]
		}
		c.held[f] = int32(len(r.held))
		r.held = append(r.held, Held{Addr: addr, Pool: s.Name})
	default:
		// The record changes first, because releaseAddr drops the holders that no
		// longer have the address in their record.
		*r.heldOf(c, f) = Held{Addr: addr, Pool: s.Name}
		r.releaseAddr(c, old.Addr)
	}
	r.takeAddr(c, addr, s)
}

// traceGrant records the granted address, and why preferred pools were not used.
func (r *run) traceGrant(p *pendingRequest, addr netip.Addr, s *poolSource) {
	// A shared address is not taken in the order of preference, so that the pools
	// before its own were not refused.
	preferred := slices.Contains(p.Prefer, addr)
	free := r.owners[addr] == nil
	for i := 0; free && !p.byName && !preferred && p.Pools[i] != s.Name; i++ {
		r.trace = append(r.trace, TraceEntry{p.Family, p.Pools[i], false, r.whyNone(p, p.Pools[i])})
	}
	message := "assigns " + addr.String()
	if preferred {
		message += ", which is recorded for the Service that this one was restored or copied from"
	}
	if old := r.heldOf(p.candidate, familyIndex(p.Family)); old.Addr.IsValid() {
		relation := "in place of"
		if p.Renumber {
			relation = "alongside"
		}
		message += fmt.Sprintf(" %s %s", relation, old.Addr)
	}
	r.trace = append(r.trace, TraceEntry{p.Family, s.Name, true, message})
}
