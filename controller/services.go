package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// listDelay is how long a replica waits for the lease after its start before it
// lists all Services. A replica that gets the lease within it lists only once.
const listDelay = 2 * time.Second

// serviceLister lists and watches the Services. Its lists are quorum reads: a list
// that was started while this replica led contains all writes of previous leaders,
// as a stale cache does not.
type serviceLister struct {
	client         kubernetes.Interface
	leading        atomic.Bool
	listedAsLeader atomic.Bool // the last list was started while leading
}

// newInformer returns an informer of all Services. It starts with a list, which is
// faster than to stream the Services one by one.
func (l *serviceLister) newInformer() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(listOnly{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			leading := l.leading.Load()
			if options.ResourceVersion == "0" { // the first list: any version would do for client-go
				options.ResourceVersion, options.Limit = "", 0
			}
			list, err := l.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, options)
			l.listedAsLeader.Store(leading && err == nil && options.ResourceVersion == "")
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return l.client.CoreV1().Services(metav1.NamespaceAll).Watch(ctx, options)
		},
	}}, &corev1.Service{}, 0, cache.Indexers{
		managedIndex: func(o any) ([]string, error) { return indexIf(plan.Managed(o.(*corev1.Service))), nil },
		nodePortsIndex: func(o any) ([]string, error) {
			svc := o.(*corev1.Service)
			return indexIf(!plan.Managed(svc) && (hasNodePorts(svc) || len(svc.Spec.ExternalIPs) > 0)), nil
		},
	})
}

// listOnly makes an informer list where client-go prefers to stream.
type listOnly struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported disables streaming in client-go.
func (listOnly) IsWatchListSemanticsUnSupported() bool { return true }

// ownWrites is a plan.Overlay (read-your-writes) for concurrent use.
type ownWrites struct {
	mu      sync.Mutex
	overlay plan.Overlay
}

func (o *ownWrites) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.overlay = plan.Overlay{}
}

func (o *ownWrites) observe(svc *corev1.Service) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.overlay.Observe(svc)
}

func (o *ownWrites) observeUnknown(change plan.PlannedService) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.overlay.ObserveUnknown(change)
}

func (o *ownWrites) observeList(services []*corev1.Service, resourceVersion string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.overlay.ObserveList(services, resourceVersion)
}

func (o *ownWrites) merge(cached []*corev1.Service, reached string) []*corev1.Service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.overlay.Merge(cached, reached)
}

func (o *ownWrites) newest(cached *corev1.Service) *corev1.Service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.overlay.Newest(cached)
}

// The indices of the cache of Services: those that are Managed, and those of the
// others that occupy node ports. A sync reads only these, however many other
// Services there are.
const managedIndex, nodePortsIndex = "managed", "node-ports"

// member is the one value of both indices.
const member = "true"

func indexIf(is bool) []string {
	if is {
		return []string{member}
	}
	return nil
}

// indexed returns the Services in an index of the cache.
func (c *Controller) indexed(index string) []*corev1.Service {
	objects, err := c.services.GetIndexer().ByIndex(index, member)
	if err != nil {
		panic(fmt.Sprintf("read index %s of the cache of Services: %v", index, err))
	}
	services := make([]*corev1.Service, len(objects))
	for i, o := range objects {
		services[i] = o.(*corev1.Service)
	}
	return services
}

func hasNodePorts(svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort != 0 })
}

// stripObject is the transform of the informer of Services.
func stripObject(object any) (any, error) {
	if svc, ok := object.(*corev1.Service); ok {
		stripService(svc)
		return svc, nil
	}
	return client.StripManagedFields(object)
}

// stripService reduces the managed fields to what is read and removes, from a Service that is not Managed,
// everything except its identity, its addresses and its node ports.
func stripService(svc *corev1.Service) {
	v1alpha1.StripManagedFields(svc)
	if plan.Managed(svc) {
		return
	}
	svc.ManagedFields = nil
	m, spec := svc.ObjectMeta, svc.Spec
	svc.ObjectMeta = metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
	svc.Spec = corev1.ServiceSpec{Type: spec.Type, ExternalIPs: spec.ExternalIPs, ClusterIP: spec.ClusterIP, ClusterIPs: spec.ClusterIPs}
	for _, p := range spec.Ports {
		if p.NodePort != 0 {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port, NodePort: p.NodePort})
		}
	}
	svc.Status = corev1.ServiceStatus{}
}
