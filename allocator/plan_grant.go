package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// asked is the address of the family that the claimant asks for by name.
func (c *claimant) asked(f Family) (netip.Addr, bool) {
	for _, a := range c.Addrs {
		if FamilyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// satisfied reports whether the claimant needs no other address in place of h.
func (r *run) satisfied(c *claimant, h Held) bool {
	if addr, asks := c.asked(FamilyOf(h.Addr)); asks {
		return h.Addr == addr
	}
	if c.Pinned && !slices.Contains(c.Pools, h.Pool) && !slices.Contains(c.Barred, h.Pool) {
		return false
	}
	if !c.Renumber {
		return true
	}
	s := r.sources[h.Pool]
	return !h.OutOfPool && !h.Unselected && s != nil && !s.Closed
}

// settle lets the two addresses of a renumbering change roles where the request
// asks for the one that was leaving.
func (r *run) settle(c *claimant, f int) {
	held, leaving := &c.held[f], &c.leaving[f]
	if leaving.Addr.IsValid() && !r.satisfied(c, *held) && r.satisfied(c, *leaving) {
		*held, *leaving = *leaving, *held
		held.Leaving, leaving.Leaving = false, true
	}
}

// grantByName is the second pass: an address that the claimant asks for.
func (r *run) grantByName(c *claimant, w Want) {
	f := slot(w.Family)
	addr, asks := c.asked(w.Family)
	if !asks || c.held[f].Addr == addr {
		return
	}
	w.Optional = false // it was asked for
	s := r.container(addr)
	reason, message := c.unfit(s, addr)
	if other, why := r.inTheWay(c, addr); other != nil {
		if reason == "" {
			r.queue.forAddr(addr, &refused{claimant: c, Want: w, byName: true})
		}
		reason, message = v1alpha1.AddressTaken, c.beside(other, addr, why)
	}
	if reason == "" {
		r.grant(c, w, s, addr)
		return
	}
	r.say(c, Verdict{w.Family, "", false, message})
	c.refuse(w, reason, message)
}

// beside says whose the address is, and why the claimant cannot hold it too, if
// either of them shares at all.
func (c *claimant) beside(other *claimant, addr netip.Addr, why string) string {
	message := fmt.Sprintf("%s belongs to Service %s", addr, other.Key)
	if why != "" && (c.Share.Key != "" || other.Share.Key != "") {
		message += ": " + why
	}
	return message
}

// unfit says why the claimant may not have the address of the source, whoever
// holds it; "" if it may.
func (c *claimant) unfit(s *source, addr netip.Addr) (v1alpha1.Reason, string) {
	switch {
	case slices.Contains(c.Release, addr):
		return v1alpha1.ConflictingRequest, fmt.Sprintf("%s is asked for, and shall be released", addr)
	case s == nil:
		return v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in none of the pools that this Service may use%s", addr, listed(c.Pools))
	case !slices.Contains(c.Pools, s.Name) && c.Pinned:
		return v1alpha1.ConflictingRequest, fmt.Sprintf("%s is in pool %s, but the Service asks for pool %s", addr, s.Name, strings.Join(slices.Concat(c.Pools, c.Barred), ", "))
	case !slices.Contains(c.Pools, s.Name):
		return v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in pool %s, which does not select this Service", addr, s.Name)
	case s.Closed:
		return v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in pool %s, which is being deleted", addr, s.Name)
	case s.whyNot(addr) != "":
		return v1alpha1.AddressReserved, fmt.Sprintf("%s %s", addr, s.whyNot(addr))
	}
	return "", ""
}

// grantAny is the third pass: an address that the claimant may share, or the
// lowest free one of the most preferred pool.
func (r *run) grantAny(c *claimant, w Want) {
	f := slot(w.Family)
	if _, asks := c.asked(w.Family); asks {
		return // it got its address by name, or was told why not
	}
	if have := c.held[f]; have.Addr.IsValid() && r.satisfied(c, have) {
		return
	}
	if r.join(c, w) {
		return
	}
	reason, why := v1alpha1.NoMatchingPool, []string(nil)
	o := &refused{claimant: c, Want: w}
	no := func(pool, message string) {
		why = append(why, message)
		r.say(c, Verdict{w.Family, pool, false, message})
	}
	for _, name := range c.Pools {
		s := r.sources[name]
		if message := s.refuses(c, name, w.Family); message != "" {
			no(name, message)
			continue
		}
		if addr, ok := r.lowestFree(s, f, c.Release); ok {
			r.grant(c, w, s, addr)
			return
		}
		r.queue.forPool(s, o)
		reason = v1alpha1.PoolExhausted
		message := fmt.Sprintf("pool %s has no free %s address", name, w.Family)
		if _, others := r.joinable(c, s, f); others != "" {
			message += ", and " + others
		}
		no(name, message)
	}
	for _, name := range c.Barred {
		no(name, fmt.Sprintf("pool %s does not select this Service", name))
	}
	if len(why) == 0 {
		no("", "there is no IPAddressPool that this Service may use")
	}
	c.refuse(w, reason, strings.Join(why, "; "))
}

// join grants the claimant an address that it may share.
func (r *run) join(c *claimant, w Want) bool {
	for _, name := range c.Pools {
		s := r.sources[name]
		if s.refuses(c, name, w.Family) != "" {
			continue
		}
		if addr, _ := r.joinable(c, s, slot(w.Family)); addr.IsValid() {
			r.grant(c, w, s, addr)
			return true
		}
	}
	return false
}

// refuses says why the pool of the name gives the claimant nothing of the
// family, "" if it does not refuse.
func (s *source) refuses(c *claimant, name string, f Family) string {
	switch {
	case s == nil:
		return fmt.Sprintf("pool %s does not exist", name)
	case !s.Auto && !c.Pinned:
		return fmt.Sprintf("pool %s has autoAssign: false", name)
	case s.Closed:
		return fmt.Sprintf("pool %s is being deleted", name)
	case len(s.ranges[slot(f)]) == 0:
		return fmt.Sprintf("pool %s has no %s addresses", name, f)
	}
	return ""
}

func (r *run) grant(c *claimant, w Want, s *source, addr netip.Addr) {
	f := slot(w.Family)
	message := "gives " + addr.String()
	switch old := c.held[f]; {
	case !old.Addr.IsValid():
	case c.third(f):
		c.refuse(w, v1alpha1.Renumbering, fmt.Sprintf("%s is free for it, but %s has not been released yet, and a third address is not given", addr, c.leaving[f].Addr))
		return
	case c.Renumber:
		message = fmt.Sprintf("gives %s beside %s", addr, old.Addr)
		old.Leaving = true
		c.leaving[f] = old
	default:
		message = fmt.Sprintf("gives %s in place of %s", addr, old.Addr)
		r.release(c, old.Addr)
	}
	r.take(c, addr)
	c.held[f], c.missing[f] = Held{Addr: addr, Pool: s.Name}, nil
	r.say(c, Verdict{w.Family, s.Name, true, message})
}

// third reports whether another address of the family would be the third.
func (c *claimant) third(f int) bool {
	return c.Renumber && c.held[f].Addr.IsValid() && c.leaving[f].Addr.IsValid()
}

// release frees an address, or leaves it to who shows it too.
func (r *run) release(c *claimant, addr netip.Addr) {
	r.queue.moved = true
	r.queue.freed = append(r.queue.freed, addr)
	s := r.container(addr)
	if c.Share.Key != "" {
		r.table(c.Share.Key, s, slot(FamilyOf(addr))).full = nil // there may be room now
	}
	if !r.drop(c, addr) {
		return
	}
	if other := r.foreign[addr]; other != nil {
		r.owners[addr] = other
	} else if s != nil {
		s.free(addr)
	}
}

func (c *claimant) refuse(w Want, reason v1alpha1.Reason, message string) {
	if old := c.held[slot(w.Family)].Addr; old.IsValid() {
		message += fmt.Sprintf("; %s is kept until then", old)
	}
	c.missing[slot(w.Family)] = &Missing{w.Family, v1alpha1.Refusal{Reason: reason, Message: message}, w.Optional}
}

func (r *run) say(c *claimant, v Verdict) {
	if r.watched != nil && c.Key == *r.watched {
		r.verdicts = append(r.verdicts, v)
	}
}

func listed(names []string) string {
	if len(names) == 0 {
		return ": there is none"
	}
	return " (" + strings.Join(names, ", ") + ")"
}
