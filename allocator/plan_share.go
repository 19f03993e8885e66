// This file decides which requests can hold one address together
// (docs/adr/0012-sharing.md), and keeps the account of the holders of each address.

package allocator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Terms are the conditions under which a request shares an address with others.
type Terms struct {
	Key string // "" disables sharing
	// Cluster: packets may be sent to any node. Otherwise they may only be sent
	// to nodes with the request's own backends.
	Cluster  bool
	Backends string // identifies the pods; "" if unknown
	Ports    []Port // in the order of Compare
}

// Port is a port that a request uses on its addresses.
type Port struct {
	Protocol string
	Number   int32
}

// Compare orders ports by number, then by protocol.
func (p Port) Compare(o Port) int {
	return cmp.Or(cmp.Compare(p.Number, o.Number), strings.Compare(p.Protocol, o.Protocol))
}

// usesPort reports whether the port is one of the terms. A Service can have many
// thousands of ports.
func (t Terms) usesPort(p Port) bool {
	_, found := slices.BinarySearchFunc(t.Ports, p, Port.Compare)
	return found
}

// conflictWith returns why the two cannot share an address, "" if they can. One node
// answers for the address, so that it must be able to serve all of them.
func (t Terms) conflictWith(o Terms) string {
	switch {
	case o.Key == "" && t.Key == "":
		return "neither shares its addresses"
	// o is another Service than the one that the condition belongs to: the messages
	// are written for the owner of t.
	case o.Key == "":
		return "it does not share its addresses"
	case t.Key == "":
		return "this Service does not share its addresses"
	case t.Key != o.Key:
		return fmt.Sprintf("its key is %q, this Service's %q", o.Key, t.Key)
	// With externalTrafficPolicy Local a node serves only Services that have an
	// endpoint on it.
	case !t.sameNodes(o):
		return "with externalTrafficPolicy Local, only Services in the same namespace with the same selector can share"
	}
	for _, p := range t.Ports {
		// kube-proxy's behavior is undefined for two Services with one address and
		// port.
		if o.usesPort(p) {
			return fmt.Sprintf("both use port %d/%s", p.Number, p.Protocol)
		}
	}
	return ""
}

// sameNodes reports whether each node that may serve one may serve the other.
func (t Terms) sameNodes(o Terms) bool {
	return t.Cluster && o.Cluster || t.Backends != "" && t.Backends == o.Backends
}

// sharedGroup has the candidates that share an address.
type sharedGroup struct {
	holders  []*candidate // in the order in which they were added; some may have released it
	count    int
	ports    map[Port]*candidate
	backends map[string]int // number of holders with these
	local    int            // number of holders that are not Cluster
	// elsewhere has holders that may be served on other nodes than candidates with
	// the policy.
	elsewhere map[trafficPolicy]*candidate
}

// add makes the candidate a holder. Its ports must be unused.
func (g *sharedGroup) add(c *candidate) {
	g.holders = append(g.holders, c)
	g.adjustCounts(c, 1)
	for _, p := range c.Share.Ports {
		g.ports[p] = c
	}
}

// remove ends the candidate's part in the counts at once. The list of holders is
// cleaned later, because a search for each removal would be quadratic.
func (g *sharedGroup) remove(c *candidate) {
	g.adjustCounts(c, -1)
	for _, p := range c.Share.Ports {
		delete(g.ports, p)
	}
}

// adjustCounts counts a holder that is added (1) or removed (-1).
func (g *sharedGroup) adjustCounts(c *candidate, by int) {
	g.count += by
	if !c.Share.Cluster {
		g.local += by
	}
	// Zeros are deleted, because the number of keys shows whether all holders have
	// the same backends.
	if g.backends[c.Share.Backends] += by; g.backends[c.Share.Backends] == 0 {
		delete(g.backends, c.Share.Backends)
	}
}

// sameNodes reports whether each node that may serve all holders may serve t.
func (g *sharedGroup) sameNodes(t Terms) bool {
	return t.Cluster && g.local == 0 || t.Backends != "" && g.backends[t.Backends] == g.count
}

// isBlocked reports whether the candidate cannot hold the address, because others
// hold it or have it in their status.
func (r *run) isBlocked(c *candidate, addr netip.Addr) bool {
	owner := r.owners[addr]
	if owner == nil || owner == c {
		return false
	}
	key := c.Share.Key
	// All holders of an address have the same key, so the one of the owner is
	// enough. An address in a status that this controller does not write is never
	// assigned to another Service.
	if key == "" || key != owner.Share.Key || owner.foreign || r.foreign[addr] != nil {
		return true
	}
	if g := r.groups[addr]; g != nil {
		if !g.sameNodes(c.Share) {
			return true
		}
	} else if !c.Share.sameNodes(owner.Share) {
		return true
	}
	return slices.ContainsFunc(c.Share.Ports, func(p Port) bool { return r.userOf(addr, p) != nil })
}

// userOf returns the candidate that uses the port of a shared address.
// It returns nil if the port is free; the address must have an owner.
func (r *run) userOf(addr netip.Addr, p Port) *candidate {
	r.steps++
	if g := r.groups[addr]; g != nil {
		return g.ports[p]
	}
	if owner := r.owners[addr]; owner.Share.usesPort(p) {
		return owner
	}
	return nil
}

