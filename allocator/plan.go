// This file has the first step of Allocate: the addresses of the statuses are kept
// by their holders, and the state of the decision, which the other steps extend.

package allocator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// candidate is a request while its assignment is being decided.
type candidate struct {
	*Request
	index   int32        // of its request
	foreign bool         // its status is not written
	held    [2]int32     // by family: indexes in run.held; 0 is none
	leaving [2]int32     // likewise, of addresses that were replaced
	missing *[2]*Missing // by family; nil if nothing is missing
}

// holderClass orders the requests that keep addresses. Owners precede adopters, so
// that an adopter never receives an address of an owner. Owners with unchanged terms
// precede those that departed from theirs, because changed terms are a new request.
// Strangers precede adopters, which must not take over their addresses.
type holderClass uint8

const (
	ownerClass holderClass = iota
	departedClass
	strangerClass
	adopterClass
)

// orderedCandidate is a candidate with its sort key.
type orderedCandidate struct {
	*candidate
	since int64
	turn  holderClass
}

func classOf(r *Request) holderClass {
	switch {
	case r.Role == Stranger:
		return strangerClass
	case r.Role == Adopter:
		return adopterClass
	case r.Departed:
		return departedClass
	}
	return ownerClass
}

// familyIndex returns the index of a family in arrays.
func familyIndex(f Family) int {
	if f == IPv4 {
		return 0
	}
	return 1
}

func (c *candidate) wantsFamily(f Family) bool {
	return slices.ContainsFunc(c.Families, func(w Want) bool { return w.Family == f })
}

// run is the state of one Allocate.
type run struct {
	*Pools
	states      []poolState
	candidates  []candidate
	order       []orderedCandidate // in which held addresses are kept
	held        []Held             // of all candidates
	assignments []Assignment       // in the order of the requests
	owners      map[netip.Addr]*candidate
	groups      map[netip.Addr]*sharedGroup // of addresses that several candidates hold or held
	foreign     map[netip.Addr]*candidate   // candidates that have the address in a status that is not written
	tables      map[tableKey]*sharedTable   // of shared addresses; nil until the first use
	pending     []pendingRequest
	waiting     map[netip.Addr]*pendingIndex // for an address that they request by name
	mayRelease  bool                         // a pending candidate may release an address
	lastList    sourceList
	released    []*releasedAddr
	traced      *types.NamespacedName // nil disables the trace
	trace       []TraceEntry
	steps       int // counts the operations, for tests
}

// runMemory is memory of a run that its result does not refer to. The next run
// reuses it.
type runMemory struct {
	candidates []candidate
	order      []orderedCandidate
	owners     map[netip.Addr]*candidate
}

// newRun prepares the decision for the requests, in n log n. The candidates point
// to the elements of requests, which must not be changed while the run is used.
func newRun(m *runMemory, pools *Pools, requests []Request) *run {
	if m.owners == nil {
		m.owners = make(map[netip.Addr]*candidate, len(requests))
	}
	m.candidates = slices.Grow(m.candidates[:0], len(requests))[:len(requests)]
	m.order = slices.Grow(m.order[:0], len(requests))[:len(requests)]
	r := &run{
		Pools: pools, states: make([]poolState, len(pools.sources)),
		candidates: m.candidates, order: m.order, owners: m.owners,
		// held[0] is not an address: candidates that hold none have this index, so
		// that heldOf returns an invalid Addr for them.
		held: make([]Held, 1, 1+len(requests)), assignments: make([]Assignment, len(requests)),
		groups: make(map[netip.Addr]*sharedGroup), foreign: make(map[netip.Addr]*candidate),
		waiting: make(map[netip.Addr]*pendingIndex),
	}
	for i := range requests {
		q := &requests[i]
		r.candidates[i] = candidate{Request: q, index: int32(i)}
		// The age is copied next to the pointer, so that most comparisons do not
		// read a request.
		r.order[i] = orderedCandidate{&r.candidates[i], q.Since.Unix(), classOf(q)}
	}
	slices.SortFunc(r.order, func(a, b orderedCandidate) int {
		r.steps++
		// Creation timestamps in Kubernetes have seconds, so that equal ones are
		// usual after an apply of many Services; then the key decides.
		if o := cmp.Or(cmp.Compare(a.turn, b.turn), cmp.Compare(a.since, b.since)); o != 0 {
			return o
		}
		return a.compareAge(b.candidate)
	})
	return r
}

// compareAge orders the older candidate first.
// Candidates of equal age are ordered by namespace and name, so that the result
// does not depend on the order of the requests.
func (c *candidate) compareAge(o *candidate) int {
	return cmp.Or(c.Since.Compare(o.Since), strings.Compare(c.Key.Namespace, o.Key.Namespace), strings.Compare(c.Key.Name, o.Key.Name))
}

