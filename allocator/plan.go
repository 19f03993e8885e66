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

// claimant is a request while its assignment is being decided.
type claimant struct {
	*Request
	rank    int     // by age
	held    [2]Held // by slot; no Addr: none
	leaving [2]Held
	missing [2]*Missing
	givesUp []netip.Addr
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

// run is one decision over all pools and requests.
type run struct {
	sources   map[string]*source
	order     []*source // as the pools came
	spans     [2][]span // of all sources, sorted
	claimants []claimant
	byAge     []*claimant // oldest first
	owners    map[netip.Addr]*claimant
	sharers   map[netip.Addr][]*claimant // beside the owner
	tables    map[place]*table
	foreign   map[netip.Addr]*claimant // shows the address too, in a status that is not ours to write
	queue     queue
	watched   *types.NamespacedName // nil: nobody asks for verdicts
	verdicts  []Verdict
}

func newRun(pools []Pool, requests []Request) *run {
	r := &run{
		sources: make(map[string]*source, len(pools)),
		owners:  make(map[netip.Addr]*claimant, len(requests)),
		sharers: make(map[netip.Addr][]*claimant),
		tables:  make(map[place]*table),
		foreign: make(map[netip.Addr]*claimant),
	}
	for i := range pools {
		s := newSource(&pools[i])
		r.sources[s.Name] = s
		r.order = append(r.order, s)
		for f, ranges := range s.ranges {
			for _, rng := range ranges {
				r.spans[f] = append(r.spans[f], span{rng, s})
			}
		}
	}
	for f := range r.spans {
		slices.SortFunc(r.spans[f], func(a, b span) int { return a.From().Compare(b.From()) })
	}
	r.claimants = make([]claimant, len(requests))
	r.byAge = make([]*claimant, len(requests))
	for i := range requests {
		r.claimants[i].Request = &requests[i]
		r.byAge[i] = &r.claimants[i]
	}
	slices.SortFunc(r.byAge, func(a, b *claimant) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Key.Namespace, b.Key.Namespace), strings.Compare(a.Key.Name, b.Key.Name))
	})
	for i, c := range r.byAge {
		c.rank = i
	}
	return r
}

func (r *run) allocate() []Assignment {
	r.keep()
	for _, c := range r.byAge {
		c.notice()
	}
	kept := len(r.verdicts)
	for moved := true; moved; moved = r.queue.moved { // what was refused before a move may be told wrongly
		r.queue, r.verdicts = queue{}, r.verdicts[:kept]
		r.each((*run).grantByName)
		r.each((*run).grantAny)
	}
	for _, c := range r.byAge {
		r.mourn(c)
	}
	result := make([]Assignment, len(r.claimants))
	for i := range r.claimants {
		result[i] = r.claimants[i].assignment()
	}
	return result
}

func (c *claimant) assignment() (a Assignment) {
	for f := range c.held {
		for _, h := range []Held{c.leaving[f], c.held[f]} {
			if h.Addr.IsValid() {
				a.Held = append(a.Held, h)
			}
		}
		if c.missing[f] != nil {
			a.Missing = append(a.Missing, *c.missing[f])
		}
	}
	for i := range a.Missing {
		a.Missing[i].Optional = a.Missing[i].Optional && len(a.Held) > 0 // without any address it is a failure
	}
	a.GivesUp = c.givesUp
	return a
}

// notice notes what the claimant shows and has not been let keep.
func (c *claimant) notice() {
	if !c.served() {
		return
	}
	for _, h := range c.Have {
		if !c.holds(h.Addr) {
			c.givesUp = append(c.givesUp, h.Addr)
		}
	}
}

// mourn says what a frozen claimant has lost to whom. It asks for nothing else.
func (r *run) mourn(c *claimant) {
	for _, a := range c.givesUp {
		other, why := r.inTheWay(c, a)
		if f := FamilyOf(a); c.Frozen && c.wants(f) && other != nil {
			c.missing[slot(f)] = &Missing{Family: f, Refusal: v1alpha1.Refusal{Reason: v1alpha1.AddressTaken, Message: c.beside(other, a, why)}}
		}
	}
}

// keep is the first pass: owners before adopters, so that nobody loses an
// address to a newcomer, and of owners first those who hold what they have as
// before: whoever asks to share it differently asks for something new. What
// strangers show nobody adopts, and what is left of the addresses that anybody
// shows is nobody's to give.
func (r *run) keep() {
	for _, turn := range []struct {
		do  func(*claimant)
		who func(*claimant) bool
	}{
		{r.keepOne, func(c *claimant) bool { return c.Standing == Owner && !c.Departed }},
		{r.keepOne, func(c *claimant) bool { return c.Standing == Owner && c.Departed }},
		{r.leave, func(c *claimant) bool { return c.Standing == Stranger }},
		{r.adopt, func(c *claimant) bool { return c.Standing == Adopter }},
	} {
		for _, c := range r.byAge {
			if turn.who(c) {
				turn.do(c)
			}
		}
	}
}

