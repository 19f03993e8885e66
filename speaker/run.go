package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// NotReady returns why the speaker does not announce what the cluster's state requires;
// an empty list if it does. It may be called concurrently.
func (s *Speaker) NotReady() []string {
	reasons := s.kinds.NotReady()
	if !s.ready.Load() {
		reasons = append(reasons, "the first sync has not completed")
	}
	return reasons
}

// Warnings returns the kinds that were deleted while the speaker runs. It may be called
// concurrently.
func (s *Speaker) Warnings() []string { return s.kinds.Warnings() }

// Run announces until ctx ends. It then stops answering on interfaces. It withdraws
// the routes by a graceful shutdown only if the node is being drained or Fairlead
// removed; before a restart the connections end without a NOTIFICATION, so that
// routers that support graceful restart keep the routes. Without the API server it
// keeps what it announces.
func (s *Speaker) Run(ctx context.Context) error {
	// The routing engines outlive ctx until the graceful shutdown is over.
	routing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return s.routing.Run(routing) })

	s.factory.StartWithContext(ctx)
	s.ownNamespace.StartWithContext(ctx)
	for _, i := range s.ownInformers() {
		tasks.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	tasks.Go(func() error { l2.WatchInterfaces(ctx, s.log, func() { s.requestSync("interfaces") }); return nil })
	tasks.Go(func() error { defer s.asker.Close(); s.neighbors.Run(ctx); return nil })
	tasks.Go(func() error { s.l2NodeReport.run(ctx); return nil })
	tasks.Go(func() error { s.speakerReport.run(ctx); return nil })
	tasks.Go(func() error { s.claimReports.Run(ctx); return nil })
	tasks.Go(func() error { s.watchContact(ctx, contactInterval); return nil })
	tasks.Go(func() error {
		defer stop()
		s.syncLoop(ctx)
		reason := s.shutdown.withdrawalReason(routing, s.ownNode()) // while it still answers on interfaces
		s.leaveSegments(routing)
		s.announcer.Close()
		s.leaveRouters(routing, reason)
		return nil
	})
	err := tasks.Wait()
	s.factory.Shutdown()
	s.ownNamespace.Shutdown()
	return err
}

// contactInterval is how often it is checked whether the API server answers.
const contactInterval = time.Second

// watchContact requests a sync when contact with the API server is lost or restored: the BFD
// packets to other speakers signal it (Concatenated Path Down).
func (s *Speaker) watchContact(ctx context.Context, interval time.Duration) {
	for was := false; ctx.Err() == nil && s.isStale != nil; sleepContext(ctx, interval) {
		if is := s.isStale(); is != was {
			was = is
			s.requestSync("contact")
		}
	}
}

// syncLoop waits for the caches, and then syncs whenever something has changed, a retry
// is due or the next sync is due, until ctx ends.
func (s *Speaker) syncLoop(ctx context.Context) {
	for _, i := range s.allInformers() {
		if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
			return // ctx ended
		}
	}
	s.restored = previouslyAnnounced(s.kinds.Speakers.Get(s.node))
	s.log.Info("speaker started", "node", s.node, "version", s.version)
	s.shutdown.startedAt = time.Now()
	s.beginHoldDown(s.shutdown.startedAt)
	for ctx.Err() == nil {
		s.nextSync = noResync
		began := time.Now()
		err := s.syncOnce(ctx)
		syncDuration.Observe(time.Since(began).Seconds())
		if err != nil {
			syncFailures.Inc()
			s.log.Warn("announcements failed, retrying", "error", err)
			s.nextSync = retryInterval
		}
		s.ready.Store(s.shutdown.routesSet)
		// Debounce: events that arrive in a burst share a sync, and the pause is as
		// long as the last sync took. A single event is handled at once, and so is the
		// failure of another node.
		select {
		case <-ctx.Done():
		case <-s.takeoverDue:
			continue
		case <-time.After(min(time.Since(began), maxDebounce)):
		}
		select {
		case <-ctx.Done():
		case <-s.takeoverDue:
		case <-s.syncRequested:
		case <-time.After(s.nextSync):
			syncTriggers.WithLabelValues("timer").Inc()
		}
	}
}

