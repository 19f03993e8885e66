package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

const (
	// fieldManager owns what the controller applies.
	fieldManager = "fairlead-controller"

	// writeTimeout ends a write whose answer does not come. It is shorter than
	// what lies between a leader's renew deadline (10 s) and the end of its
	// lease (15 s): a leader that was cut off has no write in flight when the
	// next one begins.
	writeTimeout = 4 * time.Second

	// firstRetry and lastRetry bound the wait after a pass with failed writes.
	firstRetry, lastRetry = 20 * time.Millisecond, 30 * time.Second
)

// Controller makes the statuses of Services, pools and advertisements say what
// Decide wants them to say.
type Controller struct {
	client   kubernetes.Interface
	fairlead *client.Client
	events   *patience
	log      *slog.Logger
	policy   providers.Policy
	parallel int

	lister     *lister
	services   cache.SharedIndexInformer // lister's
	nodes      cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	// nil where the API server has no ServiceCIDRs (before Kubernetes 1.33)
	serviceCIDRs cache.SharedIndexInformer
	pools        client.Source[*v1alpha1.IPAddressPool]
	l2ads        client.Source[*v1alpha1.L2Advertisement]
	peers        client.Source[*v1alpha1.BGPPeer]
	bgpads       client.Source[*v1alpha1.BGPAdvertisement]
	profiles     client.Source[*v1alpha1.BFDProfile]
	names        client.Source[*v1alpha1.Community]
	speakers     client.Source[*v1alpha1.Speaker]

	leads     chan struct{} // closed when this replica leads
	queue     workqueue.TypedRateLimitingInterface[string]
	ownWrites ownWrites
	nodePorts nodePorts
	balancers *balancers // nil without a cloud
	news      news
	pace      pace
	planner   plan.Planner      // of the goroutine that syncs
	settled   *plan.Incremental // by the last pass over everything
	// writtenUpTo is the last Service that the last sync wrote, if it reached the
	// limit of what one sync writes.
	writtenUpTo types.NamespacedName
	passed      bool // over everything, since this replica leads
	// unsure: a write failed in a way that leaves open whether it took effect.
	// Nothing is decided before the API server has been asked again.
	unsure atomic.Bool
}

// Options are a Controller's parts.
type Options struct {
	Client    kubernetes.Interface
	Fairlead  *client.Client
	Informers informers.SharedInformerFactory // started by the caller, after New
	Events    record.EventRecorder
	Log       *slog.Logger
	Policy    providers.Policy
	Parallel  int // writes, and calls of the cloud, at the same time
	NodePorts plan.PortRange
	// Cloud makes the balancers of Services on AWS; nil while it lacks a setting,
	// which Policy then names.
	Cloud   cloudprovider.LoadBalancer
	Cluster string        // as the cloud knows it
	Resync  time.Duration // between two looks at a balancer to which nothing has happened
}

// New makes a Controller and asks for its informers.
func New(o Options) (*Controller, error) {
	registerMetrics()
	c := &Controller{
		client: o.Client, fairlead: o.Fairlead, events: newPatience(o.Events), log: o.Log, policy: o.Policy, parallel: max(o.Parallel, 1),
		lister:     &lister{client: o.Client},
		nodes:      o.Informers.Core().V1().Nodes().Informer(),
		namespaces: o.Informers.Core().V1().Namespaces().Informer(),
		pools:      o.Fairlead.Pools.Informer(),
		l2ads:      o.Fairlead.L2Advertisements.Informer(),
		peers:      o.Fairlead.BGPPeers.Informer(),
		bgpads:     o.Fairlead.BGPAdvertisements.Informer(),
		profiles:   o.Fairlead.BFDProfiles.Informer(),
		names:      o.Fairlead.Communities.Informer(),
		speakers:   o.Fairlead.Speakers.Informer(),
		leads:      make(chan struct{}),
		queue:      workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
		nodePorts:  nodePorts{inRange: o.NodePorts},
	}
	c.services = c.lister.informer()
	served, err := serves(o.Client.Discovery(), networkingv1.SchemeGroupVersion.String(), "servicecidrs")
	if err != nil {
		return nil, err
	}
	if served {
		c.serviceCIDRs = o.Informers.Networking().V1().ServiceCIDRs().Informer()
	}
	if o.Cloud != nil {
		c.balancers = newBalancers(o, c.wake)
	}
	for _, i := range c.informers() {
		if err := i.SetTransform(client.Strip); err != nil {
			return nil, fmt.Errorf("set up an informer: %w", err)
		}
		if _, err := i.AddEventHandler(c.handler(i)); err != nil {
			return nil, fmt.Errorf("set up an informer: %w", err)
		}
	}
	return c, nil
}

