package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// WithTransitionTimes returns the desired conditions with their times: where the
// status has not changed, lastTransitionTime is kept, otherwise it is now.
func WithTransitionTimes(observed, desired []metav1.Condition, now metav1.Time) []metav1.Condition {
	var out []metav1.Condition
	for _, c := range desired {
		c.LastTransitionTime = now
		if o := apimeta.FindStatusCondition(observed, c.Type); o != nil && o.Status == c.Status {
			c.LastTransitionTime = o.LastTransitionTime
		}
		out = append(out, c)
	}
	return out
}

// RemainingMetadata are the finalizers and annotations of Fairlead's that an apply
// of the plan has left on the Service, because another field manager owns them as
// well. written is what the apply returned.
func (p ServicePlan) RemainingMetadata(written *corev1.Service) (finalizers, annotations []string) {
	for i, value := range p.Records() {
		if _, has := written.Annotations[v1alpha1.RecordAnnotations[i]]; has && value == "" {
			annotations = append(annotations, v1alpha1.RecordAnnotations[i])
		}
	}
	return p.surplusFinalizers(written), annotations
}

// WritesIngress reports whether the plan writes the Service's ingress: while it is
// served, and when it is released and shows only addresses that Fairlead assigned.
func (p ServicePlan) WritesIngress(svc *corev1.Service) bool {
	return p.Serves || p.IsZero() && len(svc.Status.LoadBalancer.Ingress) > 0 && allRecorded(svc)
}

// Written returns the Service as it is after the plan has been written. A
// condition that changes its status has the zero time.
func (p ServicePlan) Written(svc *corev1.Service) *corev1.Service {
	w := svc.DeepCopy()
	removed := p.surplusFinalizers(svc)
	w.Finalizers = slices.DeleteFunc(w.Finalizers, func(f string) bool { return slices.Contains(removed, f) })
	for _, f := range p.Finalizers {
		if !hasFinalizer(w, f) {
			w.Finalizers = append(w.Finalizers, f)
		}
	}
	for i, value := range p.Records() {
		if value == "" {
			delete(w.Annotations, v1alpha1.RecordAnnotations[i])
		} else {
			metav1.SetMetaDataAnnotation(&w.ObjectMeta, v1alpha1.RecordAnnotations[i], value)
		}
	}
	// An apply removes the ingress that an earlier apply wrote and this one omits.
	if p.WritesIngress(svc) || ownsStatus(svc) || v1alpha1.OwnsIngress(svc) {
		w.Status.LoadBalancer.Ingress = p.Ingress
	}
	p.writeConditions(w)
	for _, chosen := range p.NodePorts {
		for i := range w.Spec.Ports {
			if port := &w.Spec.Ports[i]; port.Port == chosen.Port && port.Protocol == chosen.Protocol {
				port.NodePort = chosen.NodePort
			}
		}
	}
	return w
}

// writeConditions replaces Fairlead's conditions on the Service by those of the
// plan, and leaves the others unchanged.
func (p ServicePlan) writeConditions(svc *corev1.Service) {
	svc.Status.Conditions = slices.DeleteFunc(svc.Status.Conditions, func(c metav1.Condition) bool {
		return isOwnCondition(c) && apimeta.FindStatusCondition(p.Conditions, c.Type) == nil
	})
	for _, c := range WithTransitionTimes(svc.Status.Conditions, p.Conditions, metav1.Time{}) {
		if observed := apimeta.FindStatusCondition(svc.Status.Conditions, c.Type); observed != nil {
			*observed = c
		} else {
			svc.Status.Conditions = append(svc.Status.Conditions, c)
		}
	}
}

// surplusFinalizers are the finalizers on the Service that the plan removes.
func (p ServicePlan) surplusFinalizers(svc *corev1.Service) (surplus []string) {
	for _, f := range svc.Finalizers {
		removed := slices.Contains(providerFinalizers, f) || p.RemovesCleanup && f == v1alpha1.FinalizerCleanup
		if removed && !slices.Contains(p.Finalizers, f) {
			surplus = append(surplus, f)
		}
	}
	return surplus
}

// Matches reports whether the observed state of the Service is the desired one, so
// that there is nothing to write.
func (p ServicePlan) Matches(svc *corev1.Service) bool {
	missing := slices.ContainsFunc(p.Finalizers, func(f string) bool { return !hasFinalizer(svc, f) })
	// A plan has node ports only as long as they are not on the Service.
	if missing || len(p.surplusFinalizers(svc)) > 0 || len(p.NodePorts) > 0 {
		return false
	}
	for i, value := range p.Records() {
		if svc.Annotations[v1alpha1.RecordAnnotations[i]] != value {
			return false
		}
	}
	// Where the Service is not served, the ingress belongs to another controller.
	if p.Serves && !slices.EqualFunc(p.Ingress, svc.Status.LoadBalancer.Ingress, sameIngress) {
		return false
	}
	own := 0 // a condition that the plan does not have must be removed
	for i := range svc.Status.Conditions {
		if isOwnCondition(svc.Status.Conditions[i]) {
			own++
		}
	}
	return own == len(p.Conditions) && containsConditions(svc.Status.Conditions, p.Conditions)
}

func sameIngress(a, b corev1.LoadBalancerIngress) bool {
	sameMode := a.IPMode == b.IPMode || a.IPMode != nil && b.IPMode != nil && *a.IPMode == *b.IPMode
	return a.IP == b.IP && a.Hostname == b.Hostname && sameMode && equality.Semantic.DeepEqual(a.Ports, b.Ports)
}

// SameConditions compares conditions in all but their times, in any order.
func SameConditions(observed, desired []metav1.Condition) bool {
	return len(observed) == len(desired) && containsConditions(observed, desired)
}

// containsConditions reports whether all desired conditions are among the observed.
func containsConditions(observed, desired []metav1.Condition) bool {
	for i := range desired {
		d, o := &desired[i], apimeta.FindStatusCondition(observed, desired[i].Type)
		if o == nil || o.Status != d.Status || o.Reason != d.Reason || o.Message != d.Message {
			return false
		}
	}
	return true
}

// Released returns the Service as it is after Fairlead has released it: without
// anything that only Fairlead writes, and without the addresses that it assigned. A
// Service that v1alpha1.MayHaveLoadBalancer must not be released this way.
func Released(svc *corev1.Service) *corev1.Service {
	return ServicePlan{RemovesCleanup: v1alpha1.HasOwnAllocation(svc)}.Written(svc)
}