// dropRequests drops the references to the requests.
// It also empties owners, from which newRun must start.
func (m *runMemory) dropRequests() {
	clear(m.candidates)
	clear(m.order)
	clear(m.owners)
}

func (r *run) allocateAll() []Assignment {
	r.keepHeld()
	for i := range r.candidates {
		r.recordLost(&r.candidates[i])
	}
	// Pending requests are known only now: an address is free only if no status of
	// any candidate has it.
	r.findPending()
	r.grantPending()
	for i := range r.candidates {
		r.completeAssignment(&r.candidates[i])
	}
	return r.assignments
}

// heldOf returns the address of a family that the candidate holds; its Addr is
// invalid if there is none.
func (r *run) heldOf(c *candidate, f int) *Held { return &r.held[c.held[f]] }

// leavingOf is heldOf for the address that was replaced (fairlead.io/leaving).
func (r *run) leavingOf(c *candidate, f int) *Held { return &r.held[c.leaving[f]] }

// holdsAddr reports whether the candidate holds the address, in either role. A
// foreign candidate holds none.
func (r *run) holdsAddr(c *candidate, addr netip.Addr) bool {
	f := familyIndex(FamilyOf(addr))
	return r.heldOf(c, f).Addr == addr || r.leavingOf(c, f).Addr == addr
}

// completeAssignment completes the candidate's assignment.
func (r *run) completeAssignment(c *candidate) {
	a := &r.assignments[c.index]
	var held [4]int32
	n := 0
	for f := range c.held {
		for _, place := range []int32{c.leaving[f], c.held[f]} {
			if place > 0 {
				held[n], n = place, n+1
			}
		}
	}
	switch n {
	case 0:
	case 1:
		a.Held = r.held[held[0] : held[0]+1 : held[0]+1]
	default:
		first := len(r.held)
		for _, place := range held[:n] {
			r.held = append(r.held, r.held[place])
		}
		a.Held = r.held[first:len(r.held):len(r.held)]
	}
	if c.missing == nil {
		return
	}
	for _, m := range c.missing {
		if m != nil {
			m.Optional = m.Optional && n > 0 // a request without any address is a failure
			a.Missing = append(a.Missing, *m)
		}
	}
}

func (c *candidate) addMissing(m *Missing) {
	if c.missing == nil {
		c.missing = &[2]*Missing{}
	}
	c.missing[familyIndex(m.Family)] = m
}

// recordLost records the addresses of the status that the candidate does not keep.
// It is called before addresses are granted: one that a grant replaces later is not
// recorded, because the candidate keeps it until the replacement can be written.
func (r *run) recordLost(c *candidate) {
	if c.foreign {
		return
	}
	for _, h := range c.Have {
		if !r.holdsAddr(c, h.Addr) {
			a := &r.assignments[c.index]
			a.GivesUp = append(a.GivesUp, h.Addr)
		}
	}
}

// keepHeld assigns the addresses of the statuses to their holders. It adopts the
// addresses that another implementation assigned, unless refuseAdoption has a reason.
func (r *run) keepHeld() {
	for _, c := range r.order {
		refusal := (*Missing)(nil)
		// Adopters are last in the order, so every address that they must not take
		// over has its owner by now.
		if c.turn == adopterClass {
			refusal = r.refuseAdoption(c.candidate)
		}
		if refusal != nil {
			c.addMissing(refusal)
		}
		// A refused adopter is treated as a stranger: its addresses are not
		// assigned to others while its status shows them.
		if c.turn == strangerClass || refusal != nil {
			r.reserveForeign(c.candidate)
		} else {
			r.keepAll(c.candidate)
		}
	}
}

// reserveForeign reserves the addresses in a status that is not written.
func (r *run) reserveForeign(c *candidate) {
	c.foreign = true
	for _, h := range c.Have {
		if r.owners[h.Addr] == nil {
			r.takeAddr(c, h.Addr, r.sourceContaining(h.Addr, h.Pool))
		} else if r.foreign[h.Addr] == nil {
			// An owner has the address as well and keeps it. It remains reserved
			// for the foreign status if the owner releases it, and is shared with
			// none meanwhile.
			r.foreign[h.Addr] = c
		}
	}
}