// own are the informers of Fairlead's own kinds.
func (c *Controller) own() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{
		c.pools.SharedIndexInformer, c.l2ads.SharedIndexInformer, c.peers.SharedIndexInformer, c.bgpads.SharedIndexInformer,
		c.profiles.SharedIndexInformer, c.names.SharedIndexInformer, c.speakers.SharedIndexInformer,
	}
}

func (c *Controller) informers() []cache.SharedIndexInformer {
	all := append(c.own(), c.services, c.nodes, c.namespaces)
	if c.serviceCIDRs != nil {
		all = append(all, c.serviceCIDRs)
	}
	return all
}

// serves reports whether the API server has the resource.
func serves(d discovery.DiscoveryInterface, groupVersion, resource string) (bool, error) {
	list, err := d.ServerResourcesForGroupVersion(groupVersion)
	if err != nil {
		return false, fmt.Errorf("look for %s in %s: %w", resource, groupVersion, err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource }), nil
}

// Watch runs the informers of Services and of Fairlead's own kinds until ctx
// ends. A replica that does not lead watches too, and takes over with warm
// caches.
func (c *Controller) Watch(ctx context.Context) {
	for _, i := range c.own() {
		go i.RunWithContext(ctx)
	}
	select {
	case <-ctx.Done():
		return
	case <-c.leads:
	case <-time.After(beforeList):
	}
	c.services.RunWithContext(ctx)
}

// Run reconciles until ctx ends, and returns when its last write has returned.
// Only the leader may run it.
func (c *Controller) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, c.queue.ShutDown)()
	c.lister.leading.Store(true)
	close(c.leads)
	go c.events.run(ctx)
	var synced []cache.DoneChecker
	for _, i := range c.informers() {
		synced = append(synced, i.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return // ctx ended
	}
	// What the last leader wrote may not have come by watch yet.
	c.unsure.Store(!c.lister.fresh.Load())
	c.log.Info("controller started", "provider", c.policy.Mode)
	if c.balancers != nil {
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { c.balancers.run(ctx) })
	}
	c.queue.Add(everything)
	for {
		key, shutdown := c.queue.Get()
		if shutdown {
			return
		}
		c.pass(ctx, key)
		c.queue.Done(key)
	}
}

// catchUp asks the API server, not its cache, for all Services.
func (c *Controller) catchUp(ctx context.Context) error {
	list, err := c.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list all Services: %w", err)
	}
	services := make([]*corev1.Service, len(list.Items))
	for i := range list.Items {
		services[i] = &list.Items[i]
	}
	c.ownWrites.observeList(services, list.ResourceVersion)
	return nil
}

// snapshot is the newest known state of everything.
func (c *Controller) snapshot() plan.Snapshot {
	upTo := c.services.LastSyncResourceVersion() // before the objects: never claims more than they show
	s := plan.Snapshot{
		Policy: c.policy,
		Objects: config.Objects{
			Pools: c.pools.Objects(), L2Advertisements: c.l2ads.Objects(),
			BGPPeers: c.peers.Objects(), BGPAdvertisements: c.bgpads.Objects(),
			BFDProfiles: c.profiles.Objects(), Communities: c.names.Objects(),
		},
		Services:   c.ownWrites.over(client.Source[*corev1.Service]{SharedIndexInformer: c.services}.Objects(), upTo),
		Nodes:      client.Source[*corev1.Node]{SharedIndexInformer: c.nodes}.Objects(),
		Namespaces: client.Source[*corev1.Namespace]{SharedIndexInformer: c.namespaces}.Objects(),
		Speakers:   c.speakers.Objects(),
		NodePorts:  c.nodePorts.now(),
		Now:        time.Now(),
	}
	if c.serviceCIDRs != nil {
		s.ServiceCIDRs = client.Source[*networkingv1.ServiceCIDR]{SharedIndexInformer: c.serviceCIDRs}.Objects()
	}
	if c.balancers != nil {
		s.Cloud = c.balancers.outcomes()
	}
	return s
}

