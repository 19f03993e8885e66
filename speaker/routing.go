package speaker

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/guard"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// guardInterval is how often the loop guard is checked if nothing has changed.
const guardInterval = 15 * time.Second

// routingEngines are the engines for BGP: the sessions, BFD alongside them, and the
// loop guard.
type routingEngines struct {
	log          *slog.Logger
	wake         func()
	sessions     *bgp.Speaker
	paths        *bfd.Engine
	routers      *l2.Routers
	guard        *guard.Guard
	guardEnabled bool          // otherwise an existing guard is removed
	guardChanged chan struct{} // guardState has changed

	lastBFDError string // already logged; used by the sync loop only
	identity     bfdIdentity
	// The desired BFD sessions; used by the sync loop only.
	peerPaths, neighborPaths map[bfd.Key]bfd.Profile
	neighborChanged          func(bfd.Key, bfd.Status) (isNeighbor bool)

	mu          sync.Mutex
	peersByPath map[bfd.Key][]string // names of peers, by their BFD session
	pathStates  map[bfd.Key]bfd.State
	guardState  guard.State
}

func newRouting(log *slog.Logger, guarding bool, wake func()) *routingEngines {
	r := &routingEngines{
		log: log, wake: wake, sessions: bgp.New(log),
		guardChanged: make(chan struct{}, 1), pathStates: map[bfd.Key]bfd.State{}, neighborChanged: func(bfd.Key, bfd.Status) bool { return false },
	}
	r.routers = l2.NewRouters(log, r.hasSession, wake)
	r.paths = bfd.New(log, r.pathChanged)
	r.guard = guard.New(log)
	r.guardEnabled = guarding
	return r
}

// hasSession reports whether a session with the router is established.
func (r *routingEngines) hasSession(router netip.Addr) bool {
	return slices.ContainsFunc(r.sessions.Status(), func(s bgp.PeerStatus) bool {
		return s.State == bgp.Established && s.RemoteAddr.Addr() == router
	})
}

// Run runs the engines until ctx ends. Connections then end without a NOTIFICATION,
// so that routers that support graceful restart keep the routes.
func (r *routingEngines) Run(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return r.sessions.Run(ctx) })
	tasks.Go(func() error { return r.paths.Run(ctx) })
	tasks.Go(func() error { r.guardLoop(ctx); return nil })
	tasks.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-r.sessions.StatusChanges():
				r.wake()
			}
		}
	})
	return tasks.Wait()
}

