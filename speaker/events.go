package speaker

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// newServiceInformer watches the Services of type LoadBalancer. A Service that changes
// to another type is deleted from its cache.
func newServiceInformer(c kubernetes.Interface) cache.SharedIndexInformer {
	return coreinformers.NewFilteredServiceInformer(c, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.type", string(corev1.ServiceTypeLoadBalancer)).String()
	})
}

// byService is the index of EndpointSlices by the key of their Service.
const byService = "service"

// newEndpointSliceInformer watches the EndpointSlices, except those of headless
// Services, which do not have addresses to announce.
func newEndpointSliceInformer(c kubernetes.Interface) cache.SharedIndexInformer {
	index := cache.Indexers{byService: func(o any) ([]string, error) { return []string{serviceOf(o.(*discoveryv1.EndpointSlice))}, nil }}
	return discoveryinformers.NewFilteredEndpointSliceInformer(c, metav1.NamespaceAll, 0, index, func(o *metav1.ListOptions) {
		o.LabelSelector = "!" + corev1.IsHeadlessService
	})
}

// serviceOf returns the key of the Service that the slice belongs to.
func serviceOf(slice *discoveryv1.EndpointSlice) string {
	return cache.NewObjectName(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]).String()
}

// slicesOf returns the EndpointSlices of a Service.
func (s *Speaker) slicesOf(svc *corev1.Service) []*discoveryv1.EndpointSlice {
	objects, err := s.slices.GetIndexer().ByIndex(byService, cache.MetaObjectToName(svc).String())
	if err != nil {
		panic(fmt.Sprintf("missing index %s of EndpointSlices: %v", byService, err))
	}
	slices := make([]*discoveryv1.EndpointSlice, len(objects))
	for i, o := range objects {
		slices[i] = o.(*discoveryv1.EndpointSlice)
	}
	return slices
}

// stripObject is the transform of all informers: it drops what the speaker never
// reads, because every node's speaker caches every object that it watches. Of the
// managed fields of a Service it keeps what v1alpha1.OwnsIngress reads.
func stripObject(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Service:
		v1alpha1.StripManagedFields(o)
		return o, nil
	case *corev1.Namespace:
		o.Annotations, o.Spec, o.Status = nil, corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	case *corev1.Node:
		o.Status.Images, o.Status.VolumesAttached, o.Status.VolumesInUse = nil, nil, nil
	case *discoveryv1.EndpointSlice:
		o.Ports, o.Annotations = nil, nil
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			*e = discoveryv1.Endpoint{Conditions: e.Conditions, NodeName: e.NodeName}
		}
	case *corev1.Secret:
		for key := range o.Data {
			if key != passwordKey && !(o.Name == v1alpha1.BFDSecret && key == v1alpha1.BFDSecretKey) {
				delete(o.Data, key)
			}
		}
	}
	return client.StripManagedFields(object)
}

// eventHandler returns the event filter of the informers: it requests a sync for events
// that can change what this node announces.
func (s *Speaker) eventHandler() cache.ResourceEventHandler {
	wakeIf := func(affected bool, o any) {
		if affected {
			kind := fmt.Sprintf("%T", o)
			s.requestSync(kind[strings.LastIndexByte(kind, '.')+1:])
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { wakeIf(s.affectsPlan(nil, o), o) },
		UpdateFunc: func(was, is any) {
			if svc, ok := is.(*corev1.Service); ok {
				s.dataPath.ServiceChanged(was.(*corev1.Service), svc)
			}
			wakeIf(s.affectsPlan(was, is), is)
		},
		DeleteFunc: func(o any) {
			if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			// The last version of a Service may already be without its addresses.
			_, service := o.(*corev1.Service)
			wakeIf(service || s.affectsPlan(nil, o), o)
		},
	}
}

// affectsPlan reports whether a plan can depend on the difference between two versions
// of an object; before is nil if the object was added or deleted. If in doubt, it
// returns true. It is the condition of the event filter.
func (s *Speaker) affectsPlan(before, after any) bool {
	switch now := after.(type) {
	case *corev1.Service:
		was, _ := before.(*corev1.Service)
		// A Service without an address now and before is not announced.
		if len(plan.AnnounceableAddresses(now)) == 0 && (was == nil || len(plan.AnnounceableAddresses(was)) == 0) {
			return false
		}
		// A change of other fields, such as conditions, cannot change a plan.
		return was == nil || was.UID != now.UID || (now.DeletionTimestamp == nil) != (was.DeletionTimestamp == nil) ||
			v1alpha1.OwnsIngress(was) != v1alpha1.OwnsIngress(now) ||
			!equality.Semantic.DeepEqual(was.Annotations, now.Annotations) ||
			!equality.Semantic.DeepEqual(was.Labels, now.Labels) ||
			!equality.Semantic.DeepEqual(was.Spec, now.Spec) ||
			!equality.Semantic.DeepEqual(was.Status.LoadBalancer, now.Status.LoadBalancer)
	case *discoveryv1.EndpointSlice:
		was, _ := before.(*discoveryv1.EndpointSlice)
		// The slice may have moved to another Service, so both versions count.
		moved := was == nil || serviceOf(was) != serviceOf(now) || was.AddressType != now.AddressType
		if moved {
			return s.dependsOn(now, plan.HasEndpoint(now)) || was != nil && s.dependsOn(was, plan.HasEndpoint(was))
		}
		return !equality.Semantic.DeepEqual(was.Endpoints, now.Endpoints) && s.dependsOn(now, plan.HasEndpoint(was) != plan.HasEndpoint(now))
	case *corev1.Node:
		was, _ := before.(*corev1.Node)
		// Heartbeats arrive every few seconds from every node.
		return was == nil || !config.SameNode(was, now)
	case *corev1.Namespace:
		was, _ := before.(*corev1.Namespace)
		changed := was == nil || !equality.Semantic.DeepEqual(was.Labels, now.Labels)
		return changed && slices.ContainsFunc(s.kinds.Pools.Objects(), selectsNamespaces)
	case *v1alpha1.L2Node:
		was, _ := before.(*v1alpha1.L2Node)
		return was == nil || !sameInterfaces(was, now) || was.Status.ProxyNotReady != now.Status.ProxyNotReady ||
			!equality.Semantic.DeepEqual(was.Status.TakenOver, now.Status.TakenOver)
	case *v1alpha1.Speaker:
		return false // it is the own report, which is read once, at the start
	}
	return true
}

// selectsNamespaces reports whether the pool selects namespaces by their labels.
func selectsNamespaces(p *v1alpha1.IPAddressPool) bool {
	return p.Spec.ServiceAllocation != nil && len(p.Spec.ServiceAllocation.NamespaceSelectors) > 0
}

// sameInterfaces reports whether two versions of an L2Node have the same interfaces.
func sameInterfaces(a, b *v1alpha1.L2Node) bool {
	return a.UID == b.UID && equality.Semantic.DeepEqual(a.Status.Interfaces, b.Status.Interfaces)
}

// dependsOn reports whether the slice belongs to a Service whose announcement
// depends on where its endpoints are or, if the slice has its first or last one, on
// whether it has any.
func (s *Speaker) dependsOn(slice *discoveryv1.EndpointSlice, firstOrLast bool) bool {
	svc := s.services.Get(serviceOf(slice))
	return svc != nil && (plan.DependsOnEndpoints(svc) || firstOrLast && len(plan.AnnounceableAddresses(svc)) > 0)
}