// keepAll keeps the addresses of the candidate's status that it may keep, with
// their roles. Where it now requests the leaving one of two, it exchanges the
// roles.
func (r *run) keepAll(c *candidate) {
	for _, leaving := range []bool{false, true} { // the replacement before the address that it replaces
		for _, h := range c.Have {
			if h.Leaving == leaving {
				r.keepAddr(c, h)
			}
		}
	}
	for f := range c.leaving {
		if c.leaving[f] > 0 && !c.Frozen && !r.isSatisfied(c, c.held[f]) && r.isSatisfied(c, c.leaving[f]) {
			// The leaving address is requested again: the two addresses are swapped.
			c.held[f], c.leaving[f] = c.leaving[f], c.held[f]
			r.heldOf(c, f).Leaving, r.leavingOf(c, f).Leaving = false, true
		}
	}
}

// keepAddr makes the candidate the holder of an address of its status, unless the
// candidate does not request the family, releases the address, holds one of the
// family, or is blocked by a candidate with precedence.
func (r *run) keepAddr(c *candidate, h Have) {
	family := FamilyOf(h.Addr)
	f := familyIndex(family)
	// A frozen candidate keeps all addresses: its request is invalid, or it moves
	// to another provider, so that the families in it are not a reason for a
	// release.
	wanted := (c.Frozen || c.wantsFamily(family)) && !slices.Contains(c.Release, h.Addr)
	place := &c.held[f]
	if *place > 0 && (c.Renumber || c.Frozen) {
		place = &c.leaving[f]
	}
	if !wanted || *place > 0 || r.heldOf(c, f).Addr == h.Addr || r.isBlocked(c, h.Addr) {
		return
	}
	s := r.sourceContaining(h.Addr, h.Pool)
	held := c.heldFrom(s, h)
	held.Leaving = place == &c.leaving[f]
	*place = int32(len(r.held))
	r.held = append(r.held, held)
	r.takeAddr(c, h.Addr, s)
	if r.isTraced(c) {
		r.trace = append(r.trace, TraceEntry{family, held.Pool, true, fmt.Sprintf("holds %s and keeps it", h.Addr)})
	}
}

// heldFrom returns the record of a kept address. The recorded pool stays, even if it
// no longer contains the address, unless the candidate requests the pool that does.
func (c *candidate) heldFrom(s *poolSource, h Have) Held {
	held := Held{Addr: h.Addr, Pool: h.Pool}
	// The recorded pool is kept even without its ranges: advertisements select an
	// address by it, so that the address stays announced.
	if s == nil {
		held.OutOfPool = true
		return held
	}
	asked, asks := c.requestedAddr(FamilyOf(h.Addr))
	// This is how a pool is renamed: the address stays, and its record changes to
	// the new pool that the Service requests. A pool that is being deleted does not
	// get new records.
	asksForIt := !c.Frozen && !s.Closed && (asks && asked == h.Addr || c.Pinned) && slices.Contains(c.Pools, s.Name)
	if held.Pool == "" || asksForIt {
		held.Pool = s.Name
	}
	// Another pool may contain the address now: it remains out of the recorded one
	// until the Service requests the new one.
	held.OutOfPool = held.Pool != s.Name
	held.Unselected = !held.OutOfPool && c.barredFrom(s.Name)
	return held
}

// barredFrom searches the shorter list first, because no pool is in both.
func (c *candidate) barredFrom(pool string) bool {
	if len(c.Pools) < len(c.Barred) && slices.Contains(c.Pools, pool) {
		return false
	}
	return slices.Contains(c.Barred, pool)
}

// refuseAdoption returns why the addresses of an adopter cannot be kept. They are
// kept all or none.
func (r *run) refuseAdoption(c *candidate) *Missing {
	var seen [2]bool
	for _, h := range c.Have {
		if slices.Contains(c.Release, h.Addr) {
			continue // released by an administrator
		}
		f, why := FamilyOf(h.Addr), ""
		switch {
		case r.sourceContaining(h.Addr, h.Pool) == nil:
			why = "is not in any pool"
		case r.isBlocked(c, h.Addr):
			names, _ := r.blockersOf(c, h.Addr)
			why = "is assigned to " + names
		// Adopting one of several addresses would remove the others from the
		// status.
		case !c.wantsFamily(f) || seen[familyIndex(f)]:
			why = fmt.Sprintf("is not the only %s address, and the Service requests one", f)
		}
		if why != "" {
			return &Missing{Family: f, Refusal: v1alpha1.Refusal{
				Reason:  v1alpha1.ForeignStatus,
				Message: fmt.Sprintf("the status has %s, which %s: the status is left to the controller that wrote it", h.Addr, why),
			}}
		}
		seen[familyIndex(f)] = true
	}
	return nil
}

func (r *run) isTraced(c *candidate) bool { return r.traced != nil && c.Key == *r.traced }
