package plan

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Overlay holds the versions of Services that the controller knows from the
// answers to its own writes and lists, and that the watch has not delivered yet
// (read-your-writes). A decision on the informer's stale cache without it can assign
// one address twice. The zero value is ready for use. Its methods
// must not be called concurrently.
type Overlay struct {
	newest map[types.NamespacedName]*corev1.Service
	// Services that a write with an unknown outcome may have changed, as assumeWritten
	// returns them, in the version that the write was decided on.
	assumed map[types.NamespacedName]*corev1.Service
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

// ObserveUnknown records that it is not known whether the change has been written, or
// will be by a request that is still in flight. Until a version of the Service that is
// newer than that of the change has been observed, or its deletion, the Service counts
// as having the addresses of the change in addition to those of its version. A read of
// the same version proves nothing about a request in flight. A newer version proves that
// it has no effect any more, because each write names the version that it was decided on.
// Until then the planner returns a change for the Service, of which the write leads to a
// newer version or to a conflict.
func (o *Overlay) ObserveUnknown(c PlannedService) {
	assumed := c.assumeWritten()
	if assumed == nil {
		return
	}
	if o.assumed == nil {
		o.assumed = make(map[types.NamespacedName]*corev1.Service)
	}
	o.assumed[KeyOf(c.Service)] = assumed
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
	if len(o.newest) == 0 && len(o.assumed) == 0 && o.listed == nil {
		return append(services, cached...)
	}
	inCache := make(map[types.NamespacedName]bool, len(o.newest)+len(o.assumed))
	for _, svc := range cached {
		key := KeyOf(svc)
		if o.newest[key] != nil || o.assumed[key] != nil {
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
			services = append(services, o.assume(known))
		default:
			delete(o.newest, key)
		}
	}
	maps.DeleteFunc(o.assumed, func(key types.NamespacedName, _ *corev1.Service) bool { return !inCache[key] && o.newest[key] == nil })
	return services
}

// Newest returns the newest known version of a Service in the cache, nil if it
// has been deleted.
func (o *Overlay) Newest(cached *corev1.Service) *corev1.Service {
	key := KeyOf(cached)
	known := o.newest[key]
	switch {
	case known != nil && newerVersion(known.ResourceVersion, cached.ResourceVersion):
		return o.assume(known)
	case known == nil && o.listed != nil && !o.listed[key] && !newerVersion(cached.ResourceVersion, o.listedAt):
		return nil
	}
	return o.assume(cached)
}

// assume returns the newest version of a Service with what a write with an unknown
// outcome may have changed.
func (o *Overlay) assume(newest *corev1.Service) *corev1.Service {
	assumed := o.assumed[KeyOf(newest)]
	switch {
	case assumed == nil:
		return newest
	case newerVersion(newest.ResourceVersion, assumed.ResourceVersion):
		delete(o.assumed, KeyOf(newest))
		return newest
	}
	return assumed
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

// assumeWritten returns the Service with the addresses and pools of the plan in addition
// to its own, in the status and in the record, as the plan has them; nil if there are none.
// The result lacks the condition Provisioned: so it differs from every plan, and a write
// changes the Service in any case.
func (c PlannedService) assumeWritten() *corev1.Service {
	svc := c.Service.DeepCopy()
	shown, records := ingressAddrs(svc.Status.LoadBalancer.Ingress), config.OwnAllocation(svc)
	allocated, _, _ := strings.Cut(c.Plan.AllocatedFrom, v1alpha1.AllocationUIDSeparator)
	planned, added := ingressAddrs(c.Plan.Ingress), false
	for _, r := range config.ReadRecords(allocated) {
		if !slices.Contains(records, r) { // another address, or another pool of the same one
			records, added = append(records, r), true
		}
		// While the Service waits for others, only its record has the address.
		if slices.Contains(planned, r.Addr) && !slices.Contains(shown, r.Addr) {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: r.Addr.String()})
			added = true
		}
	}
	if !added {
		return nil
	}
	metav1.SetMetaDataAnnotation(&svc.ObjectMeta, v1alpha1.AnnotationAllocatedFrom, config.FormatAllocation(records, svc.UID))
	apimeta.RemoveStatusCondition(&svc.Status.Conditions, v1alpha1.ConditionProvisioned)
	return svc
}
