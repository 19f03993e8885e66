package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const (
	// reportInterval is the shortest time between two writes of a report: a rate limit,
	// so that a burst of new Services causes a few large reports, not many small ones.
	reportInterval = 100 * time.Millisecond

	// missingInterval is the wait before a report is retried if the kind is missing. A
	// report is written as soon as the kind is served again, before its objects are
	// listed: without L2Nodes the addresses would have no owners.
	missingInterval = 5 * time.Second

	// writeTimeout bounds a write of a report.
	writeTimeout = 10 * time.Second
)

// reportKind is one of the kinds with an object that the speaker of each node writes: T is
// the kind, with the list L and the status S.
type reportKind[T client.Object, L runtime.Object, S any] struct {
	name      string // "Speaker"
	crd       string // name of the CustomResourceDefinition
	client    client.Resource[T, L]
	cached    client.Source[T]
	newObject func(metav1.ObjectMeta) T
	status    func(T) *S
}

// report is the object of one kind that the speaker of this node writes. Its methods may be
// called concurrently.
type report[T client.Object, L runtime.Object, S any] struct {
	reportKind[T, L, S]
	node    string
	owner   func() *corev1.Node // of the object; nil while the Node is not in the cache
	missing func() bool         // whether the kind is
	log     *slog.Logger
	changed chan struct{} // the desired or the observed status has changed

	mu      sync.Mutex
	desired *S // nil before the first sync
}

type (
	speakerReport = report[*v1alpha1.Speaker, *v1alpha1.SpeakerList, v1alpha1.SpeakerStatus]
	l2NodeReport  = report[*v1alpha1.L2Node, *v1alpha1.L2NodeList, v1alpha1.L2NodeStatus]
)

// newReport returns the report of the speaker in an object of the kind, without a desired
// status.
func newReport[T client.Object, L runtime.Object, S any](
	s *Speaker, changed chan struct{}, kind reportKind[T, L, S],
) *report[T, L, S] {
	return &report[T, L, S]{
		reportKind: kind, node: s.node, log: s.log, changed: changed,
		owner:   func() *corev1.Node { return s.nodes.Get(s.node) },
		missing: func() bool { return s.kinds.IsMissing(kind.crd) },
	}
}

// watch makes the report be compared again whenever its object has changed.
func (r *report[T, L, S]) watch() error {
	changed := func(any) { notify(r.changed) }
	_, err := r.cached.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed,
	})
	return err
}

// set replaces the desired status by what next makes of it.
func (r *report[T, L, S]) set(next func(before S) S) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var before S
	if r.desired != nil {
		before = *r.desired
	}
	desired := next(before)
	r.desired = &desired
	notify(r.changed)
}

// run writes the object whenever its status differs from the desired one, until ctx ends,
// in a goroutine of its own, so that announcing never waits for the API server.
func (r *report[T, L, S]) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		}
		wait := reportInterval
		if err := r.write(ctx); err != nil && ctx.Err() == nil {
			if r.missing() {
				wait = missingInterval
			} else if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				wait = retryInterval
				r.log.Warn("report failed, retrying", "error", err)
			}
			notify(r.changed)
		}
		sleepContext(ctx, wait)
	}
}

// errNoNode is returned while the node's own object is not in the cache.
var errNoNode = errors.New("the Node does not exist: check --node-name")

// write updates the object, and creates it first if it does not exist. The update conflicts
// if the cached version is not the current one (optimistic locking).
func (r *report[T, L, S]) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	r.mu.Lock()
	desired := r.desired
	r.mu.Unlock()
	if desired == nil {
		return nil // an empty report would make other nodes the owners of this node's addresses
	}
	observed, exists := r.observed()
	// If the kind is missing, the cache has the last known object.
	if !exists || r.missing() {
		node := r.owner()
		if node == nil {
			return fmt.Errorf("create %s %s: %w", r.name, r.node, errNoNode)
		}
		created, err := r.client.Create(ctx, r.newObject(metav1.ObjectMeta{
			Name:            r.node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) && exists { // the cache is that of the time before the kind was missing
			created, err = r.client.Get(ctx, r.node, metav1.GetOptions{})
		}
		if err != nil {
			return fmt.Errorf("create %s %s: %w", r.name, r.node, err)
		}
		observed = created
	}
	if equality.Semantic.DeepEqual(*r.status(observed), *desired) {
		return nil
	}
	next := observed.DeepCopyObject().(T)
	*r.status(next) = *desired
	if _, err := r.client.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of %s %s: %w", r.name, r.node, err)
	}
	return nil
}

// observed returns the object in the cache, if there is one.
func (r *report[T, L, S]) observed() (object T, exists bool) {
	stored, exists, err := r.cached.GetStore().GetByKey(r.node)
	if exists = exists && err == nil; exists {
		object = stored.(T)
	}
	return object, exists
}
