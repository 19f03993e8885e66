package config

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// PoolIndex finds pools by name and by address.
type PoolIndex struct {
	pools  []Pool
	byName map[string]*Pool
}

// NewPoolIndex returns an index of the pools of a Config. They must not be changed.
func NewPoolIndex(pools []Pool) PoolIndex {
	x := PoolIndex{pools, make(map[string]*Pool, len(pools))}
	for i := range pools {
		x.byName[pools[i].Name] = &pools[i]
	}
	return x
}

// Named returns the pool with the name, or nil.
func (x PoolIndex) Named(name string) *Pool { return x.byName[name] }

// Containing returns the pool that contains the address, or nil. It is the only one,
// because the pools of a Config are disjoint.
func (x PoolIndex) Containing(addr netip.Addr) *Pool {
	for i := range x.pools {
		if x.pools[i].Contains(addr) {
			return &x.pools[i]
		}
	}
	return nil
}

// Current returns the name of the pool that an assigned address belongs to: the one
// that applies to it, and that its record must have. Parameter recorded is the pool in
// the Service's own record, "" without one. Parameter selects reports whether the pool
// may serve the Service, advertised whether any advertisement covers the pool; they are
// called only if the recorded pool does not contain the address and another pool does.
//
// The recorded pool applies, even if it no longer exists or no longer contains the
// address, so that changing a pool does not end announcements. But another pool that
// contains the address by now applies if it selects the Service and is advertised, so
// that the address follows a pool that is renamed, split or merged. It also applies if
// neither of two existing pools selects the Service: a forged record cannot obtain more
// for an address of a pool than the pools that select the Service permit.
func (x PoolIndex) Current(addr netip.Addr, recorded string, selects, advertised func(*Pool) bool) string {
	before := x.byName[recorded]
	if before != nil && before.Contains(addr) {
		return recorded
	}
	now := x.Containing(addr)
	switch {
	case now == nil:
		return recorded
	case recorded == "":
		return now.Name
	case selects(now) && advertised(now):
		return now.Name
	case before != nil && !selects(before) && !selects(now):
		return now.Name
	}
	return recorded
}

// Contains reports whether the address is in a range of the pool.
func (p *Pool) Contains(addr netip.Addr) bool {
	i, _ := slices.BinarySearchFunc(p.Ranges, addr, func(r netipx.IPRange, a netip.Addr) int { return r.To().Compare(a) })
	return i < len(p.Ranges) && p.Ranges[i].Contains(addr)
}
