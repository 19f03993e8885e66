// Package memo caches values that are derived from API objects until one of the
// objects changes. A List numbers the states of a list of objects, and a Value is
// recomputed when the numbers in its key change. The cost of a sync then depends on
// what has changed since the last one, and the keys define what invalidates a value.
package memo

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// List numbers the states of a list of cluster-scoped objects. The zero value
// is ready for use. It must not be used concurrently.
type List[T metav1.Object] struct {
	objects map[string]T
	state   uint64
}

// Observe returns the number of the list's state. It changes if an object was added,
// removed, or changed so that same is false for its two versions. Objects with the same pointer are the same version, as in an
// informer's cache, and are not compared. The order of the list is
// ignored.
func (l *List[T]) Observe(objects []T, same func(a, b T) bool) uint64 {
	changed := l.state == 0 || len(objects) != len(l.objects)
	for _, o := range objects {
		known, ok := l.objects[o.GetName()]
		if ok && any(known) == any(o) {
			continue
		}
		if changed = changed || !ok || !same(known, o); changed {
			break
		}
		l.objects[o.GetName()] = o // the next call compares pointers
	}
	if changed {
		l.state++
		l.objects = make(map[string]T, len(objects))
		for _, o := range objects {
			l.objects[o.GetName()] = o
		}
	}
	return l.state
}

// Value is a value that depends only on the states in its key. The zero Value is
// ready for use. It must not be used concurrently.
type Value[K comparable, V any] struct {
	key   K
	value *V
}

// Get returns the value for the key: the cached one if the key is the same, otherwise
// a computed one. The value is shared and must not be changed.
func (v *Value[K, V]) Get(key K, compute func() V) V {
	if v.value == nil || v.key != key {
		value := compute()
		v.key, v.value = key, &value
	}
	return *v.value
}

// SameGeneration reports whether two versions of an object are equal in their
// spec and in the metadata that describes the user's intent: everything except
// the status, the annotations and the finalizers. It is for kinds that have a
// generation, which the API server increments with each change of the spec. The
// UID distinguishes an object from one that was recreated with the same name.
func SameGeneration[T metav1.Object](a, b T) bool {
	return a.GetUID() == b.GetUID() && a.GetGeneration() == b.GetGeneration() &&
		(a.GetDeletionTimestamp() == nil) == (b.GetDeletionTimestamp() == nil) && maps.Equal(a.GetLabels(), b.GetLabels())
}

// SameVersion reports whether an object is unchanged. It is for kinds without a
// generation, and for those with a status that is read.
func SameVersion[T metav1.Object](a, b T) bool {
	return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}
