package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// managerBeforeApply is the manager that the API server assigns to all fields of an
// object without managed fields before the first apply.
const managerBeforeApply = "before-first-apply"

// ingressManagedFields are the managed fields of a manager that has applied the ingress.
func ingressManagedFields(manager string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationApply, Subresource: "status", APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
	}}
}

func (s *simulatedAPIServer) ownsIngress(svc *corev1.Service) bool {
	return slices.Equal(s.managers[KeyOf(svc)], []string{v1alpha1.FieldManager})
}

// apply returns the Service after the controller's apply of the plan, with the ingress
// and its managers as by a forced server-side apply.
func (s *simulatedAPIServer) apply(current *corev1.Service, p ServicePlan) *corev1.Service {
	key, svc := KeyOf(current), p.Written(current)
	observed, managers := current.Status.LoadBalancer.Ingress, slices.Clone(s.managers[key])
	if len(managers) == 0 && len(observed) > 0 {
		managers = []string{managerBeforeApply}
	}
	own := slices.Index(managers, v1alpha1.FieldManager)
	switch {
	case p.WritesIngress(current):
		svc.Status.LoadBalancer.Ingress = p.Ingress
		// What a deleted Service shows until it is gone is not assigned to it.
		s.authentic[key] = s.authentic[key] || p.AllocatedFrom != ""
		if !slices.EqualFunc(observed, p.Ingress, sameIngress) {
			managers = []string{v1alpha1.FieldManager}
		} else if own < 0 {
			managers = append(managers, v1alpha1.FieldManager)
		}
	// The apply omits a field that the controller has applied before: it is removed,
	// unless it has another manager.
	case own >= 0 && len(managers) == 1:
		svc.Status.LoadBalancer.Ingress, managers = nil, nil
	case own >= 0:
		svc.Status.LoadBalancer.Ingress, managers = observed, slices.Delete(managers, own, own+1)
	default:
		svc.Status.LoadBalancer.Ingress = observed
	}
	s.managers[key] = managers
	return svc
}

// updateIngress is another controller's or a tool's update of the status.
func (s *simulatedAPIServer) updateIngress(svc *corev1.Service, ingress ...corev1.LoadBalancerIngress) {
	if key := KeyOf(svc); !slices.EqualFunc(svc.Status.LoadBalancer.Ingress, ingress, sameIngress) {
		s.authentic[key] = false
		if s.managers[key] = nil; len(ingress) > 0 {
			s.managers[key] = []string{"other-controller"}
		}
	}
	svc.Status.LoadBalancer.Ingress = ingress
}

// disturb makes a random write of another controller, of a tool, of a backup, or of a
// tenant that forges evidence.
func (s *simulatedAPIServer) disturb(t *rapid.T, number int) {
	kind := rapid.IntRange(0, 12).Draw(t, "disturbance")
	if kind == 0 {
		s.nodes = append(s.nodes, s.changeNodes(t))
		return
	}
	if len(s.objects) == 0 {
		return
	}
	svc := s.objects[rapid.SampledFrom(sortedKeys(s.objects)).Draw(t, "disturbed")].DeepCopy()
	key := KeyOf(svc)
	switch kind {
	case 1, 2:
		if rapid.IntRange(0, 5).Draw(t, "host name") == 0 {
			s.updateIngress(svc, named("lb.example.com")...)
		} else {
			mode := corev1.LoadBalancerIPModeVIP
			s.updateIngress(svc, corev1.LoadBalancerIngress{IP: s.someAddress(t), IPMode: &mode})
		}
	case 3:
		s.updateIngress(svc)
	case 4, 5: // kubectl replace, which does not change the status
		svc.Finalizers = nil
		for _, name := range v1alpha1.RecordAnnotations {
			delete(svc.Annotations, name)
		}
		if rapid.Bool().Draw(t, "without the annotations of an administrator") {
			delete(svc.Annotations, v1alpha1.AnnotationRenumber)
			delete(svc.Annotations, v1alpha1.AnnotationRelease)
		}
		if rapid.Bool().Draw(t, "empties managed fields") {
			delete(s.managers, key)
		}
	case 6: // managed fields are forged, or emptied
		delete(s.managers, key)
		if len(svc.Status.LoadBalancer.Ingress) > 0 && rapid.IntRange(0, 3).Draw(t, "emptied") > 0 {
			s.managers[key] = []string{v1alpha1.FieldManager}
		}
	case 7, 8: // a record is forged
		uid := svc.UID
		if rapid.IntRange(0, 3).Draw(t, "of another UID") == 0 {
			uid = "other"
		}
		recorded := rapid.SampledFrom([]string{"p", "q", "none"}).Draw(t, "recorded pool")
		svc.Annotations[v1alpha1.AnnotationAllocatedFrom] = config.FormatAllocation(config.Records{{
			Addr: netip.MustParseAddr(s.someAddress(t)), Value: recorded,
		}}, uid)
		s.forged[key] = true
	case 9: // deleted, and restored from a backup
		copied := recreated(svc, svc.Name, number)
		svc.DeletionTimestamp, svc.Finalizers = &metav1.Time{}, nil
		s.put(svc)
		svc = copied
	case 10:
		svc = recreated(svc, fmt.Sprintf("%c-copy%d", 'a'+rapid.IntRange(0, 3).Draw(t, "age"), number), number)
	case 11:
		svc.Spec.ExternalIPs = []string{s.someAddress(t)}
		if rapid.Bool().Draw(t, "without load balancer") {
			addrs := svc.Spec.ExternalIPs
			svc = service(fmt.Sprintf("e%d", number), clusterIP, serving("TCP", 80))
			svc.Spec.ExternalIPs = addrs
		}
	case 12: // moves to another controller or is served by none, or back
		if !servedByPools(svc) {
			svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, nil
			break
		}
		clusterIP(svc)
		delete(s.managers, key)
		if rapid.Bool().Draw(t, "with a class") {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			classed("example.com/lb")(svc)
		}
	}
	svc = s.put(svc)
	for _, h := range haveAddresses(svc) {
		_, assigned := s.assignedAddresses(svc).Of(h.Addr)
		at := holder{KeyOf(svc), h.Addr.String()}
		// A lost address may have been assigned to another Service since, and the
		// controller may have written this one before the other holder.
		if h.Evidence == allocator.RecordedAndShown && (!assigned || s.assignedElsewhere(at)) {
			s.stolen[at] = true
		}
	}
}

