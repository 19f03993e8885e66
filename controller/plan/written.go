package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// WithTransitionTimes returns the desired conditions with their times: a
// condition that keeps its status keeps its lastTransitionTime, the others get
// now.
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

// RemainingMetadata are the finalizers and the annotations of ours that an apply of the
// plan has left on the Service, because another field manager owns them as well.
// was is the Service before the apply, written what the apply returned.
func (p ServicePlan) RemainingMetadata(was, written *corev1.Service) (finalizers, annotations []string) {
	finalizers = p.surplusFinalizers(written)
	if p.IsZero() && hasFinalizer(written, finalizerStandard) && (hasProviderFinalizer(was) || hasOwnState(written)) {
		finalizers = append(finalizers, finalizerStandard)
	}
	for i, value := range p.Records() {
		if _, has := written.Annotations[v1alpha1.RecordAnnotations[i]]; has && value == "" {
			annotations = append(annotations, v1alpha1.RecordAnnotations[i])
		}
	}
	return finalizers, annotations
}

// WritesIngress reports whether the Service's ingress is ours to write: while it
// is served, and when it is released with nothing but our addresses.
func (p ServicePlan) WritesIngress(svc *corev1.Service) bool {
	return p.Serves || p.IsZero() && len(svc.Status.LoadBalancer.Ingress) > 0 && allRecorded(svc)
}

// Written returns the Service as it is after the plan has been written. A
// condition that changes its status has the zero time.
func (p ServicePlan) Written(svc *corev1.Service) *corev1.Service {
	w := svc.DeepCopy()
	gone := p.surplusFinalizers(svc)
	if !slices.Contains(p.Finalizers, finalizerStandard) && (hasProviderFinalizer(svc) || p.IsZero() && hasOwnState(svc)) {
		gone = append(gone, finalizerStandard)
	}
	w.Finalizers = slices.DeleteFunc(w.Finalizers, func(f string) bool { return slices.Contains(gone, f) })
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
	if p.WritesIngress(svc) || hasProviderFinalizer(svc) { // what an apply of ours does not say again goes
		w.Status.LoadBalancer.Ingress = p.Ingress
	}
	p.writeConditions(w)
	for _, given := range p.NodePorts {
		for i := range w.Spec.Ports {
			if port := &w.Spec.Ports[i]; port.Port == given.Port && port.Protocol == given.Protocol {
				port.NodePort = given.NodePort
			}
		}
	}
	return w
}

// writeConditions makes the Service's conditions of ours those of the plan, and
// leaves the others where they are.
func (p ServicePlan) writeConditions(svc *corev1.Service) {
	svc.Status.Conditions = slices.DeleteFunc(svc.Status.Conditions, func(c metav1.Condition) bool {
		return isOwnCondition(c) && apimeta.FindStatusCondition(p.Conditions, c.Type) == nil
	})
	for _, c := range WithTransitionTimes(svc.Status.Conditions, p.Conditions, metav1.Time{}) {
		if have := apimeta.FindStatusCondition(svc.Status.Conditions, c.Type); have != nil {
			*have = c
		} else {
			svc.Status.Conditions = append(svc.Status.Conditions, c)
		}
	}
}