// adopt takes over what an adopter shows, or leaves it alone.
func (r *run) adopt(c *claimant) {
	if refusal := r.unadoptable(c); refusal != nil {
		c.missing[slot(refusal.Family)] = refusal
		r.leave(c)
		return
	}
	r.keepOne(c)
}

// leave notes what a status shows that is not ours to write.
func (r *run) leave(c *claimant) {
	for _, h := range c.Have {
		if r.owners[h.Addr] == nil {
			r.owners[h.Addr] = c
		} else if r.foreign[h.Addr] == nil {
			r.foreign[h.Addr] = c
		}
	}
}

// served reports whether the claimant's status is ours to write.
func (c *claimant) served() bool {
	foreign := func(m *Missing) bool { return m != nil && m.Reason == v1alpha1.ForeignStatus }
	return c.Standing != Stranger && !foreign(c.missing[0]) && !foreign(c.missing[1])
}

func (r *run) keepOne(c *claimant) {
	for _, leaving := range []bool{false, true} { // of two, the one that replaced the other comes first
		for _, h := range c.Have {
			if h.Leaving == leaving {
				r.keepAddr(c, h)
			}
		}
	}
	for f := range c.leaving {
		if c.leaving[f].Addr.IsValid() && !c.Frozen {
			r.settle(c, f)
		}
	}
}

func (r *run) keepAddr(c *claimant, h Have) {
	f := slot(FamilyOf(h.Addr))
	wanted := (c.Frozen || c.wants(FamilyOf(h.Addr))) && !slices.Contains(c.Release, h.Addr)
	place := &c.held[f]
	if place.Addr.IsValid() && (c.Renumber || c.Frozen) {
		place = &c.leaving[f]
	}
	if !wanted || place.Addr.IsValid() || c.held[f].Addr == h.Addr {
		return
	}
	if other, _ := r.inTheWay(c, h.Addr); other != nil {
		return
	}
	*place = r.heldBy(c, h)
	place.Leaving = place == &c.leaving[f]
	r.take(c, h.Addr)
	if r.watched != nil { // most of all Services come by here
		r.say(c, Verdict{FamilyOf(h.Addr), place.Pool, true, fmt.Sprintf("holds %s and keeps it", h.Addr)})
	}
}

// heldBy says to which pool a kept address belongs: the recorded one, whatever
// that contains today, unless the claimant asks for the pool that contains it.
func (r *run) heldBy(c *claimant, h Have) Held {
	held := Held{Addr: h.Addr, Pool: h.Pool}
	s := r.container(h.Addr)
	if s == nil {
		held.OutOfPool = true
		return held
	}
	asked, asks := c.asked(FamilyOf(h.Addr))
	asksForIt := !c.Frozen && !s.Closed && (asks && asked == h.Addr || c.Pinned) && slices.Contains(c.Pools, s.Name)
	if held.Pool == "" || asksForIt {
		held.Pool = s.Name
	}
	held.OutOfPool = held.Pool != s.Name
	held.Unselected = !held.OutOfPool && slices.Contains(c.Barred, s.Name)
	return held
}

// unadoptable says why the adopter's addresses cannot be taken over as they
// are: all of them, or none.
func (r *run) unadoptable(c *claimant) *Missing {
	var seen [2]bool
	for _, h := range c.Have {
		if slices.Contains(c.Release, h.Addr) {
			continue // somebody who may has said that it shall go
		}
		f, why := FamilyOf(h.Addr), ""
		other, _ := r.inTheWay(c, h.Addr)
		switch {
		case r.container(h.Addr) == nil:
			why = "is in no pool"
		case other != nil:
			why = fmt.Sprintf("belongs to Service %s", other.Key)
		case !c.wants(f) || seen[slot(f)]:
			why = fmt.Sprintf("is more than the one %s address that the Service asks for", f)
		}
		if why != "" {
			return &Missing{Family: f, Refusal: v1alpha1.Refusal{Reason: v1alpha1.ForeignStatus, Message: fmt.Sprintf("the status holds %s, which %s: it is left to whoever wrote it", h.Addr, why)}}
		}
		seen[slot(f)] = true
	}
	return nil
}

// each calls ask for every claimant that may get something new, oldest first,
// and every family it wants. What becomes free serves those first who were
// refused before.
func (r *run) each(ask func(*run, *claimant, Want)) {
	for _, c := range r.byAge {
		if c.Frozen || !c.served() {
			continue
		}
		for _, w := range c.Families {
			ask(r, c, w)
			r.serve()
		}
	}
}
