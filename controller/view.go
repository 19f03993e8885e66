package controller

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// view keeps the freshest known version of the Services whose news the watch
// has not brought yet. A decision made without it would be a right answer to
// an old question: it would hand out an address twice.
type view struct {
	mu    sync.Mutex
	ahead map[types.NamespacedName]*corev1.Service
	// The last list of all Services: what it lacks was gone by then. Forgotten
	// when the watch has come as far.
	listedAt string
	listed   map[types.NamespacedName]bool
}

// saw records a version of the Service that came as the answer to a write or a
// list, not by the watch.
func (v *view) saw(svc *corev1.Service) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.see(svc)
}

// sawAll records a list of all Services, as of the resource version. A Service
// that the cache still has, and the list has not, is deleted: a balancer made
// for it would be nobody's.
func (v *view) sawAll(services []*corev1.Service, at string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.listedAt, v.listed = at, make(map[types.NamespacedName]bool, len(services))
	for _, svc := range services {
		v.listed[keyOf(svc)] = true
		v.see(svc)
	}
	for key, known := range v.ahead {
		if !v.listed[key] && !newer(known.ResourceVersion, at) {
			delete(v.ahead, key)
		}
	}
}

func (v *view) see(svc *corev1.Service) {
	if v.ahead == nil {
		v.ahead = make(map[types.NamespacedName]*corev1.Service)
	}
	if known := v.ahead[keyOf(svc)]; known == nil || newer(svc.ResourceVersion, known.ResourceVersion) {
		v.ahead[keyOf(svc)] = svc
	}
}

// over is what the cache holds, seen through the newer versions. upTo is the
// resource version that the cache has reached: a Service that it lacks although
// it has come past the known version is deleted.
func (v *view) over(cached []*corev1.Service, upTo string) []*corev1.Service {
	v.mu.Lock()
	defer v.mu.Unlock()
	services := make([]*corev1.Service, 0, len(cached)+len(v.ahead))
	inCache := make(map[types.NamespacedName]bool, len(v.ahead))
	if v.listed != nil && !newer(v.listedAt, upTo) {
		v.listed = nil
	}
	for _, svc := range cached {
		known := v.ahead[keyOf(svc)]
		if known == nil && v.listed != nil && !v.listed[keyOf(svc)] && !newer(svc.ResourceVersion, v.listedAt) {
			continue
		}
		if known != nil {
			if newer(known.ResourceVersion, svc.ResourceVersion) {
				svc = known
			} else {
				delete(v.ahead, keyOf(svc))
			}
			inCache[keyOf(svc)] = true
		}
		services = append(services, svc)
	}
	for key, known := range v.ahead {
		switch {
		case inCache[key]:
		case newer(known.ResourceVersion, upTo):
			services = append(services, known)
		default:
			delete(v.ahead, key)
		}
	}
	return services
}

// of is the freshest known version of the Service that the cache holds; nil if
// it is gone.
func (v *view) of(cached *corev1.Service) *corev1.Service {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := keyOf(cached)
	known := v.ahead[key]
	switch {
	case known != nil && newer(known.ResourceVersion, cached.ResourceVersion):
		return known
	case known == nil && v.listed != nil && !v.listed[key] && !newer(cached.ResourceVersion, v.listedAt):
		return nil
	}
	return cached
}

// newer compares resource versions. None, and the "0" of nothing seen yet, are
// older than any.
func newer(a, b string) bool {
	if b == "" || b == "0" {
		return a != b
	}
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}
