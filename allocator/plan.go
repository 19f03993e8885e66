package allocator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// claimant is a request while its assignment is being decided.
type claimant struct {
	*Request
	held    [2]Held // by slot; no Addr: none
	missing [2]*Refusal
}

// slot is the place of a family in a claimant's and a source's arrays.
func slot(f Family) int {
	if f == IPv4 {
		return 0
	}
	return 1
}

func (c *claimant) wants(f Family) bool {
	return slices.ContainsFunc(c.Families, func(w Want) bool { return w.Family == f })
}

// source is a pool while addresses are taken from it.
type source struct {
	*Pool
	ranges [2][]netipx.IPRange
	next   [2]netip.Addr // every address of the pool below it is owned
}

// run is one decision over all pools and requests.
type run struct {
	sources   map[string]*source
	order     []*source   // as the pools came
	claimants []*claimant // oldest first
	owners    map[netip.Addr]*claimant
	waiting   map[netip.Addr]*claimant // shows the address too, in a status that is not ours to write
	freed     bool                     // an address changed hands since the flag was cleared
	watch     func(*claimant, Verdict)
}

func newRun(pools []Pool, requests []Request, watch func(*claimant, Verdict)) *run {
	r := &run{
		sources: make(map[string]*source, len(pools)),
		owners:  make(map[netip.Addr]*claimant, len(requests)),
		waiting: make(map[netip.Addr]*claimant),
		watch:   watch,
	}
	for i := range pools {
		s := &source{Pool: &pools[i]}
		for _, rng := range s.Ranges {
			f := slot(FamilyOf(rng.From()))
			s.ranges[f] = append(s.ranges[f], rng)
		}
		for f, ranges := range s.ranges {
			if len(ranges) > 0 {
				s.next[f] = ranges[0].From()
			}
		}
		r.sources[s.Name] = s
		r.order = append(r.order, s)
	}
	r.claimants = make([]*claimant, len(requests))
	for i := range requests {
		r.claimants[i] = &claimant{Request: &requests[i]}
	}
	slices.SortFunc(r.claimants, func(a, b *claimant) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Key.Namespace, b.Key.Namespace), strings.Compare(a.Key.Name, b.Key.Name))
	})
	return r
}

func (r *run) allocate() map[types.NamespacedName]Assignment {
	r.keep()
	for {
		r.freed = false
		r.each((*run).grantByName)
		r.each((*run).grantAny)
		if !r.freed {
			break // otherwise whoever was refused before asks again, the oldest first
		}
	}
	result := make(map[types.NamespacedName]Assignment, len(r.claimants))
	for _, c := range r.claimants {
		var a Assignment
		for f := range c.held {
			if c.held[f].Addr.IsValid() {
				a.Held = append(a.Held, c.held[f])
			}
			if c.missing[f] != nil {
				a.Missing = append(a.Missing, *c.missing[f])
			}
		}
		result[c.Key] = a
	}
	return result
}

// keep is the first pass: owners before adopters, so that nobody loses an
// address to a newcomer. What is left of the addresses that anybody shows is
// nobody's to give.
func (r *run) keep() {
	for _, standing := range []Standing{Owner, Adopter} {
		for _, c := range r.claimants {
			if c.Standing == standing {
				r.keepOne(c)
			}
		}
	}
	for _, c := range r.claimants {
		if c.served() {
			continue
		}
		for _, h := range c.Have {
			if r.owners[h.Addr] == nil {
				r.owners[h.Addr] = c
			} else if r.waiting[h.Addr] == nil {
				r.waiting[h.Addr] = c
			}
		}
	}
}

// served reports whether the claimant's status is ours to write.
func (c *claimant) served() bool {
	refused := slices.ContainsFunc(c.missing[:], func(m *Refusal) bool { return m != nil && m.Reason == v1alpha1.ForeignStatus })
	return c.Standing != Stranger && !refused
}

