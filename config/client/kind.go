package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Times of a kind that is missing. They are variables for tests.
var (
	// crdInterval is the interval at which the definition of a missing kind is read.
	crdInterval = 2 * time.Second

	// restoreDelay is the time after which the objects of a kind that was deleted and
	// defined again are listed, so that they can be restored before: until then the
	// last known ones are kept.
	restoreDelay = 30 * time.Second
)

// A kind is the source of an informer for one of Fairlead's kinds. It makes the
// informer work while the API server does not serve the kind:
//
//   - A kind that is missing when the informer starts has no objects, or, while its
//     definition is being deleted, those that are left. It is listed as soon as it is
//     served.
//   - The objects of a kind that is deleted while the informer runs are kept. The API
//     server deletes them one by one before it removes the CustomResourceDefinition,
//     which takes as long as one of them has a finalizer. So each deletion, and the
//     completeness of each list, is checked against the definition.
//
// A kind is missing only if the API server has answered that its definition does not
// exist, is being deleted or is not established. After any other error, the informer
// retries and keeps its objects.
//
// Its methods may be called concurrently.
type kind struct {
	crd      string // name of the CustomResourceDefinition
	client   rest.Interface
	informer cache.SharedIndexInformer
	log      *slog.Logger
	changed  func() // called when the kind is found missing

	mu         sync.Mutex
	missing    string // why the kind is missing; "" if it is not
	incomplete bool   // it was missing when the informer started
	lastError  error  // of the last list
}

// definitionState returns why the kind is missing, "" if it is not. It returns an
// error if that is not known.
func (k *kind) definitionState(ctx context.Context) (missing string, err error) {
	body, err := k.client.Get().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", k.crd).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return "it is not installed", nil
	}
	if err != nil {
		return "", fmt.Errorf("get CustomResourceDefinition %s: %w", k.crd, err)
	}
	var definition unstructured.Unstructured
	if err := definition.UnmarshalJSON(body); err != nil {
		return "", fmt.Errorf("decode CustomResourceDefinition %s: %w", k.crd, err)
	}
	if definition.GetDeletionTimestamp() != nil {
		return "it is being deleted", nil
	}
	if !hasEntry(definition, "type", "Established", "status", "True", "status", "conditions") {
		return "it is not established", nil
	}
	if !hasEntry(definition, "name", v1alpha1.GroupVersion.Version, "served", true, "spec", "versions") {
		return fmt.Sprintf("it does not serve the version %s", v1alpha1.GroupVersion.Version), nil
	}
	return "", nil
}

// hasEntry reports whether the list at the path has an entry with these two fields.
func hasEntry(o unstructured.Unstructured, key, name, field string, value any, path ...string) bool {
	list, _, _ := unstructured.NestedSlice(o.Object, path...)
	for _, entry := range list {
		if entry, ok := entry.(map[string]any); ok && entry[key] == name && entry[field] == value {
			return true
		}
	}
	return false
}

// isMissing reports whether the request failed because the kind is missing. The error
// is the failure, and why the definition could not be read. Without a permission for
// the kind, as for a kind that is newer than the installed manifests, the API server
// answers Forbidden.
func (k *kind) isMissing(ctx context.Context, failure error) (bool, error) {
	if !apierrors.IsNotFound(failure) && !apierrors.IsForbidden(failure) {
		return false, failure
	}
	missing, err := k.definitionState(ctx)
	if err != nil {
		return false, errors.Join(failure, err)
	}
	if missing == "" {
		return false, failure
	}
	k.setMissing(missing)
	return true, failure
}

func (k *kind) setMissing(reason string) {
	k.mu.Lock()
	first := k.missing == ""
	k.missing = reason
	k.mu.Unlock()
	if first {
		k.log.Warn("kind is missing", "crd", k.crd, "reason", reason, "objects", len(k.informer.GetStore().ListKeys()))
		k.changed()
	}
}

// state returns why the kind is missing, and whether the informer lacks objects
// because they were never known.
func (k *kind) state() (missing string, incomplete bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.missing, k.incomplete
}

// listed reports whether the informer has been passed a list, perhaps an empty one
// in place of the objects of a missing kind.
func (k *kind) listed() bool {
	_, incomplete := k.state()
	return incomplete || k.informer.HasSynced()
}

