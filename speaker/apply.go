package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

const (
	// retryAfter is the wait before a failed announcement or report is tried again.
	retryAfter = time.Second

	// never is when to look again if nothing asks for it.
	never = 24 * time.Hour

	// longestRest bounds the pause between two passes.
	longestRest = 50 * time.Millisecond
)

// Speaker makes one node announce its part of the Plan, and reports it.
type Speaker struct {
	node     string
	version  string
	fairlead *client.Client
	events   record.EventRecorder
	log      *slog.Logger
	announce *l2.Announcer

	factory      informers.SharedInformerFactory
	ownNamespace informers.SharedInformerFactory
	services     client.Source[*corev1.Service]
	slices       client.Source[*discoveryv1.EndpointSlice]
	nodes        client.Source[*corev1.Node]
	pools        client.Source[*v1alpha1.IPAddressPool]
	l2ads        client.Source[*v1alpha1.L2Advertisement]
	peers        client.Source[*v1alpha1.BGPPeer]
	bgpads       client.Source[*v1alpha1.BGPAdvertisement]
	profiles     client.Source[*v1alpha1.BFDProfile]
	names        client.Source[*v1alpha1.Community]
	speakers     client.Source[*v1alpha1.Speaker]
	secrets      client.Source[*corev1.Secret]

	routing *routing
	gate    *gate
	exit    exit
	known   known
	last    *corev1.Node // this one

	wake      chan struct{}       // something has changed
	again     time.Duration       // when to look again if nothing does
	report    chan struct{}       // the wanted report has changed
	announced map[netip.Addr]bool // on links at the last pass, to tell what is new

	mu     sync.Mutex
	wanted *v1alpha1.SpeakerStatus // nil before the first pass
	synced atomic.Bool
}

// Options are a Speaker's parts.
type Options struct {
	Node      string // name of the Node object
	Namespace string // of the speaker, and of the Secrets that BGPPeers name
	Version   string
	Client    kubernetes.Interface
	Fairlead  *client.Client
	Events    record.EventRecorder
	Log       *slog.Logger
	// Guard keeps packets from bouncing between the node and its routers.
	Guard bool
	// Drain is how long routers have to look for other ways before an excluded
	// node withdraws its routes.
	Drain time.Duration
}

// New makes a Speaker. It announces nothing before Run.
func New(o Options) (*Speaker, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithTransform(strip))
	own := informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithTransform(strip), informers.WithNamespace(o.Namespace))
	s := &Speaker{
		node: o.Node, version: o.Version, fairlead: o.Fairlead, events: o.Events, log: o.Log,
		factory: factory, ownNamespace: own,
		services: client.Source[*corev1.Service]{SharedIndexInformer: factory.Core().V1().Services().Informer()},
		slices:   client.Source[*discoveryv1.EndpointSlice]{SharedIndexInformer: factory.Discovery().V1().EndpointSlices().Informer()},
		nodes:    client.Source[*corev1.Node]{SharedIndexInformer: factory.Core().V1().Nodes().Informer()},
		pools:    o.Fairlead.Pools.Informer(),
		l2ads:    o.Fairlead.L2Advertisements.Informer(),
		peers:    o.Fairlead.BGPPeers.Informer(),
		bgpads:   o.Fairlead.BGPAdvertisements.Informer(),
		profiles: o.Fairlead.BFDProfiles.Informer(),
		names:    o.Fairlead.Communities.Informer(),
		speakers: o.Fairlead.Speakers.Informer(),
		secrets:  client.Source[*corev1.Secret]{SharedIndexInformer: own.Core().V1().Secrets().Informer()},
		exit:     exit{client: o.Client, namespace: o.Namespace, drain: o.Drain},
		wake:     make(chan struct{}, 1),
		report:   make(chan struct{}, 1),
	}
	wake := func() { poke(s.wake) }
	s.announce, s.routing, s.gate = l2.New(o.Log, wake), newRouting(o.Log, o.Node, o.Guard, wake), newGate(wake)
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if matters(nil, o) {
				poke(s.wake)
			}
		},
		UpdateFunc: func(from, to any) {
			if matters(from, to) {
				poke(s.wake)
			}
		},
		DeleteFunc: func(any) { poke(s.wake) },
	}
	for _, i := range s.informers() {
		if _, err := i.AddEventHandler(handler); err != nil {
			return nil, fmt.Errorf("set up an informer: %w", err)
		}
	}
	// What has become of a report decides whether another one is due.
	reported := func(any) { poke(s.report) }
	if _, err := s.speakers.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: reported, UpdateFunc: func(_, o any) { reported(o) }, DeleteFunc: reported,
	}); err != nil {
		return nil, fmt.Errorf("set up an informer: %w", err)
	}
	for _, i := range s.own() {
		if err := i.SetTransform(client.Strip); err != nil {
			return nil, fmt.Errorf("set up an informer: %w", err)
		}
	}
	return s, nil
}

