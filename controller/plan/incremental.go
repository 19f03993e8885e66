package plan

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// DecideChanged plans for Services that have changed, or were created, since the
// last call of Decide or DecideChanged, as Decide would with nothing else changed.
// It only assigns free addresses: all other Services keep what they have, and so
// do the changed ones. It is not ok if a changed Service shares, gives up or is
// refused anything, or if its plan depends on more than the Service: then Decide
// must be called next.
func (p *Planner) DecideChanged(services []*corev1.Service, now time.Time) (planned []PlannedService, ok bool) {
	if p.last == nil {
		return nil, false
	}
	d := p.last
	d.Now = now
	for _, svc := range services {
		one, ok := p.decideChangedService(d, svc)
		if !ok {
			p.last = nil
			return nil, false
		}
		if one.Plan != nil {
			planned = append(planned, one)
		}
	}
	return planned, true
}

func (p *Planner) decideChangedService(d *decision, svc *corev1.Service) (planned PlannedService, ok bool) {
	if svc.DeletionTimestamp != nil || dependsOnOthers(svc) {
		return PlannedService{}, false
	}
	before := p.latest[KeyOf(svc)]
	if before != nil && (before.run != p.run || before.UID != svc.UID) {
		before = nil
	}
	s := p.serviceState(d, svc)
	if s.volatile {
		return PlannedService{}, false
	}
	assigned, ok := p.extendAllocation(s, before)
	if !ok {
		return PlannedService{}, false
	}
	d.planService(s, assigned)
	if s.plan == nil {
		return PlannedService{}, true
	}
	provisioned := apimeta.FindStatusCondition(s.plan.Conditions, v1alpha1.ConditionProvisioned)
	if !s.plan.Serves || provisioned == nil || provisioned.Reason != string(v1alpha1.Assigned) {
		return PlannedService{}, false
	}
	// The finalizer of a pool is written before the first Service.
	for _, h := range assigned.Held {
		if !p.inUse[h.Pool] {
			return PlannedService{}, false
		}
	}
	return PlannedService{s.Service, s.plan}, true
}

// extendAllocation returns what the Service is assigned: what its last version was, if it
// asks for nothing else and shows just that, or what is free.
func (p *Planner) extendAllocation(s, before *serviceState) (allocator.Assignment, bool) {
	switch {
	case !s.hasRequest:
		return allocator.Assignment{}, before == nil || !before.hasRequest
	case before == nil || !before.hasRequest:
		return p.allocator.Extend(&s.request)
	case !before.planned || len(before.assignment.GivesUp) > 0 || !sameRequest(s.request, before.request):
		return allocator.Assignment{}, false
	}
	unknown := func(h allocator.Have) bool {
		return !slices.ContainsFunc(before.assignment.Held, func(held allocator.Held) bool { return held.Addr == h.Addr && held.Pool == h.Pool })
	}
	shown, same := s.request.Have, slices.Equal(s.request.Have, before.request.Have)
	if !same && (len(shown) != len(before.assignment.Held) || slices.ContainsFunc(shown, unknown)) {
		return allocator.Assignment{}, false
	}
	return before.assignment, true
}

// sameRequest compares two requests of one Service in all but what it shows.
// Requests that share or release addresses are not compared.
func sameRequest(a, b allocator.Request) bool {
	return a.Role == b.Role && a.Frozen == b.Frozen && a.Pinned == b.Pinned && a.Departed == b.Departed &&
		slices.Equal(a.Families, b.Families) && slices.Equal(a.Pools, b.Pools) && slices.Equal(a.Barred, b.Barred) && slices.Equal(a.Addrs, b.Addrs)
}

// dependentAnnotations are the annotations by which a Service depends on others, or gives
// something up.
var dependentAnnotations = slices.Concat(v1alpha1.AllowSharedIPAnnotations, []string{
	v1alpha1.AnnotationSharedAs, v1alpha1.AnnotationRelease, v1alpha1.AnnotationRenumber, v1alpha1.AnnotationLeaving,
})

// dependsOnOthers reports whether the Service shares addresses or gives one up, or
// may be adopted from another implementation.
func dependsOnOthers(svc *corev1.Service) bool {
	for _, name := range dependentAnnotations {
		if _, set := svc.Annotations[name]; set {
			return true
		}
	}
	return !hasProviderFinalizer(svc) && len(svc.Status.LoadBalancer.Ingress) > 0
}

func ingressAddrs(ingress []corev1.LoadBalancerIngress) (addrs []netip.Addr) {
	for _, in := range ingress {
		if a, err := config.ParseAddr(in.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// AffectsAllocation reports whether a change of an object other than a Service
// can change the address or the provider of a Service. A status that the
// controller itself writes cannot, nor can a kubelet's heartbeat.
func AffectsAllocation(was, is metav1.Object) bool {
	if a, isNode := was.(*corev1.Node); isNode {
		return !config.SameNode(a, is.(*corev1.Node))
	}
	return !memo.SameGeneration(was, is)
}
