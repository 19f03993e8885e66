package l2

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// claimLifetime is the time for which a claim of an announced address counts.
	claimLifetime = time.Minute

	// defendInterval is the shortest time between two defences of an address
	// (DEFEND_INTERVAL, RFC 5227 section 1.1).
	defendInterval = 10 * time.Second

	// reannounceInterval is the shortest time between two first announcements of an
	// address.
	reannounceInterval = time.Second

	// claimDelay is the time until the first claim of a host for an announced address
	// counts, and is answered. A node whose interface has come back, or has another MAC,
	// announces its addresses as soon as it has reported that, often before the report
	// has arrived here.
	claimDelay = 250 * time.Millisecond

	// maxClaimants bounds the hosts that are remembered for one address.
	maxClaimants = 4
)

// Claimant is another host on the segment that has answered for an address of a Claim, or
// announced it.
type Claimant struct {
	Interface   string // that received it
	MAC         net.HardwareAddr
	First, Last time.Time // of the claims; of those since the announcement, if this node announces it
}

// claimants are the claims that the responders of an Announcer have received.
type claimants struct {
	changed func() // is called after a new claim, one of a node after a while, and when one ends

	mu       sync.Mutex
	byAddr   map[netip.Addr][]Claimant
	own      []net.HardwareAddr // of the interfaces with a responder
	nodes    map[string]bool    // MACs of the cluster's nodes, as text
	defended map[netip.Addr]time.Time
}

// observe records a claim, and reports whether it is to be answered by an announcement
// after the claimDelay, unless it isNode then. A claim of a node of the cluster is not
// answered: it is the next owner of the address, which has seen earlier that it is.
func (c *claimants) observe(iface string, addr netip.Addr, mac net.HardwareAddr, announced bool) (defend bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.own, func(own net.HardwareAddr) bool { return bytes.Equal(own, mac) }) {
		return false
	}
	known := c.byAddr[addr]
	i := slices.IndexFunc(known, func(k Claimant) bool { return k.Interface == iface && bytes.Equal(k.MAC, mac) })
	switch {
	case i >= 0:
		if announced && c.nodes[mac.String()] && now.Sub(known[i].Last) >= reannounceInterval {
			defer c.changed() // it takes the address over again
		}
		known[i].Last = now
	case len(known) < maxClaimants:
		c.byAddr[addr] = append(known, Claimant{iface, slices.Clone(mac), now, now})
		defer c.changed()
	}
	if !announced || c.nodes[mac.String()] || now.Sub(c.defended[addr]) < defendInterval {
		return false
	}
	c.defended[addr] = now
	return true
}

// isNode reports whether a node of the cluster has the MAC.
func (c *claimants) isNode(mac string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[mac]
}

// forget removes the claims of the address that were received on the interface before, and
// reports whether there were any.
func (c *claimants) forget(iface string, addr netip.Addr, before time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := len(c.byAddr[addr])
	c.remove(addr, func(k Claimant) bool { return k.Interface == iface && k.Last.Before(before) })
	return len(c.byAddr[addr]) < known
}

// restart makes the last claim of each host the first one of the address, because this node
// begins to announce it. A host that had it may claim it for a while.
func (c *claimants) restart(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range c.byAddr[addr] {
		c.byAddr[addr][i].First = k.Last
	}
}

// remove removes the claims of the address that isOld matches. The lock must be held.
func (c *claimants) remove(addr netip.Addr, isOld func(Claimant) bool) {
	left := slices.DeleteFunc(c.byAddr[addr], isOld)
	if c.byAddr[addr] = left; len(left) == 0 {
		delete(c.byAddr, addr)
	}
}

// retain removes the claims that were received on other interfaces than those of the
// address, where they are not asked for again.
func (c *claimants) retain(isUsed func(addr netip.Addr, iface string) bool, own []net.HardwareAddr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = own
	for addr := range c.byAddr {
		c.remove(addr, func(k Claimant) bool { return !isUsed(addr, k.Interface) })
	}
	for addr, at := range c.defended {
		if time.Since(at) > defendInterval {
			delete(c.defended, addr)
		}
	}
}

// current returns the claims that count, and the time until that changes for one.
func (c *claimants) current(isAnnounced func(netip.Addr) bool) (byAddr map[netip.Addr][]Claimant, next time.Duration) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	byAddr = make(map[netip.Addr][]Claimant, len(c.byAddr))
	for addr := range c.byAddr {
		if isAnnounced(addr) {
			c.remove(addr, func(k Claimant) bool { return now.Sub(k.Last) >= claimLifetime })
		}
		var all []Claimant
		for _, k := range c.byAddr[addr] {
			left := claimDelay - now.Sub(k.First)
			if !isAnnounced(addr) || left <= 0 {
				all = append(all, k)
				left = claimLifetime - now.Sub(k.Last)
			}
			if isAnnounced(addr) && (next == 0 || left < next) {
				next = left
			}
		}
		if len(all) > 0 {
			byAddr[addr] = all
		}
	}
	return byAddr, next
}

func (c *claimants) has(addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byAddr[addr]) > 0
}