func (r *run) keepOne(c *claimant) {
	if c.Standing == Adopter {
		if refusal := r.unadoptable(c); refusal != nil {
			c.missing[slot(refusal.Family)] = refusal
			return
		}
	}
	for _, h := range c.Have {
		f := slot(FamilyOf(h.Addr))
		wanted := c.Frozen || c.wants(FamilyOf(h.Addr))
		if !wanted || r.owners[h.Addr] != nil || c.held[f].Addr.IsValid() {
			continue
		}
		held := Held{Addr: h.Addr, Pool: h.Pool}
		if s := r.container(h.Addr); s == nil {
			held.OutOfPool = true
		} else if held.Pool == "" {
			held.Pool = s.Name
		}
		r.owners[h.Addr], c.held[f] = c, held
		r.say(c, Verdict{FamilyOf(h.Addr), held.Pool, true, fmt.Sprintf("holds %s and keeps it", h.Addr)})
	}
}

// unadoptable says why the adopter's addresses cannot be taken over as they
// are: all of them, or none.
func (r *run) unadoptable(c *claimant) *Refusal {
	var seen [2]bool
	for _, h := range c.Have {
		f, why := FamilyOf(h.Addr), ""
		switch s, o := r.container(h.Addr), r.owners[h.Addr]; {
		case s == nil:
			why = "is in no pool"
		case o != nil:
			why = fmt.Sprintf("belongs to Service %s", o.Key)
		case !c.wants(f) || seen[slot(f)]:
			why = fmt.Sprintf("is more than the one %s address that the Service asks for", f)
		}
		if why != "" {
			return &Refusal{f, v1alpha1.ForeignStatus, fmt.Sprintf("the status holds %s, which %s: it is left to whoever wrote it", h.Addr, why)}
		}
		seen[slot(f)] = true
	}
	return nil
}

// each calls grant for every claimant that may get something new, oldest
// first, and every family it wants, until an address changes hands.
func (r *run) each(grant func(*run, *claimant, Want)) {
	for _, c := range r.claimants {
		if c.Frozen || !c.served() {
			continue
		}
		for _, w := range c.Families {
			if r.freed {
				return
			}
			grant(r, c, w)
		}
	}
}

// grantByName is the second pass: an address that the claimant asks for.
func (r *run) grantByName(c *claimant, w Want) {
	f := slot(w.Family)
	i := slices.IndexFunc(c.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == w.Family })
	if i < 0 || c.held[f].Addr == c.Addrs[i] {
		return
	}
	addr := c.Addrs[i]
	no := func(reason v1alpha1.Reason, message string) {
		r.say(c, Verdict{w.Family, "", false, message})
		r.refuse(c, w, reason, message)
	}
	if o := r.owners[addr]; o != nil {
		no(v1alpha1.AddressTaken, fmt.Sprintf("%s belongs to Service %s", addr, o.Key))
		return
	}
	for _, name := range c.Pools {
		if s := r.sources[name]; s != nil && !s.Closed && s.contains(addr) {
			r.grant(c, w, s, addr)
			return
		}
	}
	if s := r.container(addr); s != nil && s.Closed {
		no(v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in pool %s, which is being deleted", addr, s.Name))
		return
	}
	no(v1alpha1.AddressNotInPool, fmt.Sprintf("%s is in none of the pools that this Service may use%s", addr, listed(c.Pools)))
}

