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

// reguard is how often the loop guard is looked at when nothing has changed.
const reguard = 15 * time.Second

// routing is this node's part by BGP: sessions, BFD beside them, and the guard
// against loops.
type routing struct {
	log      *slog.Logger
	wake     func()
	sessions *bgp.Speaker
	paths    *bfd.Engine
	routers  *l2.Routers
	guard    *guard.Guard
	guarding bool          // else there shall be no guard
	guarded  chan struct{} // what is to be guarded has changed

	said string // about BFD, of the reconciling goroutine

	mu     sync.Mutex
	users  map[bfd.Key][]string // peers, by the BFD session beside them
	up     map[bfd.Key]bool
	shield guard.State
}

func newRouting(log *slog.Logger, node string, guarding bool, wake func()) *routing {
	r := &routing{
		log: log, wake: wake, sessions: bgp.New(log), routers: l2.NewRouters(log, wake),
		guarded: make(chan struct{}, 1), up: map[bfd.Key]bool{},
	}
	r.paths = bfd.New(log, node, r.pathChanged)
	r.guard = guard.New(log)
	r.guarding = guarding
	return r
}

// Run keeps sessions until ctx ends. Then it leaves without a word, so that
// routers that have agreed to graceful restart keep the routes.
func (r *routing) Run(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return r.sessions.Run(ctx) })
	tasks.Go(func() error { return r.paths.Run(ctx) })
	tasks.Go(func() error { r.guardLoop(ctx); return nil })
	tasks.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-r.sessions.Changed():
				r.wake()
			}
		}
	})
	return tasks.Wait()
}

// Set makes the plan's sessions and routes all there are.
func (r *routing) Set(plan plan.Plan) {
	var state bgp.Config
	profiles := map[bfd.Key]bfd.Profile{}
	users := map[bfd.Key][]string{}
	var shield guard.State
	for addr, claim := range plan.L2 {
		shield.Prefixes = append(shield.Prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		shield.Interfaces = append(shield.Interfaces, claim.Interfaces...)
	}
	for _, p := range plan.BGP {
		if p.Problem.Reason != "" {
			continue
		}
		state.Peers = append(state.Peers, p.Peer)
		if key, profile, ok := path(p); ok {
			profiles[key], users[key] = profile, append(users[key], p.Config.Name)
		}
		shield.Prefixes = slices.AppendSeq(shield.Prefixes, maps.Keys(p.Peer.Routes))
		shield.Toward = append(shield.Toward, p.Peer.Address)
		if p.Config.Interface != "" {
			shield.Interfaces = append(shield.Interfaces, p.Config.Interface)
		}
	}
	r.sessions.Set(state) // first: the rest takes longer
	shield.Prefixes = tidy(shield.Prefixes, netip.Prefix.Compare)
	shield.Toward = tidy(shield.Toward, netip.Addr.Compare)
	shield.Interfaces = tidy(shield.Interfaces, strings.Compare)
	r.mu.Lock()
	r.users, r.shield = users, shield
	r.mu.Unlock()
	poke(r.guarded)
	r.setPaths(profiles)
}

// setPaths runs BFD where it can be run. Where it cannot, that is a matter of the
// configuration and told once, and in the session's status.
func (r *routing) setPaths(profiles map[bfd.Key]bfd.Profile) {
	said := ""
	if err := r.paths.Set(profiles); err != nil {
		said = err.Error()
	}
	if said != r.said && said != "" {
		r.log.Warn("BFD incomplete", "error", said)
	}
	r.said = said
}

// tidy sorts, and leaves each value once.
func tidy[T comparable](values []T, compare func(a, b T) int) []T {
	slices.SortFunc(values, compare)
	return slices.Compact(values)
}

// path is the BFD session beside a BGP session. As on routers, it is a
// single-hop one with a neighbour, and runs over several hops with who is not.
func path(p plan.Peering) (bfd.Key, bfd.Profile, bool) {
	if p.Config.BFD == nil {
		return bfd.Key{}, bfd.Profile{}, false
	}
	key := bfd.Key{Peer: p.Peer.Address, Local: p.Peer.Source, Multihop: p.Beyond}
	b := p.Config.BFD
	return key, bfd.Profile{Transmit: b.Transmit, Receive: b.Receive, Multiplier: b.Multiplier, MinTTL: b.MinTTL, Passive: b.Passive}, true
}

// pathChanged ends the BGP sessions over a path that has died: that is faster
// than their hold timers. A peer that takes BFD down by intention says nothing
// about the path (RFC 5882 section 3.2), and one whose BFD shares the fate of its
// control plane may only be restarting that.
func (r *routing) pathChanged(key bfd.Key, s bfd.Status) {
	r.mu.Lock()
	was := r.up[key]
	r.up[key] = s.State == bfd.Up
	users := r.users[key]
	r.mu.Unlock()
	// A router that begins BFD anew says Down, too, and lives.
	anew := s.Diagnostic == bfd.NeighborSignaledDown && s.RemoteDiagnostic == bfd.NoDiagnostic
	if was && s.State == bfd.Down && s.RemoteState != bfd.AdminDown && !anew {
		for _, peer := range users {
			r.sessions.Reset(peer, "BFD: "+s.Diagnostic.String(), !s.ControlPlaneIndependent)
		}
	}
	r.wake()
}

// guardLoop keeps the loop guard as it should be. It is apart from the
// announcing, which need not wait for it.
func (r *routing) guardLoop(ctx context.Context) {
	if !r.guarding {
		if err := r.guard.Remove(ctx); err != nil { // what an earlier speaker left
			r.log.Debug("loop guard of an earlier speaker not removed", "error", err)
		}
		return
	}
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.guarded:
		case <-time.After(reguard):
		}
		r.mu.Lock()
		shield := r.shield
		r.mu.Unlock()
		switch err := r.guard.Set(ctx, shield); {
		case err == nil:
			said = ""
		case err.Error() != said && ctx.Err() == nil:
			said = err.Error()
			r.log.Warn("loop guard incomplete, will be tried again", "error", err)
		}
	}
}

// leave ends all sessions for good: routers look for other ways at once.
func (r *routing) leave(ctx context.Context, why string) {
	r.sessions.Shutdown(ctx, why)
	r.paths.AdminDown(ctx)
	if r.guarding {
		if err := r.guard.Remove(ctx); err != nil {
			r.log.Warn("loop guard left behind", "error", err)
		}
	}
}

// pause prepares for a restart: routers shall neither take the silence of BFD
// for a broken path nor forget the routes.
func (r *routing) pause(ctx context.Context) { r.paths.Pause(ctx) }