// reconcile makes one decision about everything and writes what differs from
// it. A write that has begun is finished even if ctx ends.
func (c *Controller) reconcile(ctx context.Context) error {
	if c.unsure.Load() {
		if err := c.catchUp(ctx); err != nil {
			return err
		}
		c.unsure.Store(false)
	}
	began := time.Now()
	c.news.forget()
	snapshot := c.snapshot()
	desired := c.planner.Decide(snapshot)
	if !desired.Wake.IsZero() {
		c.queue.AddAfter(everything, time.Until(desired.Wake))
	}
	if c.balancers != nil {
		c.balancers.set(desired.Cloud, desired.Live, plan.Targets(snapshot.Nodes))
	}
	show(desired)
	c.pace.passed(began)
	err := c.write(ctx, snapshot, desired)
	c.settled = c.planner.Incremental(snapshot, desired)
	return err
}

// write writes what differs from the plan.
func (c *Controller) write(ctx context.Context, snapshot plan.Snapshot, desired plan.Plan) error {
	var others []*v1alpha1.IPAddressPool
	first := c.newWrites(ctx)
	for _, pool := range snapshot.Objects.Pools {
		if p := desired.Pools[pool.Name]; p.InUse && !slices.Contains(pool.Finalizers, v1alpha1.FinalizerPoolInUse) {
			// Before the first Service: who deletes the pool then finds it in use.
			first.do(func(ctx context.Context) error { return c.writePool(ctx, pool, p) })
		} else {
			others = append(others, pool)
		}
	}
	failed := first.wait() // Services do not depend on it
	w := c.newWrites(ctx)
	c.writeServices(w, desired.Changes)
	for _, pool := range others {
		w.do(func(ctx context.Context) error { return c.writePool(ctx, pool, desired.Pools[pool.Name]) })
	}
	for _, ad := range snapshot.Objects.L2Advertisements {
		want := desired.L2Advertisements[ad.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.L2Advertisements, "L2Advertisement", ad, &ad.Status, &want)
		})
	}
	for _, peer := range snapshot.Objects.BGPPeers {
		want := desired.BGPPeers[peer.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.BGPPeers, "BGPPeer", peer, &peer.Status, &want)
		})
	}
	for _, ad := range snapshot.Objects.BGPAdvertisements {
		want := desired.BGPAdvertisements[ad.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.BGPAdvertisements, "BGPAdvertisement", ad, &ad.Status, &want)
		})
	}
	for _, community := range snapshot.Objects.Communities {
		want := desired.Communities[community.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.Communities, "Community", community, &community.Status, &want)
		})
	}
	if err := w.wait(); err != nil {
		return err
	}
	return failed
}

func (c *Controller) writePool(ctx context.Context, pool *v1alpha1.IPAddressPool, p plan.PoolPlan) error {
	if has := slices.Contains(pool.Finalizers, v1alpha1.FinalizerPoolInUse); has != p.InUse && (has || pool.DeletionTimestamp == nil) {
		// The status follows when the watch brings the pool's next version.
		if p.InUse {
			metadata := identity(pool)
			metadata["finalizers"] = []string{v1alpha1.FinalizerPoolInUse}
			return apply(ctx, c.fairlead.Pools, "IPAddressPool", map[string]any{"metadata": metadata})
		}
		_, err := c.fairlead.Pools.Patch(ctx, pool.Name, types.MergePatchType, patch(without(pool, v1alpha1.FinalizerPoolInUse)), metav1.PatchOptions{FieldManager: fieldManager})
		if err != nil {
			return fmt.Errorf("release IPAddressPool %s: %w", pool.Name, err)
		}
		return nil
	}
	return writeStatus(ctx, c, c.fairlead.Pools, "IPAddressPool", pool, &pool.Status, &p.Status)
}

// status is that of one of Fairlead's kinds. Its conditions are compared
// without their times.
type status interface{ GetConditions() *[]metav1.Condition }

// writeStatus makes the object's status say what is wanted and, where that is a
// new problem, says so in the log.
func writeStatus[T client.Object, L runtime.Object, S status](ctx context.Context, c *Controller, r client.Resource[T, L], kind string, object T, have, want S) error {
	conditions := want.GetConditions()
	changed := !plan.SameConditions(*have.GetConditions(), *conditions)
	*conditions = plan.WithTransitionTimes(*have.GetConditions(), *conditions, metav1.Now())
	if !changed && equality.Semantic.DeepEqual(have, want) {
		return nil
	}
	if err := applyStatus(ctx, r, kind, object, want); err != nil {
		return err
	}
	ready := apimeta.FindStatusCondition(*conditions, v1alpha1.ConditionReady)
	was := apimeta.FindStatusCondition(*have.GetConditions(), v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionFalse && (was == nil || was.Message != ready.Message) {
		c.log.Warn("object has problems", "kind", kind, "object", object.GetName(), "reason", ready.Reason, "message", ready.Message)
	}
	return nil
}