// list returns what list returns. If the kind is missing, it returns the objects that
// are left to an informer without a list, and otherwise waits for the kind.
func (k *kind) list(ctx context.Context, list func() (runtime.Object, error), empty runtime.Object) (runtime.Object, error) {
	objects, err := list()
	var missing bool
	if err == nil {
		missing = k.isBeingDeleted(ctx)
	} else if missing, err = k.isMissing(ctx, err); missing {
		objects = empty
	}
	if missing && !k.useIncomplete(ctx) {
		if err := k.waitServed(ctx); err != nil {
			return nil, err
		}
		return k.list(ctx, list, empty)
	}
	if missing {
		err = nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastError = err
	return objects, err
}

// useIncomplete reports whether the informer uses the objects that are left of a missing
// kind, because it has no list yet. Otherwise it keeps its objects.
func (k *kind) useIncomplete(ctx context.Context) bool {
	if k.informer.HasSynced() || ctx.Err() != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.incomplete = true
	return true
}

// watch returns what watch returns, without the deletions that are a part of the
// deletion of the kind. If the kind is missing, it waits for the kind and then makes
// the informer list it.
func (k *kind) watch(ctx context.Context, watch func() (watch.Interface, error)) (watch.Interface, error) {
	if missing, _ := k.state(); missing == "" {
		w, err := watch()
		if err == nil {
			return k.withoutKindDeletions(ctx, w), nil
		}
		// An informer without a list lists the kind next.
		if missing, err := k.isMissing(ctx, err); !missing || !k.listed() {
			return nil, err
		}
	}
	if err := k.waitServed(ctx); err != nil {
		return nil, err
	}
	return nil, apierrors.NewResourceExpired("CustomResourceDefinition " + k.crd + " was installed")
}

// waitServed waits until the kind is not missing. If the informer has objects of the
// kind, there is time to restore them in addition.
func (k *kind) waitServed(ctx context.Context) error {
	for {
		missing, err := k.definitionState(ctx)
		if err == nil && missing == "" {
			break
		}
		if err == nil {
			k.setMissing(missing)
		}
		if err := sleep(ctx, crdInterval); err != nil {
			return err
		}
	}
	if len(k.informer.GetStore().ListKeys()) > 0 {
		if err := sleep(ctx, restoreDelay); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missing, k.incomplete = "", false
	k.log.Info("kind is served again", "crd", k.crd)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// withoutKindDeletions returns a watch without the deletions of objects that are
// deleted together with their kind. It ends after a list of what is left of the kind,
// which the API server streams, unless the informer has no list yet.
func (k *kind) withoutKindDeletions(ctx context.Context, all watch.Interface) watch.Interface {
	events := make(chan watch.Event)
	filtered := watch.NewProxyWatcher(events)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		<-filtered.StopChan()
		cancel()
	}()
	go func() {
		defer close(events)
		defer all.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case e, ok := <-all.ResultChan():
				if !ok {
					return
				}
				if e.Type == watch.Deleted && k.isBeingDeleted(ctx) {
					continue
				}
				if isEndOfList(e) && k.isBeingDeleted(ctx) && !k.useIncomplete(ctx) {
					return
				}
				select {
				case <-ctx.Done():
					return
				case events <- e:
				}
			}
		}
	}()
	return filtered
}

// isEndOfList reports whether a watch that has begun with a list has reached its end.
func isEndOfList(e watch.Event) bool {
	o, ok := e.Object.(metav1.Object)
	return ok && e.Type == watch.Bookmark && o.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

// isBeingDeleted reports whether the kind is missing. It retries until the API server
// answers. Without the permission it returns false. Once the kind is missing, it remains so
// until it is listed again, however fast it is defined again.
func (k *kind) isBeingDeleted(ctx context.Context) bool {
	if missing, _ := k.state(); missing != "" {
		return true
	}
	for {
		missing, err := k.definitionState(ctx)
		switch {
		case err == nil && missing != "":
			k.setMissing(missing)
			return true
		case err == nil || apierrors.IsForbidden(err):
			return false
		}
		if sleep(ctx, crdInterval) != nil {
			return true // the watch has ended: the next one delivers the event again
		}
	}
}

// listWatch returns the source of an informer.
func (k *kind) listWatch(
	list func(context.Context, metav1.ListOptions) (runtime.Object, error),
	start func(context.Context, metav1.ListOptions) (watch.Interface, error), empty func() runtime.Object,
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return k.list(ctx, func() (runtime.Object, error) { return list(ctx, options) }, empty())
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return k.watch(ctx, func() (watch.Interface, error) { return start(ctx, options) })
		},
	}
}

// MissingKind is one of Fairlead's kinds that the API server does not serve.
type MissingKind struct {
	CRD     string // name of the CustomResourceDefinition
	Message string
	// Known: the informer has the objects that the kind had before it was deleted.
	Known bool
}

// IsMissing reports whether the kind of the CustomResourceDefinition is missing.
func (i Informers) IsMissing(crd string) bool {
	return slices.ContainsFunc(i.Missing(), func(m MissingKind) bool { return m.CRD == crd })
}

// Missing returns the kinds that are missing now.
func (i Informers) Missing() (all []MissingKind) {
	for _, k := range i.kinds {
		if missing, incomplete := k.state(); missing != "" {
			all = append(all, MissingKind{k.crd, "CustomResourceDefinition " + k.crd + ": " + missing, !incomplete})
		}
	}
	return all
}

// Warnings returns the kinds that are missing, but have their last known objects.
func (i Informers) Warnings() (reasons []string) {
	for _, m := range i.Missing() {
		if m.Known {
			reasons = append(reasons, m.Message+"; its last known objects are in use")
		}
	}
	return reasons
}

// NotReady returns why the caches do not represent the objects of the cluster: for
// each kind that is missing since the start, and each that has not been listed. A kind
// that was deleted later is not included: its objects are known.
func (i Informers) NotReady() (reasons []string) {
	for _, m := range i.Missing() {
		if !m.Known {
			reasons = append(reasons, m.Message)
		}
	}
	for _, k := range i.kinds {
		if k.listed() {
			continue
		}
		k.mu.Lock()
		err := k.lastError
		k.mu.Unlock()
		if err == nil {
			err = errors.New("waiting for the API server")
		}
		reasons = append(reasons, fmt.Sprintf("list %s: %v", k.crd, err))
	}
	return reasons
}
