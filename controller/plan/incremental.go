package plan

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// DecideChanged plans for Services that have changed, or were created, since the
// last call of Decide or DecideChanged, as Decide would if nothing else had changed.
// It only assigns free addresses: all Services keep what they hold. It is not ok if
// a changed Service shares or releases an address, is refused one, or if its plan
// depends on more than the Service: then Decide must be called next.
func (p *Planner) DecideChanged(services []*corev1.Service, now time.Time) (planned []PlannedService, ok bool) {
	if p.last == nil {
		return nil, false
	}
	d := p.last
	d.Now = now
	if p.latestRun != p.run {
		if p.latest == nil {
			p.latest = make(map[types.NamespacedName]*serviceState, len(p.order))
		}
		clear(p.latest)
		for _, svc := range p.order {
			p.latest[svc.key] = svc
		}
		p.latestRun = p.run
	}
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
	if before != nil && before.UID != svc.UID {
		if before.hasRequest { // only a full decision gives its address to another Service
			return PlannedService{}, false
		}
		before = nil
	}
	if before != nil && len(before.Spec.ExternalIPs) > 0 {
		return PlannedService{}, false
	}
	s := p.serviceState(d, svc)
	p.latest[s.key] = s
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
	// A refusal may depend on any other Service.
	provisioned := apimeta.FindStatusCondition(s.plan.Conditions, v1alpha1.ConditionProvisioned)
	if !s.plan.Serves || provisioned == nil || provisioned.Reason != string(v1alpha1.Assigned) {
		return PlannedService{}, false
	}
	return PlannedService{s.Service, s.plan}, true
}

// extendAllocation returns the assignment of the Service: that of its last version,
// if it requests the same and shows what it was assigned, or free addresses.
func (p *Planner) extendAllocation(s, before *serviceState) (allocator.Assignment, bool) {
	switch {
	// What it held before can be released by a full decision only.
	case !s.hasRequest:
		return allocator.Assignment{}, before == nil || !before.hasRequest
	case before == nil || !before.hasRequest:
		return p.allocator.Extend(&s.request)
	case !before.planned || len(before.assignment.GivesUp) > 0 || !sameRequest(s.request, before.request):
		return allocator.Assignment{}, false
	}
	unknown := func(h allocator.Have) bool {
		return !slices.ContainsFunc(before.assignment.Held, func(held allocator.Held) bool {
			return held.Addr == h.Addr && held.Pool == h.Pool
		})
	}
	// It shows what it showed before, or what the last plan wrote.
	shown, same := s.request.Have, slices.Equal(s.request.Have, before.request.Have)
	if !same && (len(shown) != len(before.assignment.Held) || slices.ContainsFunc(shown, unknown)) {
		return allocator.Assignment{}, false
	}
	// What it was assigned and does not show yet may still be in another status.
	for _, h := range before.assignment.Held {
		shows := slices.ContainsFunc(shown, func(have allocator.Have) bool { return have.Addr == h.Addr })
		if !shows && p.allocator.MustBeReleased(h.Addr) {
			return allocator.Assignment{}, false
		}
	}
	return before.assignment, true
}

// sameRequest compares two requests of one Service, except what it shows. Neither
// may share or release addresses.
func sameRequest(a, b allocator.Request) bool {
	return a.Role == b.Role && a.Frozen == b.Frozen && a.Pinned == b.Pinned && a.Departed == b.Departed &&
		slices.Equal(a.Families, b.Families) && slices.Equal(a.Addrs, b.Addrs) &&
		slices.Equal(a.Pools, b.Pools) && slices.Equal(a.Barred, b.Barred) && slices.Equal(a.Selected, b.Selected) &&
		slices.Equal(a.Prefer, b.Prefer)
}

// dependentAnnotations are the annotations that make a Service depend on others, or
// release an address.
var dependentAnnotations = slices.Concat(v1alpha1.AllowSharedIPAnnotations, v1alpha1.NamespacedSharingAnnotations, []string{
	v1alpha1.AnnotationRelease, v1alpha1.AnnotationRenumber, v1alpha1.AnnotationLeaving,
})

// dependsOnOthers reports whether the Service shares or releases addresses, or may be
// adopted from another implementation.
func dependsOnOthers(svc *corev1.Service) bool {
	for _, name := range dependentAnnotations {
		if _, set := svc.Annotations[name]; set {
			return true
		}
	}
	// Automatic allocation avoids external IPs.
	if len(svc.Spec.ExternalIPs) > 0 || recordedTerms(svc) != "" {
		return true
	}
	// What is only in the status or only in the record may have another holder.
	return len(config.OwnAllocation(svc)) != len(svc.Status.LoadBalancer.Ingress) || !allRecorded(svc)
}

// ingressAddrs are the canonical IP addresses in an ingress.
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
// controller itself writes cannot, nor can a heartbeat of a kubelet. It is part of
// the controller's event filter.
func AffectsAllocation(was, is metav1.Object) bool {
	if a, isNode := was.(*corev1.Node); isNode {
		return !config.SameNode(a, is.(*corev1.Node))
	}
	return !memo.SameGeneration(was, is)
}
