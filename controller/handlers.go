package controller

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// maxIncremental is the number of changed Services above which a full sync costs
// less than an incremental one.
const maxIncremental = 1000

// pendingChanges collects what has changed since the last sync. Its methods may be
// called concurrently.
type pendingChanges struct {
	mu       sync.Mutex
	services map[types.NamespacedName]bool
	other    bool // another object has changed that affects allocations
}

func (c *pendingChanges) add(service types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.services == nil {
		c.services = map[types.NamespacedName]bool{}
	}
	c.services[service] = true
}

func (c *pendingChanges) addOther() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.other = true
}

// reset is called before a full sync, which sees all changes.
func (c *pendingChanges) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.services, c.other = nil, false
}

// take returns and removes the changed Services. It is not ok if other objects have
// changed, or if a full sync costs less.
func (c *pendingChanges) take() (keys []types.NamespacedName, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.other || len(c.services) >= maxIncremental {
		return nil, false
	}
	for key := range c.services {
		keys = append(keys, key)
	}
	c.services = nil
	return keys, true
}

// fullSyncLimiter rate-limits full syncs to a fraction of the time.
type fullSyncLimiter struct {
	mu   sync.Mutex
	next time.Time
}

// ran records the duration of a full sync, from which the next start follows.
func (l *fullSyncLimiter) ran(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = time.Now().Add((fullSyncShare - 1) * d)
}

func (l *fullSyncLimiter) wait() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.next)
}

// requestFullSync enqueues a full sync as soon as the rate limit permits.
func (c *Controller) requestFullSync() { c.queue.AddAfter(fullSync, c.limiter.wait()) }

// handler returns the event filter of an informer: it requests a sync for events that
// can change a plan, and drops the others.
func (c *Controller) handler(of cache.SharedIndexInformer) cache.ResourceEventHandler {
	switch of {
	case c.services:
		return c.serviceHandler()
	case c.kinds.Speakers.SharedIndexInformer:
		return c.reportHandler(func(was, is any) bool {
			return equality.Semantic.DeepEqual(was.(*v1alpha1.Speaker).Status, is.(*v1alpha1.Speaker).Status)
		})
	case c.kinds.L2Nodes.SharedIndexInformer:
		return c.reportHandler(func(was, is any) bool {
			return equality.Semantic.DeepEqual(was.(*v1alpha1.L2Node).Status, is.(*v1alpha1.L2Node).Status)
		})
	}
	changed := func(any) {
		c.pending.addOther()
		c.requestFullSync()
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: changed, DeleteFunc: changed, UpdateFunc: func(was, is any) {
		if plan.AffectsAllocation(was.(metav1.Object), is.(metav1.Object)) {
			changed(is)
			return
		}
		switch is.(type) {
		case *v1alpha1.IPAddressPool, *v1alpha1.L2Advertisement, *v1alpha1.BGPPeer, *v1alpha1.BGPAdvertisement, *v1alpha1.Community:
			// Another writer may have changed a status that the controller owns.
			c.queue.AddAfter(fullSync, fullSyncDelay)
		}
	}}
}

// reportHandler returns the event filter of reports, which change conditions, not
// allocations.
func (c *Controller) reportHandler(same func(was, is any) bool) cache.ResourceEventHandler {
	request := func(any) { c.requestFullSync() }
	return cache.ResourceEventHandlerFuncs{AddFunc: request, DeleteFunc: request, UpdateFunc: func(was, is any) {
		if !same(was, is) {
			request(is)
		}
	}}
}

// externalIPsChanged requests a full sync: automatic allocation avoids the addresses.
func (c *Controller) externalIPsChanged() {
	c.pending.addOther()
	c.requestFullSync()
}

// serviceHandler returns the event filter of Services: it requests incremental syncs
// for changed Services, and full syncs for those that release addresses or node ports.
func (c *Controller) serviceHandler() cache.ResourceEventHandler {
	changed := func(svc *corev1.Service) {
		if c.serviceLister.leading.Load() { // otherwise another replica measures
			c.latencies.observe(svc, time.Now())
		}
		c.pending.add(plan.KeyOf(svc))
		c.queue.Add(incrementalSync)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if svc := o.(*corev1.Service); plan.Managed(svc) {
				changed(svc)
			} else if len(svc.Spec.ExternalIPs) > 0 {
				c.externalIPsChanged()
			}
		},
		UpdateFunc: func(was, is any) {
			before, svc := was.(*corev1.Service), is.(*corev1.Service)
			switch {
			case plan.Managed(svc) || plan.Managed(before):
				changed(svc)
			case hasNodePorts(before) && c.hasCloud: // a node port may be free now
				c.requestFullSync()
			case !slices.Equal(before.Spec.ExternalIPs, svc.Spec.ExternalIPs):
				c.externalIPsChanged()
			}
		},
		DeleteFunc: func(o any) {
			if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			// The addresses of a deleted Service stay reserved until a full sync.
			svc, ok := o.(*corev1.Service)
			if !ok || plan.Managed(svc) || hasNodePorts(svc) && c.hasCloud || len(svc.Spec.ExternalIPs) > 0 {
				c.requestFullSync()
			}
		},
	}
}
