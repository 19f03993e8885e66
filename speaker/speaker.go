package speaker

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// retryInterval is the wait before a failed announcement or report is retried.
	retryInterval = time.Second

	// noResync is the wait for the next sync if nothing requires one.
	noResync = 24 * time.Hour

	// maxDebounce bounds the pause between two syncs.
	maxDebounce = 50 * time.Millisecond
)

// Speaker makes one node announce what its Plan has, and reports it.
type Speaker struct {
	node      string
	namespace string
	version   string
	fairlead  *client.Client
	events    record.EventRecorder
	log       *slog.Logger
	announcer *l2.Announcer

	kinds        client.Informers // of Fairlead's own kinds
	factory      informers.SharedInformerFactory
	ownNamespace informers.SharedInformerFactory
	services     client.Source[*corev1.Service]
	slices       client.Source[*discoveryv1.EndpointSlice]
	nodes        client.Source[*corev1.Node]
	namespaces   client.Source[*corev1.Namespace]
	secrets      client.Source[*corev1.Secret]

	routing   *routingEngines
	dataPath  *dataPathGate
	shutdown  shutdownPolicy
	lastKnown lastKnownFacts

	// Derived from objects that have not changed; used by the sync loop only.
	parser          config.Parser
	planner         plan.Planner
	interfaceStates memo.List[*v1alpha1.L2Node]
	interfaces      memo.Value[uint64, map[string][]l2.Interface]
	nodeMACs        macHistory
	peerReturns     peerReturns

	lastNode        *corev1.Node // the last version of this Node
	neighbors       *neighborMonitor
	asker           *l2.Asker                // of the neighbors
	isStale         func() bool              // whether the API server does not answer
	interfaceNames  []string                 // of the last plan
	upSince         time.Time                // when the speaker started, or continued after it stood still
	holdDown        time.Duration            // since upSince, in which this node takes no addresses back
	ineligible      map[netip.Addr]time.Time // announced addresses that this node is not eligible for, since
	claimReports    *claimReports
	conflicts       conflictLog
	endpointLosses  endpointLosses
	routeSuccessors routeSuccessors
	speakerReport   *speakerReport
	l2NodeReport    *l2NodeReport

	syncRequested chan struct{}       // something has changed
	takeoverDue   chan struct{}       // another node has failed
	nextSync      time.Duration       // wait for the next sync if nothing changes
	announced     map[netip.Addr]bool // on interfaces at the last sync
	announcedOn   map[netip.Addr][]string
	restored      *netipx.IPSet // announced before the speaker started; nil after the first sync
	ready         atomic.Bool

	lastContact func() time.Time
	lastState   atomic.Pointer[observedState] // of the last sync, for the metrics; not modified
}

// Options configure a Speaker. All fields but Guard and Drain are required.
type Options struct {
	Node      string // name of the Node object
	Namespace string // of the speaker, and of the Secrets that it reads
	Version   string
	Client    kubernetes.Interface
	Fairlead  *client.Client
	Events    record.EventRecorder
	Log       *slog.Logger
	// Guard enables the loop guard for stray packets to announced addresses.
	Guard bool
	// Stale returns whether the API server does not answer.
	Stale func() bool
	// LastContact returns when the API server last answered.
	LastContact func() time.Time
	// Drain is the time that routers have to select other paths before an excluded
	// node withdraws its routes.
	Drain time.Duration
}

