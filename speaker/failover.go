package speaker

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// applyFailover observes the neighbors of the plan. Addresses that this node keeps although
// another one announces them, too, are announced again, so that the other one notices, and all
// of them when peers are back (peerReturns).
func (s *Speaker) applyFailover(snapshot plan.Snapshot, p plan.Plan, announced map[netip.Addr]l2.Claim) {
	now := time.Now()
	ineligible := make(map[netip.Addr]time.Time, len(p.Ineligible))
	for addr := range p.Ineligible {
		if ineligible[addr] = s.ineligible[addr]; ineligible[addr].IsZero() {
			ineligible[addr] = now
			s.nextSync = min(s.nextSync, failover.LeaveTimeout)
		}
	}
	s.ineligible = ineligible
	var names []string
	for _, i := range snapshot.Interfaces[s.node] {
		names = append(names, i.Name)
	}
	isNew := func(name string) bool { return !slices.Contains(s.interfaceNames, name) }
	if s.interfaceNames != nil && slices.ContainsFunc(names, isNew) {
		s.beginHoldDown(now) // an interface has come back, and may fail again
	}
	s.interfaceNames = names
	var contested []netip.Addr
	for addr, other := range snapshot.Local.Failover.Verified {
		if _, kept := announced[addr]; kept && s.announced[addr] {
			contested = append(contested, addr)
		} else if other.TookOver {
			s.beginHoldDown(now) // it takes the addresses back later, if at all
		}
	}
	if len(snapshot.Local.Failover.Verified) > 0 {
		s.requestSync("failover") // what this node yields may be its again later: the segment is asked
	}
	again, wait := s.peerReturns.observe(snapshot.Local.PeerFresh, now)
	if again {
		contested = nil
		for addr := range announced {
			if s.announced[addr] {
				contested = append(contested, addr)
			}
		}
	}
	if wait > 0 {
		s.nextSync = min(s.nextSync, wait)
	}
	s.announcer.Reannounce(contested)
	paths := s.neighbors.Set(p.Neighbors, snapshot.Local.Failover, snapshot.Local.Stale)
	threshold := time.Duration(0)
	if len(p.Neighbors) > 0 {
		threshold = stallThreshold(paths)
	}
	s.announcer.SetStallThreshold(threshold, func() {
		s.neighbors.Stalled()
		s.requestSync("stall")
	})
	s.routing.setNeighborPaths(paths)
}

// beginHoldDown makes this node leave its addresses to others for a while.
func (s *Speaker) beginHoldDown(now time.Time) {
	s.holdDown, s.upSince = failover.NextHoldDown(s.holdDown, now.Sub(s.upSince)), now
}

// stallThreshold returns the shortest time in which another node may suspect this one: the
// shortest detection time at the other end of a session, unless that end requests longer
// intervals, or that of polls by nodes whose session is not Up.
func stallThreshold(paths map[bfd.Key]bfd.Profile) time.Duration {
	threshold := failover.MinPollDetection
	for _, p := range paths {
		threshold = min(threshold, time.Duration(p.Multiplier)*p.Transmit)
	}
	return threshold
}

const (
	// yieldTime is how long two nodes may go on announcing an address after the LAN between
	// them has been repaired and their BFD session is Up.
	yieldTime = time.Second

	// returnInterval is the shortest time between two announcements because of peers that are
	// back.
	returnInterval = 10 * time.Second
)

// peerReturns decides when this node announces its addresses again because BFD sessions with
// peers are Up again. A peer may have announced the addresses meanwhile to clients that this
// node did not reach, and has yielded: these clients still have its MAC. The zero value is ready
// for use; it is used by the sync loop only.
type peerReturns struct {
	up        map[failover.Peer]bool // at the last call, as for observe
	due, last time.Time
}

// observe is passed the peers with a session that is Up. It returns whether the addresses are
// to be announced again, otherwise the wait until then, 0 if there is none.
func (r *peerReturns) observe(up map[failover.Peer]bool, now time.Time) (again bool, wait time.Duration) {
	for peer := range up {
		if _, known := r.up[peer]; !known {
			r.due = latest(now.Add(yieldTime), r.last.Add(returnInterval))
		}
	}
	r.up = up
	switch {
	case r.due.IsZero():
		return false, 0
	case now.Before(r.due):
		return false, r.due.Sub(now)
	}
	r.due, r.last = time.Time{}, now
	return true, 0
}

// leaveSegments makes the successors take over the addresses that this node announces on
// interfaces. It goes on answering until they have, for failover.LeaveTimeout at most.
func (s *Speaker) leaveSegments(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, failover.LeaveTimeout)
	defer cancel()
	successors := s.neighbors.Successors()
	began := time.Now()
	s.routing.leaveNeighborPaths(ctx)
	for len(successors) > 0 {
		claimants, _ := s.announcer.Claimants()
		maps.DeleteFunc(successors, func(addr netip.Addr, _ bool) bool {
			return slices.ContainsFunc(claimants[addr], func(k l2.Claimant) bool { return k.Last.After(began) })
		})
		switch {
		case len(successors) == 0:
			s.log.Info("addresses handed over to the successors", "after", time.Since(began).Round(time.Millisecond))
		case ctx.Err() != nil:
			s.log.Warn("addresses not taken over by the successors in time", "addresses", len(successors))
			return
		}
		sleepContext(ctx, leaveInterval)
	}
}

// leaveInterval is how often it is checked whether the successors have taken over.
const leaveInterval = 10 * time.Millisecond

// Successors returns the announced addresses that a live neighbor takes over.
func (m *neighborMonitor) Successors() map[netip.Addr]bool {
	view := m.View()
	m.mu.Lock()
	defer m.mu.Unlock()
	addrs := map[netip.Addr]bool{}
	for peer, n := range m.neighbors {
		if view.Peers[peer].State != failover.Live {
			continue
		}
		for _, addr := range n.Succeeds {
			addrs[addr] = true
		}
	}
	return addrs
}

// setNeighborPaths replaces the BFD sessions with other speakers. None begins before it is
// known whether BFD has the key of its discriminators, which are not changed later.
func (r *routingEngines) setNeighborPaths(profiles map[bfd.Key]bfd.Profile) {
	if !r.identity.decided || maps.Equal(profiles, r.neighborPaths) {
		return
	}
	r.neighborPaths = profiles
	r.setPaths()
}

// leaveNeighborPaths signals to the other speakers that this one leaves.
func (r *routingEngines) leaveNeighborPaths(ctx context.Context) {
	r.paths.AdminDownSessions(ctx, slices.Collect(maps.Keys(r.neighborPaths)))
}
