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

// keepHeld assigns the addresses that requests have already to their holders, those
// with the strongest evidence first. It adopts the addresses that another
// implementation assigned, unless refuseAdoption has a reason.
func (r *run) keepHeld() {
	for _, c := range r.order {
		switch c.turn {
		case strangerClass, deletedClass:
			r.reserveForeign(c.candidate)
		case shownClass:
			// Every address that must not be adopted has its owner by now.
			why := r.refuseAdoption(c.candidate)
			if why == nil {
				r.keepAll(c.candidate, c.turn)
			} else if !c.hasEvidence() {
				// The status is left to the controller that wrote it. Its addresses
				// are not assigned to others while it shows them.
				c.addMissing(why)
				r.reserveForeign(c.candidate)
			}
		default:
			r.keepAll(c.candidate, c.turn)
		}
	}
}

// hasEvidence reports whether the controller assigned any address to the request, so
// that it writes the status.
func (c *candidate) hasEvidence() bool {
	return slices.ContainsFunc(c.Have, func(h Have) bool { return h.Evidence != Shown })
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

// keepAll keeps the candidate's addresses of the class that it may keep, with their
// roles, also if those of two have different evidence. Where it now requests the
// leaving one of two, it exchanges the roles.
func (r *run) keepAll(c *candidate, turn holderClass) {
	for _, leaving := range []bool{false, true} { // the replacement before the address that it replaces
		for _, h := range c.Have {
			if h.Leaving == leaving && c.classOf(h.Evidence) == turn {
				r.keepAddr(c, h)
			}
		}
	}
	for f := range c.leaving {
		if c.leaving[f] == 0 {
			continue
		}
		if c.wasReplaced(r.heldOf(c, f).Addr) && !c.wasReplaced(r.leavingOf(c, f).Addr) {
			r.swapRoles(c, f)
		}
		if !c.Frozen && !r.isSatisfied(c, c.held[f]) && r.isSatisfied(c, c.leaving[f]) {
			r.swapRoles(c, f) // the leaving address is requested again
		}
	}
}

func (r *run) swapRoles(c *candidate, f int) {
	c.held[f], c.leaving[f] = c.leaving[f], c.held[f]
	r.heldOf(c, f).Leaving, r.leavingOf(c, f).Leaving = false, true
}

// wasReplaced reports whether the address of Have was replaced by another one.
func (c *candidate) wasReplaced(addr netip.Addr) bool {
	return slices.ContainsFunc(c.Have, func(h Have) bool { return h.Addr == addr && h.Leaving })
}

// recordsReplacement reports whether the address was replaced by one that the status
// has lost, and that can be assigned again.
func (r *run) recordsReplacement(c *candidate, replaced Have) bool {
	return replaced.Leaving && slices.ContainsFunc(c.Have, func(h Have) bool {
		return h.Evidence == Recorded && !h.Leaving && FamilyOf(h.Addr) == FamilyOf(replaced.Addr) && !slices.Contains(c.Release, h.Addr) &&
			!r.isBlocked(c, h.Addr) && r.mayKeep(c, h, r.sourceContaining(h.Addr, h.Pool))
	})
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
	// What another controller has written is not kept alongside an address of ours.
	if *place > 0 && (c.Renumber || c.Frozen) && h.Evidence != Shown {
		place = &c.leaving[f]
	}
	if !wanted || *place > 0 || r.heldOf(c, f).Addr == h.Addr || r.isBlocked(c, h.Addr) {
		return
	}
	s := r.sourceContaining(h.Addr, h.Pool)
	// Without Renumber, only one of an address and its replacement is kept.
	if !r.mayKeep(c, h, s) || !c.Renumber && !c.Frozen && r.recordsReplacement(c, h) {
		return
	}
	held := r.heldFrom(c, s, h)
	held.Leaving = place == &c.leaving[f]
	*place = int32(len(r.held))
	r.held = append(r.held, held)
	r.takeAddr(c, h.Addr, s)
	if r.isTraced(c) {
		r.trace = append(r.trace, TraceEntry{family, held.Pool, true, fmt.Sprintf(keptBecause[h.Evidence], h.Addr)})
	}
}

// keptBecause are the entries of the trace for kept addresses, by evidence.
var keptBecause = [...]string{
	RecordedAndShown:  "holds %s and keeps it",
	Recorded:          "is recorded as the holder of %s, and is assigned it again",
	ShownByController: "shows %s, which the controller has written, and keeps it",
	Shown:             "shows %s, and is assigned it",
}

// mayKeep reports whether the evidence for a free address of the source s, which may
// be nil, is sufficient. refuseAdoption decides about addresses that are only shown.
func (r *run) mayKeep(c *candidate, h Have, s *poolSource) bool {
	switch h.Evidence {
	case Recorded:
		// Tenants can forge a record where no admission policy prevents it.
		return s != nil && c.isSelectedBy(s.Name) && s.usedBy(h.Addr) == "" && r.never[h.Addr] == ""
	case ShownByController:
		return r.never[h.Addr] == "" && (s == nil || s.usedBy(h.Addr) == "")
	}
	return true
}

// isSelectedBy reports whether the pool selects the candidate.
func (c *candidate) isSelectedBy(pool string) bool {
	return slices.Contains(c.Pools, pool) || slices.Contains(c.Selected, pool)
}

// heldFrom returns the record of a kept address that the source s contains, nil if no
// pool does. The record follows an address to the pool that contains it and selects
// the candidate, if that is advertised: pools can be renamed, split and merged. The
// speakers choose the pool of an announcement by the same rule (config.PoolIndex).
func (r *run) heldFrom(c *candidate, s *poolSource, h Have) Held {
	held := Held{Addr: h.Addr, Pool: h.Pool}
	// The recorded pool is kept even without its ranges: advertisements select an
	// address by it, so that the address stays announced.
	if s == nil {
		held.OutOfPool = true
		// The record was dropped, and only one pool can have been in it.
		if h.Pool == "" && len(c.Pools) == 1 {
			held.Pool = c.Pools[0]
		}
		return held
	}
	if h.Pool != s.Name && r.followsPool(c, s, h.Addr, h.Pool) {
		held.Pool = s.Name
	}
	held.OutOfPool = held.Pool != s.Name
	held.Unselected = !held.OutOfPool && c.barredFrom(s.Name)
	return held
}

// followsPool reports whether the record of an address changes from the recorded pool
// to the source, which contains it.
func (r *run) followsPool(c *candidate, s *poolSource, addr netip.Addr, recorded string) bool {
	switch {
	case recorded == "":
		return true
	// The labels of the namespace are not known yet.
	case len(c.Pools)+len(c.Barred) == 0:
		return false
	// The pool that the candidate requests stays recorded. Otherwise, an edit of pools
	// would make the request unsatisfied, and move the address.
	case c.Pinned && slices.Contains(c.Pools, recorded) && c.isSelectedBy(s.Name):
		return false
	case c.isSelectedBy(s.Name):
		asked, asks := c.requestedAddr(FamilyOf(addr))
		// Without an advertisement, the address would be withdrawn.
		return s.Advertised || c.Pinned && slices.Contains(c.Pools, s.Name) || asks && asked == addr
	}
	// A pool that neither contains the address nor selects the candidate may have
	// been forged.
	return r.byName[recorded] != nil && !c.isSelectedBy(recorded)
}

// barredFrom searches the shorter list first, because no pool is in both.
func (c *candidate) barredFrom(pool string) bool {
	if len(c.Pools) < len(c.Barred) && slices.Contains(c.Pools, pool) {
		return false
	}
	return slices.Contains(c.Barred, pool)
}

// refuseAdoption returns why addresses that only the status shows cannot be kept. They
// are kept all or none, unless the controller assigned others to the request.
func (r *run) refuseAdoption(c *candidate) *Missing {
	var seen [2]bool
	for _, h := range c.Have {
		if h.Evidence != Shown || slices.Contains(c.Release, h.Addr) {
			continue // released by an administrator
		}
		f, why := FamilyOf(h.Addr), ""
		s := r.sourceContaining(h.Addr, h.Pool)
		switch {
		case r.never[h.Addr] != "":
			why = r.never[h.Addr]
		case s == nil:
			why = "is not in any pool"
		case r.isBlocked(c, h.Addr):
			names, _ := r.blockersOf(c, h.Addr)
			why = "is assigned to " + names
		case s.usedBy(h.Addr) != "":
			why = s.usedBy(h.Addr)
		case !c.isSelectedBy(s.Name):
			why = fmt.Sprintf("is in pool %s, which does not select this Service", s.Name)
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
