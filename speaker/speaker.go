package speaker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/memo"
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

	kinds        client.Informers // of Fairlead's own kinds
	factory      informers.SharedInformerFactory
	ownNamespace informers.SharedInformerFactory
	services     client.Source[*corev1.Service]
	slices       client.Source[*discoveryv1.EndpointSlice]
	nodes        client.Source[*corev1.Node]
	secrets      client.Source[*corev1.Secret]

	routing *routing
	gate    *gate
	exit    exit
	known   known

	// What was derived from objects that have not changed; of the reconciling
	// goroutine.
	parser          config.Parser
	interfaceStates memo.List[*v1alpha1.Speaker]
	links           memo.Value[uint64, map[string][]l2.Interface]

	lastNode *corev1.Node // the last version of this Node

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
		kinds: o.Fairlead.Informers(), factory: factory, ownNamespace: own,
		services: client.Source[*corev1.Service]{SharedIndexInformer: newServiceInformer(o.Client)},
		slices:   client.Source[*discoveryv1.EndpointSlice]{SharedIndexInformer: newEndpointSliceInformer(o.Client)},
		nodes:    client.Source[*corev1.Node]{SharedIndexInformer: factory.Core().V1().Nodes().Informer()},
		secrets:  client.Source[*corev1.Secret]{SharedIndexInformer: own.Core().V1().Secrets().Informer()},
		exit:     exit{client: o.Client, namespace: o.Namespace, drain: o.Drain},
		wake:     make(chan struct{}, 1),
		report:   make(chan struct{}, 1),
	}
	wake := func() { poke(s.wake) }
	s.announce, s.routing, s.gate = l2.New(o.Log, wake), newRouting(o.Log, o.Node, o.Guard, wake), newGate(wake)
	for _, i := range s.informers() {
		if _, err := i.AddEventHandler(s.handler()); err != nil {
			return nil, fmt.Errorf("set up an informer: %w", err)
		}
	}
	// What has become of a report decides whether another one is due.
	reported := func(any) { poke(s.report) }
	if _, err := s.kinds.Speakers.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: reported, UpdateFunc: func(_, o any) { reported(o) }, DeleteFunc: reported,
	}); err != nil {
		return nil, fmt.Errorf("set up an informer: %w", err)
	}
	for _, i := range s.direct() {
		if err := i.SetTransform(strip); err != nil {
			return nil, fmt.Errorf("set up an informer: %w", err)
		}
	}
	return s, nil
}

// direct returns the informers that no factory runs.
func (s *Speaker) direct() []cache.SharedIndexInformer {
	return append(s.kinds.All(), s.services.SharedIndexInformer, s.slices.SharedIndexInformer)
}

func (s *Speaker) informers() []cache.SharedIndexInformer {
	return append(s.direct(), s.nodes.SharedIndexInformer, s.secrets.SharedIndexInformer)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