// grantAny is the third pass: the lowest free address of the most preferred pool.
func (r *run) grantAny(c *claimant, w Want) {
	f := slot(w.Family)
	if slices.ContainsFunc(c.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == w.Family }) {
		return // it got its address by name, or was told why not
	}
	if have := c.held[f]; have.Addr.IsValid() && (!c.Pinned || slices.Contains(c.Pools, have.Pool)) {
		return
	}
	reason, why := v1alpha1.NoMatchingPool, []string(nil)
	for _, name := range c.Pools {
		s := r.sources[name]
		message := ""
		switch {
		case s == nil:
			message = fmt.Sprintf("pool %s does not exist", name)
		case !s.Auto && !c.Pinned:
			message = fmt.Sprintf("pool %s has autoAssign: false", name)
		case s.Closed:
			message = fmt.Sprintf("pool %s is being deleted", name)
		case len(s.ranges[f]) == 0:
			message = fmt.Sprintf("pool %s has no %s addresses", name, w.Family)
		default:
			if addr, ok := r.lowestFree(s, f); ok {
				r.grant(c, w, s, addr)
				return
			}
			reason, message = v1alpha1.PoolExhausted, fmt.Sprintf("pool %s has no free %s address", name, w.Family)
		}
		why = append(why, message)
		r.say(c, Verdict{w.Family, name, false, message})
	}
	if len(why) == 0 {
		why = []string{"there is no IPAddressPool that this Service may use"}
		r.say(c, Verdict{w.Family, "", false, why[0]})
	}
	if !w.Optional {
		r.refuse(c, w, reason, strings.Join(why, "; "))
	}
}

// lowestFree moves the source's mark past owned addresses; it never walks over
// the same address twice unless one below the mark became free.
func (r *run) lowestFree(s *source, f int) (netip.Addr, bool) {
	for _, rng := range s.ranges[f] {
		if !s.next[f].IsValid() {
			break
		}
		if s.next[f].Less(rng.From()) {
			s.next[f] = rng.From()
		}
		for rng.Contains(s.next[f]) {
			if r.owners[s.next[f]] == nil {
				return s.next[f], true
			}
			s.next[f] = s.next[f].Next() // not valid behind the last address of the family
		}
	}
	return netip.Addr{}, false
}

func (r *run) grant(c *claimant, w Want, s *source, addr netip.Addr) {
	f := slot(w.Family)
	message := "gives " + addr.String()
	if old := c.held[f].Addr; old.IsValid() {
		message = fmt.Sprintf("gives %s in place of %s", addr, old)
		r.release(old)
	}
	r.owners[addr], c.held[f], c.missing[f] = c, Held{Addr: addr, Pool: s.Name}, nil
	r.say(c, Verdict{w.Family, s.Name, true, message})
}

// release frees an address, or leaves it to who shows it too.
func (r *run) release(addr netip.Addr) {
	r.freed = true
	if c := r.waiting[addr]; c != nil {
		r.owners[addr] = c
		return
	}
	delete(r.owners, addr)
	f := slot(FamilyOf(addr))
	if s := r.container(addr); s != nil && (!s.next[f].IsValid() || addr.Less(s.next[f])) {
		s.next[f] = addr
	}
}

func (r *run) refuse(c *claimant, w Want, reason v1alpha1.Reason, message string) {
	if old := c.held[slot(w.Family)].Addr; old.IsValid() {
		message += fmt.Sprintf("; %s is kept until then", old)
	}
	c.missing[slot(w.Family)] = &Refusal{w.Family, reason, message}
}

func (r *run) say(c *claimant, v Verdict) {
	if r.watch != nil {
		r.watch(c, v)
	}
}

// container is the pool that contains the address, whoever may use it.
func (r *run) container(addr netip.Addr) *source {
	for _, s := range r.order {
		if s.contains(addr) {
			return s
		}
	}
	return nil
}

func (s *source) contains(addr netip.Addr) bool {
	ranges := s.ranges[slot(FamilyOf(addr))]
	i, found := slices.BinarySearchFunc(ranges, addr, func(r netipx.IPRange, a netip.Addr) int { return r.From().Compare(a) })
	return found || i > 0 && ranges[i-1].Contains(addr)
}

func listed(names []string) string {
	if len(names) == 0 {
		return ": there is none"
	}
	return " (" + strings.Join(names, ", ") + ")"
}
