// This file indexes the addresses that can be shared, so that a request finds the
// lowest one that it can join without examining all addresses of its key.

package allocator

import (
	"net/netip"
	"slices"
)

// tableKey identifies a table: the addresses of a pool and a family that are held
// under a key.
type tableKey struct {
	key      string
	source   *poolSource
	family   int
	nodes    nodeScope
	backends string
}

// nodeScope describes the nodes on which the holders of a table's addresses are
// served.
type nodeScope uint8

const (
	onAnyNodes   nodeScope = iota // any
	onAllNodes                    // all holders are Cluster
	withBackends                  // all holders have the same backends
)

// sharedTable is an index of addresses that may be shared.
// A search begins after the highest of full for its ports, which makes n requests
// for one port cost O(n log n) together.
type sharedTable struct {
	addrs addrSet
	// full has, by port, the address up to which the port is in use on all of them.
	full    map[Port]netip.Addr
	waiting *pendingIndex
}

// tableFor returns the table of the key, which it creates if necessary.
func (r *run) tableFor(k tableKey) *sharedTable {
	t := r.tables[k]
	if t == nil {
		t = &sharedTable{full: map[Port]netip.Addr{}, waiting: newPendingIndex()}
		r.tables[k] = t
	}
	return t
}

// tableKeys returns the keys of the tables that must contain the address.
func (r *run) tableKeys(addr netip.Addr, s *poolSource) []tableKey {
	// Only addresses that a pool may assign can be joined: one that is reserved,
	// out of all pools, or in a foreign status is kept by its holders alone.
	owner := r.owners[addr]
	if owner == nil || owner.Share.Key == "" || owner.foreign || r.foreign[addr] != nil || s == nil || !s.canAssign(addr) {
		return nil
	}
	terms, allCluster, same := owner.Share, owner.Share.Cluster, true
	if g := r.groups[addr]; g != nil {
		allCluster, same = g.local == 0, len(g.backends) == 1
	}
	// The table without a restriction of nodes is not used to join an address, but
	// to explain why none could be joined (whyNone).
	k := tableKey{key: terms.Key, source: s, family: familyIndex(FamilyOf(addr))}
	keys := []tableKey{k}
	if allCluster {
		k.nodes = onAllNodes
		keys = append(keys, k)
	}
	if same && terms.Backends != "" {
		k.nodes, k.backends = withBackends, terms.Backends
		keys = append(keys, k)
	}
	return keys
}

// joinKeys returns the keys of the tables with addresses of the source that the
// candidate may share, if the ports do not conflict.
func (c *candidate) joinKeys(s *poolSource, f int) (keys []tableKey) {
	k := tableKey{key: c.Share.Key, source: s, family: f}
	if c.Share.Cluster {
		k.nodes = onAllNodes
		keys = append(keys, k)
	}
	// With equal backends the policies do not matter: each node with an endpoint of
	// one has an endpoint of the other.
	if c.Share.Backends != "" {
		k.nodes, k.backends = withBackends, c.Share.Backends
		keys = append(keys, k)
	}
	return keys
}

// markPortsFree records that ports may be free on the address.
func (r *run) markPortsFree(addr netip.Addr, s *poolSource, ports []Port) {
	if r.tables == nil {
		return
	}
	for _, k := range r.tableKeys(addr, s) {
		for _, p := range ports {
			r.tableFor(k).markPortFree(p, addr)
		}
	}
}

// updateTables moves the address from the tables before to those that must contain
// it. It reports whether it was added to any.
func (r *run) updateTables(addr netip.Addr, s *poolSource, before []tableKey) (added bool) {
	after := r.tableKeys(addr, s)
	for _, k := range before {
		if r.tables != nil && !slices.Contains(after, k) {
			r.tableFor(k).addrs.remove(addr)
		}
	}
	for _, k := range after {
		if slices.Contains(before, k) {
			continue
		}
		added = true
		if r.tables == nil {
			continue
		}
		t := r.tableFor(k)
		t.addrs.add(addr)
		// The address may be below a bound that was found without it.
		for p := range t.full {
			if r.userOf(addr, p) == nil {
				t.markPortFree(p, addr)
			}
		}
	}
	return added
}

// markPortFree records that the port may be free on the address.
func (t *sharedTable) markPortFree(p Port, addr netip.Addr) {
	if last, known := t.full[p]; known && !last.Less(addr) {
		// The addresses below it are still known to be in use; those above it are
		// examined again.
		t.full[p] = addr.Prev()
	}
}

// lowestShared returns the lowest address of the source that the candidate can share
// with its holders.
func (r *run) lowestShared(c *candidate, s *poolSource, f int) (lowest netip.Addr) {
	r.makeTables()
	for _, k := range c.joinKeys(s, f) {
		if t := r.tables[k]; t != nil {
			if addr := r.lowestIn(t, c); addr.IsValid() && (!lowest.IsValid() || addr.Less(lowest)) {
				lowest = addr
			}
		}
	}
	return lowest
}

// makeTables creates the tables when the first request looks for an address to
// share. Decisions without one do not pay for them.
func (r *run) makeTables() {
	if r.tables != nil {
		return
	}
	r.tables = make(map[tableKey]*sharedTable)
	for addr, owner := range r.owners {
		if owner.Share.Key != "" {
			r.updateTables(addr, r.sourceContaining(addr, ""), nil)
		}
	}
}

// lowestIn returns the lowest address of the table with room for the candidate.
func (r *run) lowestIn(t *sharedTable, c *candidate) netip.Addr {
	var full netip.Addr
	for _, p := range c.Share.Ports {
		if last := t.full[p]; full.Less(last) {
			full = last
		}
	}
	for addr := t.addrs.next(full); addr.IsValid(); addr = t.addrs.next(addr) {
		r.steps++
		inUse := false
		for _, p := range c.Share.Ports {
			if r.userOf(addr, p) == nil {
				continue
			}
			inUse = true
			// The bound moves only to the next address of the table: there must not
			// be a gap below it.
			if t.addrs.next(t.full[p]) == addr {
				t.full[p] = addr
			}
		}
		if !inUse && !r.holdsAddr(c, addr) && !slices.Contains(c.Release, addr) {
			return addr
		}
	}
	return netip.Addr{}
}