func (s *Speaker) own() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{
		s.pools.SharedIndexInformer, s.l2ads.SharedIndexInformer, s.peers.SharedIndexInformer, s.bgpads.SharedIndexInformer,
		s.profiles.SharedIndexInformer, s.names.SharedIndexInformer, s.speakers.SharedIndexInformer,
	}
}

func (s *Speaker) informers() []cache.SharedIndexInformer {
	return append(s.own(), s.services.SharedIndexInformer, s.slices.SharedIndexInformer, s.nodes.SharedIndexInformer, s.secrets.SharedIndexInformer)
}

// strip drops what the speaker never reads; it runs on every node and sees
// every object of the cluster.
func strip(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Node:
		o.Status.Images, o.Status.VolumesAttached, o.Status.VolumesInUse = nil, nil, nil
	case *discoveryv1.EndpointSlice:
		for i := range o.Endpoints {
			o.Endpoints[i].TargetRef, o.Endpoints[i].Hints = nil, nil
		}
	case *corev1.Secret:
		for key := range o.Data {
			if key != passwordKey {
				delete(o.Data, key)
			}
		}
	}
	return client.Strip(object)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

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
	for _, i := range s.own() {
		tasks.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	tasks.Go(func() error { l2.WatchLinks(ctx, s.log, func() { poke(s.wake) }); return nil })
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
	s.announced = announcedBefore(s.speakers.Get(s.node))
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
	links, err := l2.Links()
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(ctx, links)
	if err != nil {
		return err
	}
	plan := Decide(snapshot)
	s.gate.Set(ctx, s.nodes.Get(s.node), plan.Routed, plan.Waiting)
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

func (s *Speaker) snapshot(ctx context.Context, own []l2.Link) (Snapshot, error) {
	snapshot := Snapshot{
		Node: s.node, Links: map[string][]l2.Link{},
		Services: s.services.Objects(), Slices: s.slices.Objects(), Nodes: s.nodes.Objects(),
	}
	if own := s.ownNode(); own != nil && own.DeletionTimestamp != nil && s.nodes.Get(s.node) == nil {
		snapshot.Nodes = append(snapshot.Nodes, own) // it is left in the same way as any other
	}
	snapshot.Config, _ = config.Parse(config.Objects{
		Pools: s.pools.Objects(), L2Advertisements: s.l2ads.Objects(),
		BGPPeers: s.peers.Objects(), BGPAdvertisements: s.bgpads.Objects(),
		BFDProfiles: s.profiles.Objects(), Communities: s.names.Objects(),
	})
	for _, reported := range s.speakers.Objects() {
		snapshot.Links[reported.Name] = LinksOf(reported)
	}
	if reported, ok := snapshot.Links[s.node]; ok {
		snapshot.Links[s.node] = common(reported, own)
	}
	var err error
	snapshot.Local, err = s.local(ctx, snapshot.Config, own)
	return snapshot, err
}

// tell logs what began and ended, and puts an Event on the Service of what began.
func (s *Speaker) tell(plan Plan, announced map[netip.Addr]l2.Claim) {
	now := make(map[netip.Addr]bool, len(announced))
	for addr, claim := range announced {
		now[addr] = true
		if !s.announced[addr] {
			on := strings.Join(claim.Links, ", ")
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
