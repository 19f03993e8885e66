package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// Ready reports whether the speaker has seen the cluster's state and acted on it.
func (s *Speaker) Ready() bool { return s.synced.Load() }

// Run announces until ctx ends. On links it then falls silent: no socket is
// left. Routers are told goodbye only if the node is being emptied or Fairlead
// removed; before a restart they are not, and those that have agreed to graceful
// restart keep the routes. Without the API server it goes on announcing what it
// announced.
func (s *Speaker) Run(ctx context.Context) error {
	// What talks to routers outlives ctx by its goodbye.
	routing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return s.routing.Run(routing) })

	s.factory.StartWithContext(ctx)
	s.ownNamespace.StartWithContext(ctx)
	for _, i := range s.direct() {
		tasks.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	tasks.Go(func() error { l2.WatchInterfaces(ctx, s.log, func() { poke(s.wake) }); return nil })
	tasks.Go(func() error { s.reportLoop(ctx); return nil })
	tasks.Go(func() error {
		defer stop()
		s.reconcileLoop(ctx)
		why := s.exit.why(routing, s.ownNode()) // while links are still answered for
		s.announce.Close()
		s.sayGoodbye(routing, why)
		return nil
	})
	err := tasks.Wait()
	s.factory.Shutdown()
	s.ownNamespace.Shutdown()
	return err
}

func (s *Speaker) reconcileLoop(ctx context.Context) {
	for _, i := range s.informers() {
		if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
			return // ctx ended
		}
	}
	s.announced = announcedBefore(s.kinds.Speakers.Get(s.node))
	s.log.Info("speaker started", "node", s.node, "version", s.version)
	s.exit.started = time.Now()
	for ctx.Err() == nil {
		s.again = never
		began := time.Now()
		if err := s.reconcile(ctx); err != nil {
			s.log.Warn("announcements failed, will be tried again", "error", err)
			s.again = retryAfter
		}
		s.synced.Store(s.exit.routing)
		// What comes in a burst is looked at together. A single event after a
		// rest is looked at at once.
		sleep(ctx, min(time.Since(began), longestRest))
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-time.After(s.again):
		}
	}
}

// reconcile decides once and makes this node do its part.
func (s *Speaker) reconcile(ctx context.Context) error {
	links, err := l2.Interfaces()
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(ctx, links)
	if err != nil {
		return err
	}
	plan := plan.Decide(snapshot)
	s.gate.Set(ctx, s.nodes.Get(s.node), plan.Advertised, plan.AwaitingDataPath)
	announced, err := s.announce.Set(ctx, plan.L2)
	for addr := range plan.L2 {
		if _, done := announced[addr]; !done {
			plan.Unannounced[addr] = v1alpha1.Refusal{Reason: v1alpha1.AnnounceFailed, Message: fmt.Sprintf("node %s cannot announce it: %s", s.node, strings.ReplaceAll(err.Error(), "\n", "; "))}
		}
	}
	// The first routes of a restarted speaker go together: what a router has
	// kept of the last one's and does not hear at once, it forgets.
	if s.exit.routing = s.exit.routing || s.gate.Settled() || time.Since(s.exit.started) > giveUp; s.exit.routing {
		s.routing.Set(plan)
	}
	s.tell(plan, announced)
	s.want(func(before v1alpha1.SpeakerStatus) v1alpha1.SpeakerStatus {
		return status(before, outcome{version: s.version, config: snapshot.Config, links: links, claims: announced, plan: plan, sessions: s.routing.sessions.Status(), paths: s.routing.paths.Status()})
	})
	poke(s.report)
	return err
}

func (s *Speaker) snapshot(ctx context.Context, own []l2.Interface) (plan.Snapshot, error) {
	snapshot := plan.Snapshot{
		Node:     s.node,
		Services: s.services.Objects(), Nodes: s.nodes.Objects(),
	}
	for _, svc := range snapshot.Services {
		if plan.DependsOnEndpoints(svc) {
			snapshot.Slices = append(snapshot.Slices, s.slicesOf(svc)...)
		}
	}
	if own := s.ownNode(); own != nil && own.DeletionTimestamp != nil && s.nodes.Get(s.node) == nil {
		snapshot.Nodes = append(snapshot.Nodes, own) // it is left in the same way as any other
	}
	snapshot.Config, _, _ = s.parser.Parse(s.kinds.Objects())
	speakers := s.kinds.Speakers.Objects()
	snapshot.Interfaces = maps.Clone(s.links.Get(s.interfaceStates.Observe(speakers, sameInterfaces), func() map[string][]l2.Interface {
		links := make(map[string][]l2.Interface, len(speakers))
		for _, reported := range speakers {
			links[reported.Name] = plan.ReportedInterfaces(reported)
		}
		return links
	}))
	if reported, ok := snapshot.Interfaces[s.node]; ok {
		snapshot.Interfaces[s.node] = common(reported, own)
	}
	var err error
	snapshot.Local, err = s.local(ctx, snapshot.Config, own)
	return snapshot, err
}

// tell logs what began and ended, and puts an Event on the Service of what began.
func (s *Speaker) tell(plan plan.Plan, announced map[netip.Addr]l2.Claim) {
	now := make(map[netip.Addr]bool, len(announced))
	for addr, claim := range announced {
		now[addr] = true
		if !s.announced[addr] {
			on := strings.Join(claim.Interfaces, ", ")
			s.log.Info("announcement started", "address", addr.String(), "links", on)
			s.events.Eventf(plan.Services[addr], corev1.EventTypeNormal, "Announcing", "node %s answers for %s on %s", s.node, addr, on)
		}
	}
	for addr := range s.announced {
		if !now[addr] {
			s.log.Info("announcement ended", "address", addr.String())
		}
	}
	s.announced = now
}
