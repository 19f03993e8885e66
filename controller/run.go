package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// The keys of the queue. termEnd wakes the goroutine that syncs.
const fullSync, incrementalSync, termEnd = "full", "incremental", "end"

const (
	// fullSyncDelay is the debounce of the full sync that follows an incremental one,
	// or a change that affects no allocation.
	fullSyncDelay = time.Second

	// fullSyncShare limits full syncs to one fifth of the time: in a burst the API
	// server can use the rest.
	fullSyncShare = 5
)

// Watch runs the informers of Services and of Fairlead's own kinds until ctx is
// done. A replica that does not lead runs them as well, so that it takes over
// with synced caches.
func (c *Controller) Watch(ctx context.Context) {
	defer c.queue.ShutDown()
	for _, i := range c.kinds.All() {
		go i.RunWithContext(ctx)
	}
	select {
	case <-ctx.Done():
		return
	case <-c.led: // a leader lists at once
	case <-time.After(listDelay):
	}
	c.services.RunWithContext(ctx)
}

// NotReady returns why the controller could not lead with synced caches; an empty list
// if it could. It may be called concurrently.
func (c *Controller) NotReady() []string {
	reasons := c.kinds.NotReady()
	for _, i := range []struct {
		kinds    string
		informer cache.SharedIndexInformer
	}{{"Services", c.services}, {"Nodes", c.nodes}, {"Namespaces", c.namespaces}, {"ServiceCIDRs", c.serviceCIDRs}} {
		if i.informer != nil && !i.informer.HasSynced() {
			reasons = append(reasons, "list "+i.kinds+": waiting for the API server")
		}
	}
	return reasons
}

// Warnings returns the kinds that were deleted while the controller runs. It may be
// called concurrently.
func (c *Controller) Warnings() []string { return c.kinds.Warnings() }

// beginTerm makes this replica the leader. What an earlier term has left may be older
// than the writes of another leader since.
func (c *Controller) beginTerm() {
	c.ownWrites.reset()
	c.planner, c.balancers = plan.Planner{}, c.newBalancers()
	c.writtenUpTo, c.synced, c.poolsChecked = types.NamespacedName{}, false, false
	c.serviceLister.leading.Store(true)
	c.lead.Do(func() { close(c.led) })
	leaderLatencies.Store(&c.latencies)
}

// endTerm ends the metrics of the leader.
func (c *Controller) endTerm() {
	c.serviceLister.leading.Store(false)
	c.serviceLister.listedAsLeader.Store(false)
	leaderLatencies.Store(nil)
	resetMetrics()
}

// Run syncs until ctx is done, and returns after its last write has returned.
// Only the leader may call it.
func (c *Controller) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { c.queue.Add(termEnd) })()
	c.beginTerm()
	defer c.endTerm()
	go c.events.run(ctx) // Events are written by the leader only
	var writes sync.WaitGroup
	defer writes.Wait()
	writes.Go(func() { c.ensureBFDSecret(ctx) })
	var synced []cache.DoneChecker
	for _, i := range c.informers() {
		synced = append(synced, i.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return // ctx is done
	}
	// Fresh first list: unless the cache was listed while this replica led, it may
	// lack the last writes of the previous leader.
	c.mustList = !c.serviceLister.listedAsLeader.Load()
	c.log.Info("controller started", "provider", c.policy.Mode)
	// Calls of the cloud in flight must have returned before the lease is released.
	if c.balancers != nil {
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { c.balancers.run(ctx) })
	}
	c.queue.Add(fullSync) // even if no event has arrived
	for {
		key, shutdown := c.queue.Get()
		if shutdown {
			return
		}
		if ctx.Err() == nil && key != termEnd { // termEnd can be that of an earlier term
			c.sync(ctx, key)
		}
		c.queue.Done(key)
		if ctx.Err() != nil {
			return
		}
	}
}

// sync runs one sync. A failed one is retried with backoff, as a full sync. A failed
// write to a Service is retried with the backoff of that Service.
func (c *Controller) sync(ctx context.Context, key string) {
	var err error
	began := time.Now()
	defer func() { syncDuration.WithLabelValues(key).Observe(time.Since(began).Seconds()) }()
	defer c.requestRetries(began)
	if key == incrementalSync {
		done := false
		// What an incremental sync cannot decide is left to a full one.
		if done, err = c.syncIncrementally(ctx); !done {
			c.requestFullSync()
			return
		}
		// The statuses of pools, and the metrics, follow with a full sync.
		c.queue.AddAfter(fullSync, fullSyncDelay)
	} else {
		err = c.syncFully(ctx)
	}
	if err != nil {
		// A conflict is expected: the watch has not delivered another writer's change.
		if !apierrors.IsConflict(err) {
			c.log.Warn("writes failed, retrying", "error", err)
		}
		c.queue.AddRateLimited(fullSync)
		return
	}
	c.queue.Forget(fullSync)
	if !c.synced && key == fullSync {
		c.synced = true
		c.log.Info("first sync completed")
	}
}

// requestRetries requests a full sync for the first write to a Service that is due after
// the time.
func (c *Controller) requestRetries(now time.Time) {
	if due := c.backoffs.next(now); !due.IsZero() {
		c.queue.AddAfter(fullSync, max(time.Until(due), c.limiter.wait()))
	}
}

