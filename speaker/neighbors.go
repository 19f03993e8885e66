package speaker

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// neighborMonitor observes the other nodes of the segments for the plan: it asks the
// questions of a failover.Tracker, and passes the states of BFD sessions to it. All
// methods may be called concurrently.
type neighborMonitor struct {
	log     *slog.Logger
	ask     func(ctx context.Context, iface string, mac net.HardwareAddr, addrs []netip.Addr) ([]netip.Addr, error)
	hold    func(bool)        // holds the answers of this node, or does not
	changed func(failed bool) // the View has changed; failed: because a node is gone or leaves
	due     chan struct{}

	holdMu sync.Mutex // of calls of hold, so that the last one has the last View

	mu        sync.Mutex
	tracker   failover.Tracker
	neighbors map[failover.Peer]plan.Neighbor
	sessions  map[bfd.Key]failover.Peer
	claimed   map[claimKey]time.Time // the last claim; those of other hosts are not kept
}

// claimKey identifies the claims of a neighbor for an address.
type claimKey struct {
	addr netip.Addr
	peer failover.Peer
}

func newNeighborMonitor(
	log *slog.Logger, ask func(context.Context, string, net.HardwareAddr, []netip.Addr) ([]netip.Addr, error),
	hold func(bool), changed func(failed bool),
) *neighborMonitor {
	return &neighborMonitor{log: log, ask: ask, hold: hold, changed: changed, due: make(chan struct{}, 1), claimed: map[claimKey]time.Time{}}
}

// applyHold makes the answers of this node be held as long as the View requires it. It must
// be called without the lock after each change of the View.
func (m *neighborMonitor) applyHold() {
	m.holdMu.Lock()
	defer m.holdMu.Unlock()
	m.hold(m.View().HoldAnswers)
}

// Set replaces the neighbors by those of a plan that is based on the view, and returns the
// BFD sessions with them. What the plan does not announce any more must not be answered for
// by now.
func (m *neighborMonitor) Set(neighbors map[failover.Peer]plan.Neighbor, view failover.View, stale bool) map[bfd.Key]bfd.Profile {
	defer m.applyHold()
	m.mu.Lock()
	defer m.mu.Unlock()
	profiles := map[bfd.Key]bfd.Profile{}
	targets := make(map[failover.Peer]failover.Target, len(neighbors))
	before := m.sessions
	m.neighbors, m.sessions = neighbors, map[bfd.Key]failover.Peer{}
	for peer, n := range neighbors {
		if n.Remote.IsValid() {
			m.sessions[neighborKey(peer, n)] = peer
		}
	}
	for peer, n := range neighbors {
		n.Timers.Transmit = bfd.Stretch(len(m.sessions), n.Timers.Transmit)
		targets[peer] = n.Target
		if n.Remote.IsValid() {
			profiles[neighborKey(peer, n)] = bfd.Profile{
				Transmit: n.Timers.Transmit, Receive: n.Timers.Receive, Multiplier: n.Timers.Multiplier, PathDown: stale,
			}
		}
	}
	for key, peer := range before {
		if _, still := m.sessions[key]; !still {
			m.tracker.SessionDeleted(time.Now(), peer)
		}
	}
	m.tracker.Set(time.Now(), targets, view.Verified)
	for key, last := range m.claimed {
		if time.Since(last) > claimInterval {
			delete(m.claimed, key)
		}
	}
	notify(m.due)
	return profiles
}

// neighborKey returns the BFD session with a neighbor.
func neighborKey(peer failover.Peer, n plan.Neighbor) bfd.Key {
	return bfd.Key{Peer: n.Remote, Local: n.Local, Interface: peer.Interface}
}

// View returns what is known of the neighbors.
func (m *neighborMonitor) View() failover.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tracker.View()
}

// Stalled reports that this process did not run for a while.
func (m *neighborMonitor) Stalled() {
	defer m.applyHold()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tracker.Stalled()
	notify(m.due)
}

// Claimed reports the last claim of another host for an address that this node announces.
// A claim that was reported before is ignored.
func (m *neighborMonitor) Claimed(addr netip.Addr, k l2.Claimant) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for peer, n := range m.neighbors {
		if peer.Interface != k.Interface || n.MAC != k.MAC.String() {
			continue
		}
		key := claimKey{addr, peer}
		if k.Last.After(m.claimed[key]) {
			m.claimed[key] = k.Last
			m.tracker.Claimed(time.Now(), peer, addr)
			notify(m.due)
		}
	}
}

// SessionChanged passes the state of a BFD session, and reports whether it is with a
// neighbor.
func (m *neighborMonitor) SessionChanged(key bfd.Key, s bfd.Status) bool {
	m.mu.Lock()
	peer, ok := m.sessions[key]
	if !ok || s.State == bfd.AdminDown { // this node ends it
		m.mu.Unlock()
		return ok
	}
	state := failover.Down
	switch {
	case s.State == bfd.Up:
		state = failover.Up
	case s.RemoteState == bfd.AdminDown && s.RemoteDiagnostic == bfd.AdministrativelyDown:
		state = failover.AdminDown
	case s.RemoteState == bfd.AdminDown:
		state = failover.Ended
	}
	changed := m.tracker.SessionChanged(time.Now(), peer, state)
	m.mu.Unlock()
	m.applyHold()
	notify(m.due)
	if changed {
		m.changed(state == failover.AdminDown)
	}
	return true
}

// PeerFresh returns the neighbors whose sessions are Up, each with whether it has contact
// with the API server.
func (m *neighborMonitor) PeerFresh(paths map[bfd.Key]bfd.Status) map[failover.Peer]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := map[failover.Peer]bool{}
	for key, peer := range m.sessions {
		if s, ok := paths[key]; ok && s.State == bfd.Up {
			fresh[peer] = s.RemoteDiagnostic != bfd.ConcatenatedPathDown
		}
	}
	return fresh
}

// Run asks the neighbors, until ctx ends.
func (m *neighborMonitor) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for ctx.Err() == nil {
		m.mu.Lock()
		questions, next := m.tracker.Advance(time.Now())
		for _, q := range questions {
			mac, err := net.ParseMAC(m.neighbors[q.Peer].MAC)
			asking.Go(func() { m.askNeighbor(ctx, q, mac, err) })
		}
		m.mu.Unlock()
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case <-m.due:
		case <-timer.C:
		}
	}
}

// askNeighbor asks one question.
func (m *neighborMonitor) askNeighbor(ctx context.Context, q failover.Question, mac net.HardwareAddr, err error) {
	var answered []netip.Addr
	if err == nil {
		answered, err = m.ask(ctx, q.Interface, mac, q.Addresses)
	}
	if err != nil && ctx.Err() == nil {
		m.log.Debug("asking a node failed", "node", q.Node, "interface", q.Interface, "error", err)
	}
	m.mu.Lock()
	before := m.tracker.View().Peers[q.Peer]
	var changed bool
	if err != nil && len(answered) == 0 {
		changed = m.tracker.Failed(time.Now(), q.ID)
	} else {
		changed = m.tracker.Answered(time.Now(), q.ID, answered)
	}
	after := m.tracker.View().Peers[q.Peer]
	m.mu.Unlock()
	m.applyHold()
	if before.State != after.State {
		m.log.Info("liveness of a node changed", "node", q.Node, "interface", q.Interface, "state", after.State)
	}
	notify(m.due)
	if changed {
		m.changed(after.State == failover.Gone)
	}
}
