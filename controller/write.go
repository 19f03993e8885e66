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
// them, and deletes the record of addresses.
func without(o metav1.Object, finalizers ...string) []byte {
	metadata := map[string]any{
		"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion(),
		"finalizers":  slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return slices.Contains(finalizers, f) }),
		"annotations": map[string]any{v1alpha1.AnnotationAllocatedFrom: nil},
	}
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(fmt.Sprintf("encode a patch for %s: %v", o.GetName(), err)) // strings and lists always encode
	}
	return body
}

// traces is a patch that removes what is left of ours on a Service that was
// released, nil if nothing is.
func (p ServicePlan) traces(svc *corev1.Service) []byte {
	if p.says() || !touched(svc) && !slices.Contains(svc.Finalizers, finalizerStandard) {
		return nil
	}
	return without(svc, v1alpha1.FinalizerBareMetal, finalizerStandard)
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