// syncFully plans for all objects and writes what differs from the plan. A write
// that was started is completed even if ctx is done.
func (c *Controller) syncFully(ctx context.Context) error {
	if c.mustList {
		if err := c.listServices(ctx); err != nil {
			return err
		}
		c.mustList = false
	}
	if !c.poolsChecked {
		if err := c.checkPools(ctx); err != nil {
			return err
		}
		c.poolsChecked = true
	}
	c.backoffs.expire(time.Now(), func(key types.NamespacedName) bool {
		_, exists, err := c.services.GetStore().GetByKey(key.String())
		return exists || err != nil
	})
	started := time.Now()
	c.pending.reset() // before the snapshot, so that no later change is missed
	snapshot := c.snapshot()
	desired := c.planner.Decide(snapshot)
	// A renumbered address is due for release then.
	if !desired.RequeueAt.IsZero() {
		c.queue.AddAfter(fullSync, time.Until(desired.RequeueAt))
	}
	if c.balancers != nil {
		c.balancers.setDesired(desired.Cloud, desired.LiveServices, plan.TargetNodes(snapshot.Nodes))
	}
	setMetrics(desired)
	c.latencies.retain(desired.Services, started)
	c.limiter.ran(time.Since(started))
	return c.write(ctx, snapshot, desired)
}

// syncIncrementally plans for the changed Services only, and writes what differs
// from the plan. It returns false if a full sync is needed instead.
func (c *Controller) syncIncrementally(ctx context.Context) (done bool, err error) {
	// Only a full sync lists all Services.
	if c.mustList {
		return false, nil
	}
	keys, ok := c.pending.take()
	if !ok {
		return false, nil // other objects have changed, or too many Services
	}
	defer func() {
		if !done {
			c.pending.addOther() // these changes were taken, and are in no plan
		}
	}()
	var services []*corev1.Service
	for _, key := range keys {
		cached, exists, err := c.services.GetStore().GetByKey(key.String())
		// A deleted Service releases addresses.
		if err != nil || !exists {
			return false, nil
		}
		// Read your own writes: the cache may be stale.
		svc := c.ownWrites.newest(cached.(*corev1.Service))
		if svc == nil { // it was deleted, and the cache is stale
			return false, nil
		}
		services = append(services, svc)
	}
	// Without free addresses, or with sharing, other Services matter.
	planned, ok := c.planner.DecideChanged(services, time.Now())
	if !ok {
		return false, nil
	}
	// Services in their desired state need no write.
	w := c.newWrites(ctx)
	c.writeServices(w, slices.DeleteFunc(planned, func(p plan.PlannedService) bool { return p.Plan.Matches(p.Service) }))
	return true, w.wait()
}

// checkPools returns an error if the cache of pools is stale, by a quorum read. The
// first sync of a leader needs it: if a pool was labelled, selected by the previous
// leader and deleted, an older version of it would remove its name from
// status.selectedPools, and its addresses would be withdrawn.
func (c *Controller) checkPools(ctx context.Context) error {
	list, err := c.fairlead.Pools.List(ctx, metav1.ListOptions{})
	// The cache has the last known pools then, or none.
	if c.kinds.IsMissing("ipaddresspools.fairlead.io") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list all IPAddressPools: %w", err)
	}
	pools := make([]*v1alpha1.IPAddressPool, len(list.Items))
	for i := range list.Items {
		pools[i] = &list.Items[i]
	}
	var states memo.List[*v1alpha1.IPAddressPool]
	if states.Observe(pools, memo.SameGeneration) != states.Observe(c.kinds.Pools.Objects(), memo.SameGeneration) {
		return errors.New("the cache of IPAddressPools is stale")
	}
	return nil
}

// listServices reads all Services from etcd (a quorum read), because the cache may be
// stale.
func (c *Controller) listServices(ctx context.Context) error {
	list, err := c.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list all Services: %w", err)
	}
	services := make([]*corev1.Service, len(list.Items))
	for i := range list.Items {
		services[i] = &list.Items[i]
		stripService(services[i])
	}
	c.ownWrites.observeList(services, list.ResourceVersion)
	return nil
}

// snapshot returns the newest known state of all objects: the informer caches, with
// the controller's own writes to Services over them (read-your-writes).
func (c *Controller) snapshot() plan.Snapshot {
	reached := c.services.LastSyncResourceVersion() // read before the objects, which may be newer but not older
	s := plan.Snapshot{
		Policy:     c.policy,
		Objects:    c.kinds.Objects(),
		Services:   c.ownWrites.merge(c.indexed(managedIndex), reached),
		Unmanaged:  c.indexed(nodePortsIndex),
		Nodes:      client.Source[*corev1.Node]{SharedIndexInformer: c.nodes}.Objects(),
		Namespaces: client.Source[*corev1.Namespace]{SharedIndexInformer: c.namespaces}.Objects(),
		Speakers:   c.kinds.Speakers.Objects(),
		L2Nodes:    c.kinds.L2Nodes.Objects(),
		NodePorts:  c.nodePorts.current(),
		Reverted:   c.backoffs.reverted(),
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