// dropStolen forgets the stolen addresses for which the Service, nil if it was deleted,
// has no evidence any more that a controller keeps at the expense of others. A status that
// a controller has written proves a stolen address even after the record was dropped.
func (s *simulatedAPIServer) dropStolen(key types.NamespacedName, svc *corev1.Service) {
	maps.DeleteFunc(s.stolen, func(h holder, _ bool) bool {
		if h.NamespacedName != key || svc == nil {
			return h.NamespacedName == key
		}
		e := evidenceOf(svc, netip.MustParseAddr(h.addr))
		return !(e.shown && e.recorded || e.managed && s.authentic[key])
	})
}

// assignedElsewhere reports whether the controllers wrote the address to another Service.
func (s *simulatedAPIServer) assignedElsewhere(h holder) bool {
	return slices.ContainsFunc(sorted(s.objects), func(svc *corev1.Service) bool {
		return KeyOf(svc) != h.NamespacedName && s.authentic[KeyOf(svc)] &&
			slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.IP == h.addr })
	})
}

func servedByPools(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

// recreated returns a Service with another UID that has the annotations and the spec of
// svc, and neither its status nor its finalizers.
func recreated(svc *corev1.Service, name string, number int) *corev1.Service {
	created := service(name, func(c *corev1.Service) {
		c.UID = types.UID(fmt.Sprintf("%s-%d", name, number))
		c.Annotations, c.Spec = maps.Clone(svc.Annotations), *svc.Spec.DeepCopy()
	})
	return created
}

// someAddress is an address in or out of the pools, of a node, or in use.
func (s *simulatedAPIServer) someAddress(t *rapid.T) string {
	var used []string
	for _, svc := range sorted(s.objects) {
		for _, h := range haveAddresses(svc) {
			used = append(used, h.Addr.String())
		}
	}
	if len(used) > 0 && rapid.Bool().Draw(t, "used") {
		return rapid.SampledFrom(used).Draw(t, "address in use")
	}
	if n := rapid.IntRange(0, 11).Draw(t, "address"); n < 10 {
		return fmt.Sprintf("192.0.2.%d", n)
	}
	return "203.0.113.9"
}

// changeNodes returns the nodes after one has joined, often with an address of a pool,
// or all have left.
func (s *simulatedAPIServer) changeNodes(t *rapid.T) []*corev1.Node {
	if rapid.IntRange(0, 2).Draw(t, "leave") == 0 {
		return nil
	}
	nodes := s.nodes[len(s.nodes)-1]
	return append(slices.Clone(nodes), readyNode(fmt.Sprintf("n%d", len(s.nodes)), func(n *corev1.Node) {
		n.UID = types.UID(n.Name)
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: s.someAddress(t)}}
	}))
}
