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
	"github.com/fairlead-io/fairlead/controller/plan"
)

// listDelay is how long a replica that starts waits for the lease before it
// lists all Services. One that gets it at once lists only once.
const listDelay = 2 * time.Second

// serviceLister lists and watches the Services. Its lists are quorum reads: one that
// was begun while this replica led is as fresh as a new leader needs it.
type serviceLister struct {
	client         kubernetes.Interface
	leading        atomic.Bool
	listedAsLeader atomic.Bool // the last list was begun while leading
}

// newInformer is a cache of all Services. They come as a list: to have the first
// ones streamed one by one takes longer.
func (l *serviceLister) newInformer() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(listOnly{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			leading := l.leading.Load()
			if options.ResourceVersion == "0" { // any: the first list
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
			return indexIf(!plan.Managed(svc) && hasNodePorts(svc)), nil
		},
	})
}

// listOnly asks for a list where client-go prefers a stream.
type listOnly struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is how client-go asks.
func (listOnly) IsWatchListSemanticsUnSupported() bool { return true }

// ownWrites is a plan.Overlay that writes in parallel may use.
type ownWrites struct {
	mu      sync.Mutex
	overlay plan.Overlay
}

func (o *ownWrites) observe(svc *corev1.Service) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.overlay.Observe(svc)
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

// The indices of the cache of Services: those that plans are made for, and those
// of the others that occupy node ports. Beside 50,000 other Services a sync reads
// no more than these.
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
		panic(fmt.Sprintf("the cache of Services has no index %s: %v", index, err))
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
	return client.Strip(object)
}

// stripService drops the managed fields and, of a Service that no plan is made
// for, all that does not identify it or occupy an address or a port.
func stripService(svc *corev1.Service) {
	svc.ManagedFields = nil
	if plan.Managed(svc) {
		return
	}
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
