package controller

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

const (
	// writeTimeout is shorter than the time between RenewDeadline and LeaseDuration: a
	// leader that was cut off has no write in flight when the next one starts.
	writeTimeout = 1800 * time.Millisecond

	// firstRetry and lastRetry bound the backoff after a failed write.
	firstRetry, lastRetry = 20 * time.Millisecond, 30 * time.Second
)

// Controller reconciles the statuses of Services, pools, peers and advertisements
// with the desired state that Decide returns. Watch and Run may be called
// concurrently: Watch once, and Run again after it has returned.
type Controller struct {
	client    kubernetes.Interface
	fairlead  *client.Client
	events    *eventQueue
	log       *slog.Logger
	policy    providers.Policy
	parallel  int
	namespace string

	kinds         client.Informers // of Fairlead's own kinds
	serviceLister *serviceLister
	services      cache.SharedIndexInformer // of serviceLister
	nodes         cache.SharedIndexInformer
	namespaces    cache.SharedIndexInformer
	// serviceCIDRs is nil if the API server does not serve them (before Kubernetes 1.33).
	serviceCIDRs cache.SharedIndexInformer

	led       chan struct{} // closed when this replica leads for the first time
	lead      sync.Once     // closes led
	queue     workqueue.TypedRateLimitingInterface[string]
	ownWrites ownWrites
	backoffs  serviceBackoffs
	nodePorts nodePortRange
	balancers *balancers // of this term, nil without a cloud
	hasCloud  bool
	// newBalancers returns the balancers of a term, nil without a cloud.
	newBalancers func() *balancers
	pending      pendingChanges
	latencies    serviceLatencies
	limiter      fullSyncLimiter
	planner      plan.Planner // of the goroutine that syncs
	// writtenUpTo is the last Service that the last sync wrote, if it reached the
	// limit of what one sync writes.
	writtenUpTo types.NamespacedName
	synced      bool // a full sync has succeeded since this replica leads
	// poolsChecked: the cache of pools has been as new as a quorum read since then.
	poolsChecked bool
	// mustList: the next sync lists all Services before it plans, because the cache may
	// lack the last writes of the previous leader.
	mustList bool
}

// Options are the dependencies and settings of a Controller.
type Options struct {
	Client    kubernetes.Interface
	Namespace string // of Fairlead
	Fairlead  *client.Client
	Informers informers.SharedInformerFactory // started by the caller, after New
	Events    record.EventRecorder
	Log       *slog.Logger
	Policy    providers.Policy
	Parallel  int // the number of concurrent writes, and of concurrent calls of the cloud
	NodePorts plan.PortRange
	// Cloud ensures the load balancers of Services on AWS. It is nil if a setting is
	// missing, which Policy then names.
	Cloud   cloudprovider.LoadBalancer
	Cluster string        // the cluster's name in the cloud
	Resync  time.Duration // the period after which a load balancer is ensured again if nothing has changed
}

// New returns a Controller, and registers its informers with o.Informers.
func New(o Options) (*Controller, error) {
	registerMetrics()
	c := &Controller{
		client: o.Client, fairlead: o.Fairlead, events: newEventQueue(o.Events), log: o.Log, policy: o.Policy, parallel: max(o.Parallel, 1),
		namespace:     o.Namespace,
		kinds:         o.Fairlead.Informers(o.Log, func() {}, ""),
		serviceLister: &serviceLister{client: o.Client},
		nodes:         o.Informers.Core().V1().Nodes().Informer(),
		namespaces:    o.Informers.Core().V1().Namespaces().Informer(),
		led:           make(chan struct{}),
		newBalancers:  func() *balancers { return nil },
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "syncs"},
		),
		backoffs:  newServiceBackoffs(),
		nodePorts: nodePortRange{inRange: o.NodePorts},
	}
	c.services = c.serviceLister.newInformer()
	served, err := isServed(o.Client.Discovery(), networkingv1.SchemeGroupVersion.String(), "servicecidrs")
	if err != nil {
		return nil, err
	}
	if served {
		c.serviceCIDRs = o.Informers.Networking().V1().ServiceCIDRs().Informer()
	}
	if c.hasCloud = o.Cloud != nil; c.hasCloud {
		c.newBalancers = func() *balancers { return newBalancers(o, c.requestFullSync) }
	}
	for _, i := range c.informers() {
		if err := i.SetTransform(stripObject); err != nil {
			return nil, fmt.Errorf("set the transform of an informer: %w", err)
		}
		if _, err := i.AddEventHandler(c.handler(i)); err != nil {
			return nil, fmt.Errorf("add the event handler of an informer: %w", err)
		}
	}
	return c, nil
}

func (c *Controller) informers() []cache.SharedIndexInformer {
	all := append(c.kinds.All(), c.services, c.nodes, c.namespaces)
	if c.serviceCIDRs != nil {
		all = append(all, c.serviceCIDRs)
	}
	return all
}

// isServed reports whether the API server serves the resource.
func isServed(d discovery.DiscoveryInterface, groupVersion, resource string) (bool, error) {
	list, err := d.ServerResourcesForGroupVersion(groupVersion)
	if err != nil {
		return false, fmt.Errorf("discover %s in %s: %w", resource, groupVersion, err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource }), nil
}
