package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func applyStatus[T client.Object, L runtime.Object](ctx context.Context, r client.Resource[T, L], kind string, object T, status any) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return fmt.Errorf("encode the status of %s %s: %w", kind, object.GetName(), err)
	}
	return apply(ctx, r, kind, map[string]any{"metadata": identity(object), "status": content}, "status")
}

func apply[T client.Object, L runtime.Object](ctx context.Context, r client.Resource[T, L], kind string, content map[string]any, subresources ...string) error {
	content["apiVersion"], content["kind"] = v1alpha1.GroupVersion.String(), kind
	name := content["metadata"].(map[string]any)["name"].(string)
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", kind, name, err)
	}
	if _, err := r.Patch(ctx, name, types.ApplyPatchType, body, applyOptions(), subresources...); err != nil {
		return fmt.Errorf("apply %s %s: %w", kind, name, err)
	}
	return nil
}

// identity names the very object, in the very version, that was decided upon.
func identity(o metav1.Object) map[string]any {
	return map[string]any{"name": o.GetName(), "uid": o.GetUID(), "resourceVersion": o.GetResourceVersion()}
}

// without is a merge patch that takes finalizers off the object, whoever owns
// them.
func without(o metav1.Object, finalizers ...string) map[string]any {
	return map[string]any{
		"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion(),
		"finalizers": slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return slices.Contains(finalizers, f) }),
	}
}

// traces is a patch that removes what an apply has left of ours on a Service,
// nil if nothing is.
func (p ServicePlan) traces(was, written *corev1.Service) []byte {
	surplus := p.surplus(written)
	if !p.says() && has(written, finalizerStandard) && (owned(was) || touched(written)) {
		surplus = append(surplus, finalizerStandard)
	}
	stale := map[string]any{}
	for i, value := range p.annotations() {
		if _, has := written.Annotations[v1alpha1.RecordAnnotations[i]]; has && value == "" {
			stale[v1alpha1.RecordAnnotations[i]] = nil
		}
	}
	if len(surplus) == 0 && len(stale) == 0 {
		return nil
	}
	metadata := without(written, surplus...)
	if len(stale) > 0 {
		metadata["annotations"] = stale
	}
	return patch(metadata)
}

// patch is a merge patch of an object's metadata.
func patch(metadata map[string]any) []byte {
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(fmt.Sprintf("encode a patch: %v", err)) // strings and lists always encode
	}
	return body
}

// applyOptions force: the decision whether a field is ours was made on the
// very version that is written to.
func applyOptions() metav1.PatchOptions {
	force := true
	return metav1.PatchOptions{FieldManager: fieldManager, Force: &force}
}

// timed gives conditions their times: a condition whose status stays keeps it.
func timed(have, want []metav1.Condition) []metav1.Condition {
	var out []metav1.Condition
	for _, w := range want {
		w.LastTransitionTime = metav1.Now()
		if h := apimeta.FindStatusCondition(have, w.Type); h != nil && h.Status == w.Status {
			w.LastTransitionTime = h.LastTransitionTime
		}
		out = append(out, w)
	}
	return out
}