// syncOnce takes a snapshot, decides, and passes the plan to the engines.
func (s *Speaker) syncOnce(ctx context.Context) error {
	interfaces, err := l2.Interfaces()
	if err != nil {
		return err
	}
	snapshot, err := s.takeSnapshot(ctx, interfaces)
	if err != nil {
		return err
	}
	plan := s.planner.Decide(snapshot)
	s.lastKnown.retainInterfaces(plan.BGP, interfaces)
	s.dataPath.Set(ctx, s.node, snapshot.Nodes, plan)
	s.announcer.SetNodes(plan.NodeMACs)
	announced, err := s.announcer.Set(ctx, plan.L2)
	s.applyAnnounced(plan, announced, err)
	secret := s.secrets.Get(cache.NewObjectName(s.namespace, v1alpha1.BFDSecret).String())
	if wait := s.routing.identifyPaths(s.node, secret, time.Since(s.shutdown.startedAt)); wait > 0 {
		s.nextSync = min(s.nextSync, wait)
	}
	s.applyFailover(snapshot, plan, announced)
	if s.routeSuccessors.observe(plan.RouteSuccessors, time.Now()) {
		s.nextSync = min(s.nextSync, proxySyncDelay)
	}
	// The first routes of a restarted speaker are advertised together: after
	// End-of-RIB (RFC 4724) a router removes the stale routes that are missing.
	routesReady := s.dataPath.Idle() || time.Since(s.shutdown.startedAt) > firstRoutesTimeout
	s.shutdown.routesSet = s.shutdown.routesSet || routesReady
	if s.shutdown.routesSet {
		s.routing.Set(plan)
	}
	observed := observedState{
		now: time.Now(), node: s.node, version: s.version, config: snapshot.Config, interfaces: interfaces, claims: announced, plan: plan,
		sessions: s.routing.sessions.Status(), paths: s.routing.paths.Status(), identity: s.routing.identity,
		peers: s.neighbors.View().Peers, nodes: snapshot.Nodes, dataPath: s.dataPath.Message(),
		proxyNotReady: snapshot.Local.ProxyNotReady,
	}
	observeTakeovers(observed, s.announced)
	s.recordAnnouncements(plan, announced)
	if wait := s.conflicts.record(s, plan, time.Now()); wait > 0 {
		s.nextSync = min(s.nextSync, wait)
	}
	if kernelAnswers(interfaces, plan) {
		s.nextSync = min(s.nextSync, sysctlInterval)
	}
	s.claimReports.Set(plan.NeededReports, time.Now())
	s.setReports(observed)
	s.lastState.Store(&observed)
	return err
}

// kernelAnswers reports whether the kernel of this node answers for addresses of Services.
func kernelAnswers(interfaces []l2.Interface, p plan.Plan) bool {
	for _, w := range p.Warnings {
		if w.Reason == v1alpha1.KernelAnswers {
			return true
		}
	}
	return slices.ContainsFunc(interfaces, func(i l2.Interface) bool { return i.KernelAnswers })
}

// applyAnnounced completes the plan by what is announced on interfaces: addresses that the
// Announcer failed to announce are unannounced, and addresses that it has probed count as
// any other.
func (s *Speaker) applyAnnounced(plan plan.Plan, announced map[netip.Addr]l2.Claim, err error) {
	for addr, claim := range plan.L2 {
		switch _, done := announced[addr]; {
		case done:
			claim.Probe = false
			plan.L2[addr] = claim
		case claim.Withhold, err == nil: // the latter: it is being probed
		default:
			plan.Unannounced[addr] = v1alpha1.Refusal{
				Reason:  v1alpha1.AnnounceFailed,
				Message: fmt.Sprintf("node %s cannot announce it: %s", s.node, strings.ReplaceAll(err.Error(), "\n", "; ")),
			}
		}
	}
}

