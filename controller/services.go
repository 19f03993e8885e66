package controller

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/controller/plan"
)

// beforeList is how long a replica that starts waits for the lease before it
// lists all Services. One that gets it at once lists only once.
const beforeList = 2 * time.Second

// lister lists and watches the Services. Its lists are quorum reads: one that
// was begun while this replica led is as fresh as a new leader needs it.
type lister struct {
	client  kubernetes.Interface
	leading atomic.Bool
	fresh   atomic.Bool // the last list was begun while leading
}

// informer is a cache of all Services. They come as a list: to have the first
// ones streamed one by one takes longer.
func (l *lister) informer() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(listed{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			leading := l.leading.Load()
			if options.ResourceVersion == "0" { // any: the first list
				options.ResourceVersion, options.Limit = "", 0
			}
			list, err := l.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, options)
			l.fresh.Store(leading && err == nil && options.ResourceVersion == "")
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return l.client.CoreV1().Services(metav1.NamespaceAll).Watch(ctx, options)
		},
	}}, &corev1.Service{}, 0, cache.Indexers{})
}

// listed asks for a list where client-go prefers a stream.
type listed struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is how client-go asks.
func (listed) IsWatchListSemanticsUnSupported() bool { return true }

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

func (o *ownWrites) over(cached []*corev1.Service, reached string) []*corev1.Service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.overlay.Over(cached, reached)
}

func (o *ownWrites) newest(cached *corev1.Service) *corev1.Service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.overlay.Newest(cached)
}
