// This file has the first step of Allocate: requests keep the addresses that they have,
// as far as the evidence for these allows.

package allocator

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

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