// takeSnapshot returns the cached objects and the facts of this node, own being the
// interfaces that it has now.
func (s *Speaker) takeSnapshot(ctx context.Context, own []l2.Interface) (plan.Snapshot, error) {
	snapshot := plan.Snapshot{
		Node:     s.node,
		Services: s.services.Objects(), Nodes: s.nodes.Objects(), Namespaces: s.namespaces.Objects(),
	}
	for _, svc := range snapshot.Services {
		if plan.DependsOnEndpoints(svc) {
			snapshot.Slices = append(snapshot.Slices, s.slicesOf(svc)...)
		}
	}
	if own := s.ownNode(); own != nil && own.DeletionTimestamp != nil && s.nodes.Get(s.node) == nil {
		snapshot.Nodes = append(snapshot.Nodes, own) // so that its routes are withdrawn as on any excluded node
	}
	snapshot.Config, _, snapshot.ConfigState = s.parser.Parse(s.kinds.Objects())
	l2nodes := s.kinds.L2Nodes.Objects()
	snapshot.Interfaces = maps.Clone(s.interfaces.Get(s.interfaceStates.Observe(l2nodes, sameInterfaces), func() map[string][]l2.Interface {
		interfaces := make(map[string][]l2.Interface, len(l2nodes))
		for _, reported := range l2nodes {
			interfaces[reported.Name] = plan.ReportedInterfaces(reported)
		}
		s.nodeMACs.observe(interfaces, time.Now())
		return interfaces
	}))
	snapshot.TakenOver, snapshot.ProxyNotReady = make(map[string][]string), make(map[string]bool)
	for _, reported := range l2nodes {
		snapshot.ProxyNotReady[reported.Name] = reported.Status.ProxyNotReady
		for _, u := range reported.Status.TakenOver[:min(len(reported.Status.TakenOver), v1alpha1.MaxTakeovers)] {
			snapshot.TakenOver[reported.Name] = append(snapshot.TakenOver[reported.Name], u.Node)
		}
	}
	if reported, ok := snapshot.Interfaces[s.node]; ok {
		snapshot.Interfaces[s.node] = usableInterfaces(reported, own)
	}
	var err error
	snapshot.Local, err = s.localFacts(ctx, snapshot.Config, own)
	var wait time.Duration
	if snapshot.Local.WithoutEndpoints, wait = s.endpointLosses.observe(snapshot.Services, s.slicesOf, time.Now()); wait > 0 {
		s.nextSync = min(s.nextSync, wait)
	}
	return snapshot, err
}

// recordAnnouncements logs the announcements on interfaces that started and ended,
// and records an Event on the Service for each that started.
func (s *Speaker) recordAnnouncements(plan plan.Plan, announced map[netip.Addr]l2.Claim) {
	now := make(map[netip.Addr]bool, len(announced))
	for addr, claim := range announced {
		now[addr] = true
		if !s.announced[addr] && !(s.restored != nil && s.restored.Contains(addr)) {
			on := strings.Join(claim.Interfaces, ", ")
			s.log.Info("announcement started", "address", addr.String(), "interfaces", on)
			s.events.Eventf(plan.Services[addr], corev1.EventTypeNormal, v1alpha1.EventAnnouncing, "node %s announces %s on %s", s.node, addr, on)
		}
	}
	for addr := range s.announced {
		if !now[addr] {
			s.log.Info("announcement ended", "address", addr.String())
		}
	}
	// The addresses that were announced before a restart are probed first.
	isProbed := func(claim l2.Claim) bool { return claim.Probe }
	if !slices.ContainsFunc(slices.Collect(maps.Values(plan.L2)), isProbed) {
		for _, r := range endedRanges(s.restored, now) {
			s.log.Info("announcement ended", "address", formatRange(r))
		}
		s.restored = nil
	}
	s.announced, s.announcedOn = now, make(map[netip.Addr][]string, len(announced))
	for addr, claim := range announced {
		s.announcedOn[addr] = claim.Interfaces
	}
}
