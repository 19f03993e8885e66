// This file has the state of a decision, and its steps in order.

package allocator

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// candidate is a request while its assignment is being decided.
type candidate struct {
	*Request
	index   int32        // of its request
	foreign bool         // its status is not written
	held    [2]int32     // by family: indexes in run.held; 0 is none
	leaving [2]int32     // likewise, of addresses that were replaced
	missing *[2]*Missing // by family; nil if nothing is missing

	preferred [2]bool // by family: it was granted an address that it prefers
}

// holderClass orders the requests that keep addresses, by the Evidence for these. A
// request with addresses of different evidence has a turn in each class. Owners with
// unchanged terms of sharing precede those that departed from theirs, because changed
// terms are a new request. Addresses that another controller's Service shows are taken
// neither by a record alone, which can be forged, nor by a status alone.
type holderClass uint8

const (
	ownerClass holderClass = iota
	departedClass
	strangerClass
	recordedClass
	deletedClass
	controllerClass // ShownByController
	shownClass
)

// orderedCandidate is a candidate with its sort key.
type orderedCandidate struct {
	*candidate
	since int64
	turn  holderClass
}

// classOf returns the turn of the request for an address with the evidence.
func (r *Request) classOf(e Evidence) holderClass {
	switch {
	case r.Role == Stranger:
		return strangerClass
	case r.Role == Deleted:
		return deletedClass
	case e == Recorded:
		return recordedClass
	case e == ShownByController:
		return controllerClass
	case e == Shown:
		return shownClass
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
	externalIPs map[netip.Addr]bool         // of Services; nil if there are none
	losing      map[netip.Addr]bool         // shown by a candidate that does not keep them; nil if there are none
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
	m.order = slices.Grow(m.order[:0], len(requests))
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
		r.addTurns(&r.candidates[i])
	}
	m.order = r.order
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

// addTurns adds the candidate to the order, once for each class of its addresses.
func (r *run) addTurns(c *candidate) {
	c.foreign = c.Role != Owner
	if c.Role == ExternalIPs {
		if r.externalIPs == nil {
			r.externalIPs = make(map[netip.Addr]bool, len(c.Have))
		}
		for _, h := range c.Have {
			r.externalIPs[h.Addr] = true
		}
		return
	}
	var seen [shownClass + 1]bool
	for i := range c.Have {
		turn := c.classOf(c.Have[i].Evidence)
		if !seen[turn] {
			seen[turn] = true
			r.order = append(r.order, orderedCandidate{c, c.Since.Unix(), turn})
		}
	}
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
		// The status does not show an address that is only recorded.
		if h.Evidence != Recorded && !r.holdsAddr(c, h.Addr) {
			a := &r.assignments[c.index]
			a.GivesUp = append(a.GivesUp, h.Addr)
			r.markLosing(h.Addr)
		}
	}
}

// markLosing records that a status shows the address until the assignment is written.
func (r *run) markLosing(addr netip.Addr) {
	if r.losing == nil {
		r.losing = map[netip.Addr]bool{}
	}
	r.losing[addr] = true
}

func (r *run) isTraced(c *candidate) bool { return r.traced != nil && c.Key == *r.traced }
