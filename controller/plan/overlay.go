package plan

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Overlay holds the versions of Services that the controller knows from the
// answers to its own writes and lists, and that the watch has not delivered yet
// (read-your-writes). A decision on the informer's stale cache without it can assign
// one address twice. The zero value is ready for use. Its methods
// must not be called concurrently.
type Overlay struct {
	newest map[types.NamespacedName]*corev1.Service
	// The last list of all Services: a Service that it lacks had been deleted by
	// then. It is dropped when the watch has reached its resourceVersion.
	listedAt string
	listed   map[types.NamespacedName]bool
}

// Observe records a version of the Service that a write or a read returned.
func (o *Overlay) Observe(svc *corev1.Service) {
	if o.newest == nil {
		o.newest = make(map[types.NamespacedName]*corev1.Service)
	}
	if known := o.newest[KeyOf(svc)]; known == nil || newerVersion(svc.ResourceVersion, known.ResourceVersion) {
		o.newest[KeyOf(svc)] = svc
	}
}

// ObserveList records a list of all Services at a resourceVersion. A Service that
// the stale cache contains and the list does not has been deleted: a load balancer
// created for it would be orphaned.
func (o *Overlay) ObserveList(services []*corev1.Service, resourceVersion string) {
	o.listedAt, o.listed = resourceVersion, make(map[types.NamespacedName]bool, len(services))
	for _, svc := range services {
		o.listed[KeyOf(svc)] = true
		o.Observe(svc)
	}
	for key, known := range o.newest {
		if !o.listed[key] && !newerVersion(known.ResourceVersion, resourceVersion) {
			delete(o.newest, key)
		}
	}
}

// Merge returns the newest known versions of all Services: those of the cache,
// except where the overlay has a newer one. reached is the resourceVersion that
// the cache has reached: a Service that the cache lacks, although it has passed
// the version in the overlay, has been deleted.
func (o *Overlay) Merge(cached []*corev1.Service, reached string) []*corev1.Service {
	if o.listed != nil && !newerVersion(o.listedAt, reached) {
		o.listed = nil
	}
	services := make([]*corev1.Service, 0, len(cached)+len(o.newest))
	if len(o.newest) == 0 && o.listed == nil {
		return append(services, cached...)
	}
	inCache := make(map[types.NamespacedName]bool, len(o.newest))
	for _, svc := range cached {
		key := KeyOf(svc)
		if _, known := o.newest[key]; known {
			inCache[key] = true
		}
		if newest := o.Newest(svc); newest == svc {
			delete(o.newest, key)
			services = append(services, svc)
		} else if newest != nil {
			services = append(services, newest)
		}
	}
	for key, known := range o.newest {
		switch {
		case inCache[key]:
		// The watch has not delivered it yet.
		case newerVersion(known.ResourceVersion, reached):
			services = append(services, known)
		default:
			delete(o.newest, key)
		}
	}
	return services
}

// Newest returns the newest known version of a Service in the cache, nil if it
// has been deleted.
func (o *Overlay) Newest(cached *corev1.Service) *corev1.Service {
	key := KeyOf(cached)
	known := o.newest[key]
	switch {
	case known != nil && newerVersion(known.ResourceVersion, cached.ResourceVersion):
		return known
	case known == nil && o.listed != nil && !o.listed[key] && !newerVersion(cached.ResourceVersion, o.listedAt):
		return nil
	}
	return cached
}

// newerVersion compares resourceVersions. An empty one, and the "0" of a cache that
// has not listed yet, are older than any other.
func newerVersion(a, b string) bool {
	if b == "" || b == "0" {
		return a != b
	}
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}