// Set replaces the desired sessions, routes and BFD paths, and the guarded prefixes,
// by the plan's.
func (r *routingEngines) Set(plan plan.Plan) {
	var sessions bgp.Config
	profiles := map[bfd.Key]bfd.Profile{}
	peersByPath := map[bfd.Key][]string{}
	statuses := r.sessions.Status()
	var guarded guard.State
	for addr, claim := range plan.L2 {
		if claim.Probe || claim.Withhold {
			continue // packets to the address may be for the host that has it
		}
		guarded.Prefixes = append(guarded.Prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		guarded.Interfaces = append(guarded.Interfaces, claim.Interfaces...)
	}
	for _, p := range plan.BGP {
		if p.Problem.Reason != "" {
			continue
		}
		sessions.Peers = append(sessions.Peers, p.Peer)
		if key, profile, ok := bfdPath(p); ok {
			// The router is configured with the source of the BGP session.
			profile.Source = peerStatus(statuses, p.Config.Name).LocalAddr.Addr()
			if known := profiles[key].Source; known.IsValid() {
				profile.Source = known // several peers have one path
			}
			profiles[key], peersByPath[key] = profile, append(peersByPath[key], p.Config.Name)
		}
		guarded.Prefixes = slices.AppendSeq(guarded.Prefixes, maps.Keys(p.Peer.Routes))
		guarded.Peers = append(guarded.Peers, p.Peer.Address)
		if p.Config.Interface != "" {
			guarded.Interfaces = append(guarded.Interfaces, p.Config.Interface)
		}
	}
	r.sessions.Set(sessions) // before the rest, which takes longer
	guarded.Prefixes = sortUnique(guarded.Prefixes, netip.Prefix.Compare)
	guarded.Peers = sortUnique(guarded.Peers, netip.Addr.Compare)
	guarded.Interfaces = sortUnique(guarded.Interfaces, strings.Compare)
	r.mu.Lock()
	r.peersByPath, r.guardState = peersByPath, guarded
	r.mu.Unlock()
	notify(r.guardChanged)
	if r.identity.decided {
		r.peerPaths = profiles
		r.setPaths()
	}
}

// setPaths sets the BFD sessions with BGP peers and with other speakers. Those that are
// not possible with their addresses are a problem of the configuration: they are logged
// once, and reported with the BGP session.
func (r *routingEngines) setPaths() {
	profiles := maps.Clone(r.neighborPaths)
	if profiles == nil {
		profiles = map[bfd.Key]bfd.Profile{}
	}
	maps.Copy(profiles, r.peerPaths)
	lastError := ""
	if err := r.paths.Set(profiles); err != nil {
		lastError = err.Error()
	}
	if lastError != r.lastBFDError && lastError != "" {
		r.log.Warn("BFD incomplete", "error", lastError)
	}
	r.lastBFDError = lastError
}

// sortUnique sorts values and removes duplicates.
func sortUnique[T comparable](values []T, compare func(a, b T) int) []T {
	slices.SortFunc(values, compare)
	return slices.Compact(values)
}

// bfdPath returns the BFD session for a BGP session, if any. As on routers, it is a
// single-hop session with a neighbor, on its interface, and a multihop one otherwise.
func bfdPath(p plan.Peering) (bfd.Key, bfd.Profile, bool) {
	if p.Config.BFD == nil {
		return bfd.Key{}, bfd.Profile{}, false
	}
	key := bfd.Key{Peer: p.Peer.Address, Local: p.Peer.Source, Interface: p.Interface, Multihop: p.Multihop}
	b := p.Config.BFD
	return key, bfd.Profile{
		Transmit: b.Transmit, Receive: b.Receive, Multiplier: b.Multiplier, MinTTL: b.MinTTL, Passive: b.Passive,
	}, true
}

// pathChanged resets the BGP sessions over a path that has failed, which is faster
// than their hold timers, and lets them be established again when it is Up. AdminDown
// is not a statement about the path (RFC 5882 section 3.2). If BFD shares the fate of
// the peer's control plane, only that may be restarting, so that graceful restart
// applies.
func (r *routingEngines) pathChanged(key bfd.Key, s bfd.Status) {
	isNeighbor := r.neighborChanged(key, s)
	r.mu.Lock()
	before, known := r.pathStates[key]
	r.pathStates[key] = s.State
	peers := r.peersByPath[key]
	r.mu.Unlock()
	if !known || s.State != before {
		countTransition(isNeighbor, s.State)
	}
	was := before == bfd.Up
	// A router that restarts its BFD session signals Down, too, on a working path.
	restarted := s.Diagnostic == bfd.NeighborSignaledDown && s.RemoteDiagnostic == bfd.NoDiagnostic
	if was && s.State == bfd.Down && s.RemoteState != bfd.AdminDown && !restarted {
		for _, peer := range peers {
			r.sessions.Reset(peer, "BFD: "+s.Diagnostic.String(), !s.ControlPlaneIndependent)
		}
	}
	if s.State == bfd.Up {
		for _, peer := range peers {
			r.sessions.PathUp(peer)
		}
	}
	// A neighbor that does not respond any more is asked first.
	if asksFirst := isNeighbor && was && s.State != bfd.Up; !asksFirst || len(peers) > 0 {
		r.wake()
	}
}

// guardLoop sets the loop guard, in a goroutine of its own, so that announcing does
// not wait for it.
func (r *routingEngines) guardLoop(ctx context.Context) {
	if !r.guardEnabled {
		if err := r.guard.Remove(ctx); err != nil { // what an earlier speaker left
			r.log.Debug("removing the loop guard of an earlier speaker failed", "error", err)
		}
		return
	}
	lastError := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.guardChanged:
		case <-time.After(guardInterval):
		}
		r.mu.Lock()
		state := r.guardState
		r.mu.Unlock()
		switch err := r.guard.Set(ctx, state); {
		case err == nil:
			lastError = ""
		case err.Error() != lastError && ctx.Err() == nil:
			lastError = err.Error()
			r.log.Warn("loop guard incomplete, retrying", "error", err)
		}
	}
}

// withdrawAll closes all sessions with a NOTIFICATION that has the reason, so that
// routers remove the routes at once.
func (r *routingEngines) withdrawAll(ctx context.Context, reason string) {
	r.sessions.Shutdown(ctx, reason)
	r.paths.AdminDown(ctx)
	if r.guardEnabled {
		if err := r.guard.Remove(ctx); err != nil {
			r.log.Warn("removing the loop guard failed", "error", err)
		}
	}
}

// prepareRestart pauses BFD before a restart, so that routers neither detect a failed
// path nor remove the routes.
func (r *routingEngines) prepareRestart(ctx context.Context) { r.paths.Pause(ctx) }
