// This file explains why pending requests were not granted. Its messages are shown
// in the condition Provisioned of a Service, so they name the objects that an
// administrator can change.

package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// maxNamed limits the number of holders, and of pools, in a message.
const maxNamed = 3

// refusePending records why no address could be granted.
func (r *run) refusePending(p *pendingRequest) {
	if r.isThird(p) {
		// If no address is available either, the ordinary reason is reported,
		// because the end of the renumbering would not help.
		if addr, s := r.findAddr(p); s != nil {
			r.addRefusal(p, v1alpha1.Renumbering, fmt.Sprintf(
				"%s is available, but %s has not been released yet, and a third address is not assigned",
				addr, r.leavingOf(p.candidate, familyIndex(p.Family)).Addr))
			return
		}
	}
	if p.byName {
		r.refuseByName(p)
	} else {
		r.refuseAny(p)
	}
}

func (r *run) refuseByName(p *pendingRequest) {
	addr, _ := p.requestedAddr(p.Family)
	reason, message := p.whyUnusable(r.sourceContaining(addr, ""), addr)
	if r.isBlocked(p.candidate, addr) {
		reason, message = v1alpha1.AddressTaken, r.taken(p.candidate, addr)
	}
	r.traceRefusal(p, "", message)
	r.addRefusal(p, reason, message)
}

// refuseAny records why no pool had an address. The reason is PoolExhausted if a
// pool could have served the request with more addresses, otherwise NoMatchingPool.
func (r *run) refuseAny(p *pendingRequest) {
	reason := v1alpha1.NoMatchingPool
	for _, s := range r.sourcesOf(p.candidate) {
		if s.servesFamily(p.candidate, familyIndex(p.Family)) {
			reason = v1alpha1.PoolExhausted
			break
		}
	}
	n := len(p.Pools) + len(p.Barred)
	var why []string
	for i := range n {
		if i == maxNamed && n > maxNamed+1 && !r.isTraced(p.candidate) {
			break
		}
		name, message := "", ""
		if i < len(p.Pools) {
			name = p.Pools[i]
			message = r.whyNone(p, name)
		} else {
			name = p.Barred[i-len(p.Pools)]
			message = fmt.Sprintf("pool %s does not select this Service", name)
		}
		r.traceRefusal(p, name, message)
		why = append(why, message)
	}
	if n == 0 {
		why = append(why, "there is no IPAddressPool for this Service")
		r.traceRefusal(p, "", why[0])
	}
	if n > maxNamed+1 {
		why = append(why[:maxNamed], fmt.Sprintf("and %d more pools", n-maxNamed))
	}
	r.addRefusal(p, reason, strings.Join(why, "; "))
}

// whyNone returns why the pool has no address for the candidate.
func (r *run) whyNone(p *pendingRequest, name string) string {
	s, f := r.byName[name], familyIndex(p.Family)
	switch {
	case s == nil:
		return fmt.Sprintf("pool %s does not exist", name)
	case !s.Auto && !p.Pinned:
		return fmt.Sprintf("pool %s has autoAssign: false", name)
	case s.Closed:
		return fmt.Sprintf("pool %s is being deleted", name)
	case len(s.ranges[f]) == 0:
		return fmt.Sprintf("pool %s has no %s addresses", name, p.Family)
	}
	message := fmt.Sprintf("pool %s has no free %s address", name, p.Family)
	if p.Share.Key == "" {
		return message
	}
	// The table contains all shared addresses of the key, on any nodes: the message
	// explains why the first of them could not be joined.
	t := r.tables[tableKey{key: p.Share.Key, source: s, family: f}]
	if t == nil {
		return message
	}
	for addr := t.addrs.next(netip.Addr{}); addr.IsValid(); addr = t.addrs.next(addr) {
		r.steps++
		if !r.holdsAddr(p.candidate, addr) && r.isBlocked(p.candidate, addr) {
			names, why := r.blockersOf(p.candidate, addr)
			return message + fmt.Sprintf(", and %s of %s cannot be shared: %s", addr, names, why)
		}
	}
	return message
}

// whyUnusable returns why the candidate must not use the address of the source, even
// if it is free; "" if it may.
func (c *candidate) whyUnusable(s *poolSource, addr netip.Addr) (v1alpha1.Reason, string) {
	switch {
	// The address would be assigned and released in turn, by every sync.
	case slices.Contains(c.Release, addr):
		return v1alpha1.ConflictingRequest, fmt.Sprintf("%s is requested, but is also to be released", addr)
	case s == nil:
		return v1alpha1.AddressNotInPool, fmt.Sprintf("%s is not in any pool that this Service may use%s", addr, listNames(c.Pools))
	case !slices.Contains(c.Pools, s.Name) && c.Pinned:
		return v1alpha1.ConflictingRequest, fmt.Sprintf("%s is in pool %s, but the Service requests pool %s",
			addr, s.Name, strings.Join(slices.Concat(c.Pools, c.Barred), ", "))
	case !slices.Contains(c.Pools, s.Name):
		return v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in pool %s, which does not select this Service", addr, s.Name)
	case s.Closed:
		return v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in pool %s, which is being deleted", addr, s.Name)
	}
	if why := s.whyNot(addr); why != "" {
		return v1alpha1.AddressReserved, fmt.Sprintf("%s %s", addr, why)
	}
	return "", ""
}

func listNames(names []string) string {
	if len(names) == 0 {
		return " (none)"
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// addRefusal records a refusal. A refused request never costs the candidate the
// address that it holds; the message names that.
func (r *run) addRefusal(p *pendingRequest, reason v1alpha1.Reason, message string) {
	if old := r.heldOf(p.candidate, familyIndex(p.Family)).Addr; old.IsValid() {
		message += fmt.Sprintf("; %s is kept until then", old)
	}
	p.addMissing(&Missing{p.Family, v1alpha1.Refusal{Reason: reason, Message: message}, p.Optional})
}

func (r *run) traceRefusal(p *pendingRequest, pool, message string) {
	if r.isTraced(p.candidate) {
		r.trace = append(r.trace, TraceEntry{p.Family, pool, false, message})
	}
}

// refuseLost records which Services hold the addresses that a frozen candidate had.
// It does not request others.
// A frozen candidate is not among the pending requests, so that this would
// otherwise remain unexplained.
func (r *run) refuseLost(c *candidate) {
	for _, a := range r.assignments[c.index].GivesUp {
		if f := FamilyOf(a); c.Frozen && c.wantsFamily(f) && r.isBlocked(c, a) {
			c.addMissing(&Missing{Family: f, Refusal: v1alpha1.Refusal{Reason: v1alpha1.AddressTaken, Message: r.taken(c, a)}})
		}
	}
}

// taken describes the holders of the address, and why the candidate cannot share it,
// if either of them shares addresses.
func (r *run) taken(c *candidate, addr netip.Addr) string {
	names, why := r.blockersOf(c, addr)
	message := fmt.Sprintf("%s is assigned to %s", addr, names)
	if why != "" {
		message += ": " + why
	}
	return message
}
