package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// The keys of the queue.
const fullSync, incrementalSync = "full", "incremental"

const (
	// fullSyncDelay is the time from an incremental sync, or from a change that
	// affects no allocation, to the full sync that follows it.
	fullSyncDelay = time.Second

	// fullSyncShare limits full syncs to a fraction of the time, one in so many:
	// in a burst the API server can use the rest.
	fullSyncShare = 5
)

// Watch runs the informers of Services and of Fairlead's own kinds until ctx is
// done. A replica that does not lead runs them as well, so that it takes over
// with synced caches.
func (c *Controller) Watch(ctx context.Context) {
	for _, i := range c.kinds.All() {
		go i.RunWithContext(ctx)
	}
	select {
	case <-ctx.Done():
		return
	case <-c.leading:
	case <-time.After(listDelay):
	}
	c.services.RunWithContext(ctx)
}

// Run syncs until ctx is done, and returns after its last write has returned.
// Only the leader may call it.
func (c *Controller) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, c.queue.ShutDown)()
	c.serviceLister.leading.Store(true)
	close(c.leading)
	go c.events.run(ctx)
	var synced []cache.DoneChecker
	for _, i := range c.informers() {
		synced = append(synced, i.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return // ctx is done
	}
	// The watch may not have delivered the writes of the last leader yet.
	c.outcomeUnknown.Store(!c.serviceLister.listedAsLeader.Load())
	c.log.Info("controller started", "provider", c.policy.Mode)
	if c.balancers != nil {
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { c.balancers.run(ctx) })
	}
	c.queue.Add(fullSync)
	for {
		key, shutdown := c.queue.Get()
		if shutdown {
			return
		}
		c.sync(ctx, key)
		c.queue.Done(key)
	}
}

// sync runs one sync, and retries a failed one with backoff.
func (c *Controller) sync(ctx context.Context, key string) {
	var err error
	if key == incrementalSync {
		done := false
		if done, err = c.syncIncrementally(ctx); !done {
			c.requestFullSync()
			return
		}
		c.queue.AddAfter(fullSync, fullSyncDelay)
	} else {
		err = c.syncFully(ctx)
	}
	if err != nil {
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

// syncFully plans for all objects and writes what differs from the plan. A write
// that was started is completed even if ctx is done.
func (c *Controller) syncFully(ctx context.Context) error {
	if c.outcomeUnknown.Load() {
		if err := c.listServices(ctx); err != nil {
			return err
		}
		c.outcomeUnknown.Store(false)
	}
	began := time.Now()
	c.pending.reset()
	snapshot := c.snapshot()
	desired := c.planner.Decide(snapshot)
	if !desired.RequeueAt.IsZero() {
		c.queue.AddAfter(fullSync, time.Until(desired.RequeueAt))
	}
	if c.balancers != nil {
		c.balancers.setDesired(desired.Cloud, desired.LiveServices, plan.TargetNodes(snapshot.Nodes))
	}
	setMetrics(desired)
	c.limiter.ran(time.Since(began))
	return c.write(ctx, snapshot, desired)
}

// syncIncrementally plans for the changed Services only, and writes what differs
// from the plan. It is not done if that needs a full sync.
func (c *Controller) syncIncrementally(ctx context.Context) (done bool, err error) {
	if c.outcomeUnknown.Load() {
		return false, nil
	}
	keys, ok := c.pending.take()
	if !ok {
		return false, nil
	}
	defer func() {
		if !done {
			c.pending.addOther() // the state for incremental syncs does not know them
		}
	}()
	var services []*corev1.Service
	for _, key := range keys {
		cached, exists, err := c.services.GetStore().GetByKey(key.String())
		if err != nil || !exists {
			return false, nil
		}
		svc := c.ownWrites.newest(cached.(*corev1.Service))
		if svc == nil {
			return false, nil
		}
		services = append(services, svc)
	}
	planned, ok := c.planner.DecideChanged(services, time.Now())
	if !ok {
		return false, nil
	}
	w := c.newWrites(ctx)
	c.writeServices(w, slices.DeleteFunc(planned, func(p plan.PlannedService) bool { return p.Plan.Matches(p.Service) }))
	return true, w.wait()
}

// listServices reads all Services from etcd (a quorum read), not from the cache.
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

// snapshot returns the newest known state of all objects.
func (c *Controller) snapshot() plan.Snapshot {
	reached := c.services.LastSyncResourceVersion() // before the objects, which may be newer but not older
	s := plan.Snapshot{
		Policy:     c.policy,
		Objects:    c.kinds.Objects(),
		Services:   c.ownWrites.merge(c.indexed(managedIndex), reached),
		Unmanaged:  c.indexed(nodePortsIndex),
		Nodes:      client.Source[*corev1.Node]{SharedIndexInformer: c.nodes}.Objects(),
		Namespaces: client.Source[*corev1.Namespace]{SharedIndexInformer: c.namespaces}.Objects(),
		Speakers:   c.kinds.Speakers.Objects(),
		NodePorts:  c.nodePorts.current(),
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