// New returns a Speaker. It announces nothing before Run.
func New(o Options) (*Speaker, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithTransform(stripObject))
	own := informers.NewSharedInformerFactoryWithOptions(
		o.Client, 0, informers.WithTransform(stripObject), informers.WithNamespace(o.Namespace))
	speakerChanged, l2NodeChanged := make(chan struct{}, 1), make(chan struct{}, 1)
	missing := func() { notify(speakerChanged); notify(l2NodeChanged) }
	s := &Speaker{
		node: o.Node, namespace: o.Namespace, version: o.Version, fairlead: o.Fairlead, events: o.Events, log: o.Log,
		kinds: o.Fairlead.Informers(o.Log, missing, o.Node), factory: factory, ownNamespace: own,
		services:      client.Source[*corev1.Service]{SharedIndexInformer: newServiceInformer(o.Client)},
		slices:        client.Source[*discoveryv1.EndpointSlice]{SharedIndexInformer: newEndpointSliceInformer(o.Client)},
		nodes:         client.Source[*corev1.Node]{SharedIndexInformer: factory.Core().V1().Nodes().Informer()},
		namespaces:    client.Source[*corev1.Namespace]{SharedIndexInformer: factory.Core().V1().Namespaces().Informer()},
		secrets:       client.Source[*corev1.Secret]{SharedIndexInformer: own.Core().V1().Secrets().Informer()},
		isStale:       o.Stale,
		lastContact:   o.LastContact,
		shutdown:      shutdownPolicy{client: o.Client, namespace: o.Namespace, drainDelay: o.Drain},
		syncRequested: make(chan struct{}, 1), takeoverDue: make(chan struct{}, 1),
	}
	registerMetrics()
	wakeBy := func(trigger string) func() { return func() { s.requestSync(trigger) } }
	s.claimReports = newClaimReports(o.Fairlead.Speakers.Get, o.Log, wakeBy("reports"))
	s.speakerReport = newReport(s, speakerChanged, reportKind[*v1alpha1.Speaker, *v1alpha1.SpeakerList, v1alpha1.SpeakerStatus]{
		name: "Speaker", crd: "speakers.fairlead.io", client: o.Fairlead.Speakers, cached: s.kinds.Speakers,
		newObject: func(meta metav1.ObjectMeta) *v1alpha1.Speaker { return &v1alpha1.Speaker{ObjectMeta: meta} },
		status:    func(o *v1alpha1.Speaker) *v1alpha1.SpeakerStatus { return &o.Status },
	})
	s.l2NodeReport = newReport(s, l2NodeChanged, reportKind[*v1alpha1.L2Node, *v1alpha1.L2NodeList, v1alpha1.L2NodeStatus]{
		name: "L2Node", crd: "l2nodes.fairlead.io", client: o.Fairlead.L2Nodes, cached: s.kinds.L2Nodes,
		newObject: func(meta metav1.ObjectMeta) *v1alpha1.L2Node { return &v1alpha1.L2Node{ObjectMeta: meta} },
		status:    func(o *v1alpha1.L2Node) *v1alpha1.L2NodeStatus { return &o.Status },
	})
	s.announcer, s.asker = l2.New(o.Log, wakeBy("l2")), l2.NewAsker()
	s.routing, s.dataPath = newRouting(o.Log, o.Guard, wakeBy("routing")), newDataPathGate(o.Log, wakeBy("data_path"))
	s.neighbors = newNeighborMonitor(o.Log, s.asker.Ask, s.announcer.HoldAnswers, func(failed bool) {
		if failed {
			syncTriggers.WithLabelValues("takeover").Inc()
			notify(s.takeoverDue)
		} else {
			s.requestSync("neighbors")
		}
	})
	s.routing.neighborChanged = s.neighbors.SessionChanged
	for _, i := range s.allInformers() {
		if _, err := i.AddEventHandler(s.eventHandler()); err != nil {
			return nil, fmt.Errorf("set up informer: %w", err)
		}
	}
	if err := errors.Join(s.speakerReport.watch(), s.l2NodeReport.watch()); err != nil {
		return nil, fmt.Errorf("set up informer: %w", err)
	}
	for _, i := range s.ownInformers() {
		if err := i.SetTransform(stripObject); err != nil {
			return nil, fmt.Errorf("set up informer: %w", err)
		}
	}
	return s, nil
}

// ownInformers returns the informers that are not run by a factory.
func (s *Speaker) ownInformers() []cache.SharedIndexInformer {
	return append(s.kinds.All(), s.services.SharedIndexInformer, s.slices.SharedIndexInformer)
}

func (s *Speaker) allInformers() []cache.SharedIndexInformer {
	return append(s.ownInformers(), s.nodes.SharedIndexInformer, s.namespaces.SharedIndexInformer, s.secrets.SharedIndexInformer)
}

// requestSync requests a sync because of the trigger, one of a fixed set.
func (s *Speaker) requestSync(trigger string) {
	syncTriggers.WithLabelValues(trigger).Inc()
	notify(s.syncRequested)
}

// notify sends on a channel with a buffer of one, unless a notification is pending.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