// writeService says everything in one apply, on the condition that the Service
// is still the one that was decided upon.
func (c *Controller) writeService(ctx context.Context, svc *corev1.Service, p ServicePlan) error {
	if len(p.NodePorts) > 0 || p.ReturnsPorts {
		if changed, err := c.writeNodePorts(ctx, svc, p); err != nil || changed {
			return err // the rest follows when the watch brings the next version
		}
	}
	metadata := identity(svc)
	status := map[string]any{}
	if len(p.Finalizers) > 0 {
		metadata["finalizers"] = p.Finalizers
	}
	records := map[string]string{}
	for i, value := range p.annotations() {
		if value != "" {
			records[v1alpha1.RecordAnnotations[i]] = value
		}
	}
	if len(records) > 0 {
		metadata["annotations"] = records
	}
	if p.writesIngress(svc) {
		// Written even if empty: an adopted address has another owner beside us.
		status["loadBalancer"] = map[string]any{"ingress": append([]corev1.LoadBalancerIngress{}, p.Ingress...)}
	}
	conditions := timed(svc.Status.Conditions, p.Conditions)
	if len(conditions) > 0 {
		status["conditions"] = conditions
	}
	body, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "status": status})
	if err != nil {
		return fmt.Errorf("encode the status of Service %s: %w", keyOf(svc), err)
	}
	c.events.writing()
	written, err := c.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.ApplyPatchType, body, applyOptions(), "status")
	if err != nil {
		return fmt.Errorf("apply the status of Service %s: %w", keyOf(svc), err)
	}
	c.view.saw(written)
	if traces := p.traces(svc, written); traces != nil {
		// Apply removes what nobody else owns; after a restored backup, or an
		// adoption, somebody else does.
		written, err := c.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, traces, metav1.PatchOptions{FieldManager: fieldManager}, "status")
		if err != nil {
			return fmt.Errorf("release Service %s: %w", keyOf(svc), err)
		}
		c.view.saw(written)
	}
	c.tell(svc, p)
	return nil
}

// writesIngress reports whether the Service's ingress is ours to write: while it
// is served, and when it is released with nothing but our addresses.
func (p ServicePlan) writesIngress(svc *corev1.Service) bool {
	return p.Serves || !p.says() && len(svc.Status.LoadBalancer.Ingress) > 0 && allRecorded(svc)
}

// Written is the Service as writing the plan leaves it, for who asks what would
// become of it.
func (p ServicePlan) Written(svc *corev1.Service) *corev1.Service {
	w := svc.DeepCopy()
	gone := p.surplus(svc)
	if !slices.Contains(p.Finalizers, finalizerStandard) && (owned(svc) || !p.says() && touched(svc)) {
		gone = append(gone, finalizerStandard)
	}
	w.Finalizers = slices.DeleteFunc(w.Finalizers, func(f string) bool { return slices.Contains(gone, f) })
	for _, f := range p.Finalizers {
		if !has(w, f) {
			w.Finalizers = append(w.Finalizers, f)
		}
	}
	for i, value := range p.annotations() {
		if value == "" {
			delete(w.Annotations, v1alpha1.RecordAnnotations[i])
		} else {
			metav1.SetMetaDataAnnotation(&w.ObjectMeta, v1alpha1.RecordAnnotations[i], value)
		}
	}
	if p.writesIngress(svc) || owned(svc) { // what an apply of ours does not say again goes
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
		return ours(c) && apimeta.FindStatusCondition(p.Conditions, c.Type) == nil
	})
	for _, c := range timed(svc.Status.Conditions, p.Conditions) {
		if have := apimeta.FindStatusCondition(svc.Status.Conditions, c.Type); have != nil {
			*have = c
		} else {
			svc.Status.Conditions = append(svc.Status.Conditions, c)
		}
	}
}

// tell reports a change of state in the log and as an Event.
func (c *Controller) tell(svc *corev1.Service, p ServicePlan) {
	if !p.says() {
		c.log.Info("service released", "service", keyOf(svc).String())
		return
	}
	for _, want := range p.Conditions {
		have := apimeta.FindStatusCondition(svc.Status.Conditions, want.Type)
		if have != nil && have.Status == want.Status && have.Reason == want.Reason {
			continue
		}
		kind := corev1.EventTypeNormal
		switch v1alpha1.Reason(want.Reason) {
		case v1alpha1.NoAddress, v1alpha1.NoSpeaker:
			continue // passing states, which the other condition or the next report explains
		case v1alpha1.Assigned, v1alpha1.Announced, v1alpha1.Renumbering, v1alpha1.Provisioning, v1alpha1.Deleting:
		default:
			kind = corev1.EventTypeWarning
		}
		c.log.Info("service changed", "service", keyOf(svc).String(), "reason", want.Reason, "message", want.Message)
		c.events.Event(svc, kind, want.Reason, want.Message)
	}
}