// blockersOf returns the names of the holders that block the candidate, and why the
// first of them does, if either of the two shares addresses.
func (r *run) blockersOf(c *candidate, addr netip.Addr) (names, why string) {
	var all []*candidate
	count := 0
	owner, g := r.owners[addr], r.groups[addr]
	switch {
	case g == nil && (owner.foreign || c.Share.conflictWith(owner.Share) != ""):
		all = []*candidate{owner}
	// The holder does not conflict, so the address is in a foreign status as well:
	// see below.
	case g == nil:
	case c.Share.Key != owner.Share.Key:
		all, count = r.holdersOf(addr, g), g.count
	case !g.sameNodes(c.Share):
		all = []*candidate{r.servedElsewhere(c, addr, g)}
	default:
		for _, p := range c.Share.Ports {
			if user := g.ports[p]; user != nil && !slices.Contains(all, user) {
				all = append(all, user)
			}
		}
	}
	// No holder conflicts with the candidate: it is blocked by the foreign status
	// that has the address.
	if len(all) == 0 {
		all = []*candidate{r.foreign[addr]}
	}
	if first := all[0]; c.Share.Key != "" || first.Share.Key != "" {
		why = c.Share.conflictWith(first.Share)
	}
	return namesOf(all, max(count, len(all))), why
}

// holdersOf returns the present holders of the address of the group.
func (r *run) holdersOf(addr netip.Addr, g *sharedGroup) []*candidate {
	if len(g.holders) > g.count {
		r.steps += len(g.holders)
		g.holders = slices.DeleteFunc(g.holders, func(c *candidate) bool { return !r.holdsAddr(c, addr) })
	}
	return g.holders
}

// trafficPolicy determines on which nodes a candidate may be served.
type trafficPolicy struct {
	cluster  bool
	backends string
}

// servedElsewhere returns a holder that may be served on other nodes than c. The
// result is cached by policy.
func (r *run) servedElsewhere(c *candidate, addr netip.Addr, g *sharedGroup) *candidate {
	at := trafficPolicy{backends: c.Share.Backends}
	if c.Share.Cluster {
		at = trafficPolicy{cluster: true} // holders that are not Cluster all have the same backends
	}
	// Many candidates with the same policy are refused for the same holder, which
	// is searched for once.
	if known := g.elsewhere[at]; known != nil && r.holdsAddr(known, addr) {
		return known
	}
	holders := r.holdersOf(addr, g)
	i := slices.IndexFunc(holders, func(o *candidate) bool {
		r.steps++
		return !c.Share.sameNodes(o.Share)
	})
	g.elsewhere[at] = holders[i]
	return holders[i]
}

// namesOf lists the first of the Services. Their count may be larger than the list.
func namesOf(all []*candidate, count int) string {
	if count == 1 {
		return "Service " + all[0].Key.String()
	}
	var names []string
	for _, c := range all[:min(maxNamed, len(all))] {
		names = append(names, c.Key.String())
	}
	list := "Services " + strings.Join(names, ", ")
	if count > maxNamed {
		list += fmt.Sprintf(" … and %d more", count-maxNamed)
	}
	return list
}

// takeAddr makes c a holder of the address, alongside those that share it.
// The caller has recorded the address for c, or c is foreign. s is the pool that
// contains the address, nil if none does.
func (r *run) takeAddr(c *candidate, addr netip.Addr, s *poolSource) {
	owner := r.owners[addr]
	if owner == nil {
		r.owners[addr] = c
		r.countHeld(addr, s, 1)
		if c.Share.Key != "" {
			r.updateTables(addr, s, nil)
		}
		return
	}
	before := r.tableKeys(addr, s)
	g := r.groups[addr]
	if g == nil {
		g = &sharedGroup{ports: map[Port]*candidate{}, backends: map[string]int{}, elsewhere: map[trafficPolicy]*candidate{}}
		g.add(owner)
		r.groups[addr] = g
	}
	g.add(c)
	r.updateTables(addr, s, before)
}

// releaseAddr removes c from the holders of the address. The other holders keep it.
// The record of c must not have the address any more.
func (r *run) releaseAddr(c *candidate, addr netip.Addr) {
	r.markLosing(addr)
	s, g := r.sourceContaining(addr, ""), r.groups[addr]
	before := r.tableKeys(addr, s)
	if g != nil {
		g.remove(c)
		// The first of the list becomes the owner, so it must still hold the
		// address; the others are checked when they are first, or when they are
		// listed.
		for len(g.holders) > 0 && !r.holdsAddr(g.holders[0], addr) {
			g.holders = g.holders[1:]
		}
	}
	if g != nil && g.count > 0 {
		r.owners[addr] = g.holders[0]
	} else {
		delete(r.groups, addr)
		delete(r.owners, addr)
		// The address remains used: another controller's status has it.
		if other := r.foreign[addr]; other != nil {
			r.owners[addr] = other
		} else {
			r.countHeld(addr, s, -1)
		}
	}
	// The address is open to more than the users of c's ports if it is free, or if
	// it entered a table because the remaining holders can be served by more nodes.
	open := r.updateTables(addr, s, before) || r.owners[addr] == nil
	r.markPortsFree(addr, s, c.Share.Ports)
	r.released = append(r.released, &releasedAddr{addr: addr, source: s, ports: c.Share.Ports, open: open, after: map[*pendingIndex]int{}})
}

// countHeld counts an address of the source as held (1) or released (-1).
func (r *run) countHeld(addr netip.Addr, s *poolSource, by int64) {
	if s == nil {
		return
	}
	st, f := &r.states[s.index], familyIndex(FamilyOf(addr))
	st.used[f] += by
	// A reserved address counts as used, but not against the capacity, of which it
	// is not a part.
	if !s.canAssign(addr) {
		return
	}
	st.taken[f] += by
	// The search continues from where it is, so a free address behind it must be
	// remembered. One ahead of it will be found.
	switch {
	case by > 0:
		st.freed[f].remove(addr)
		st.avoided[f].remove(addr)
	case r.externalIPs[addr]:
		st.avoided[f].add(addr)
	case st.hasPassed(s, addr):
		st.freed[f].add(addr)
	}
}
