package v1alpha1

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOwnsIngress(t *testing.T) {
	entry := func(manager, subresource string, operation metav1.ManagedFieldsOperationType, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Subresource: subresource, Operation: operation, FieldsV1: metav1.NewFieldsV1(fields),
		}
	}
	const ingress = `{"f:status":{"f:conditions":{".":{}},"f:loadBalancer":{"f:ingress":{}}}}`
	own := entry(FieldManager, "status", metav1.ManagedFieldsOperationApply, ingress)
	for _, test := range []struct {
		name    string
		entries []metav1.ManagedFieldsEntry
		want    bool
	}{
		{"none", nil, false},
		{"the controller", []metav1.ManagedFieldsEntry{own}, true},
		{"the controller, and others of other fields", []metav1.ManagedFieldsEntry{
			entry("kubectl", "", metav1.ManagedFieldsOperationUpdate, `{"f:spec":{"f:ports":{}}}`), own,
		}, true},
		{"another one, too", []metav1.ManagedFieldsEntry{own, entry("kube-vip", "status", metav1.ManagedFieldsOperationUpdate, ingress)}, false},
		{"another one", []metav1.ManagedFieldsEntry{entry("kube-vip", "status", metav1.ManagedFieldsOperationUpdate, ingress)}, false},
		{"an update under its name", []metav1.ManagedFieldsEntry{entry(FieldManager, "status", metav1.ManagedFieldsOperationUpdate, ingress)}, false},
		{"the main resource", []metav1.ManagedFieldsEntry{entry(FieldManager, "", metav1.ManagedFieldsOperationApply, ingress)}, false},
		{"conditions only", []metav1.ManagedFieldsEntry{
			entry(FieldManager, "status", metav1.ManagedFieldsOperationApply, `{"f:status":{"f:conditions":{}}}`),
		}, false},
		{"invalid", []metav1.ManagedFieldsEntry{entry(FieldManager, "status", metav1.ManagedFieldsOperationApply, `{"f:status"`), {}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{ManagedFields: test.entries}}
			if got := OwnsIngress(s); got != test.want {
				t.Errorf("got %v", got)
			}
			StripManagedFields(s)
			if got := OwnsIngress(s.DeepCopy()); got != test.want || OwnsIngress(s) != got {
				t.Errorf("stripped: got %v", got)
			}
			if len(s.ManagedFields) > 1 {
				t.Errorf("%d entries are left", len(s.ManagedFields))
			}
		})
	}
}

// TestOtherManager: the manager of the ingress has precedence; otherwise it is the last
// one since the controller's own write.
func TestOtherManager(t *testing.T) {
	entry := func(manager string, second int64, fields string) metav1.ManagedFieldsEntry {
		at := metav1.NewTime(time.Unix(second, 0))
		return metav1.ManagedFieldsEntry{Manager: manager, Time: &at, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	const ingress, labels = `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`, `{"f:metadata":{"f:labels":{}}}`
	for _, row := range []struct {
		name    string
		entries []metav1.ManagedFieldsEntry
		want    string
	}{
		{"none", nil, ""},
		{"of the ingress", []metav1.ManagedFieldsEntry{entry("kubectl", 9, labels), entry("other-lb", 1, ingress), entry(FieldManager, 5, ingress)}, "other-lb"},
		{"the last one since", []metav1.ManagedFieldsEntry{entry("a", 5, labels), entry("argocd", 6, labels), entry(FieldManager, 5, ingress)}, "argocd"},
		{"none since", []metav1.ManagedFieldsEntry{entry("kubectl", 4, labels), entry(FieldManager, 5, ingress)}, ""},
		{"our node ports", []metav1.ManagedFieldsEntry{entry(FieldManager+"-nodeport", 9, labels)}, ""},
		{"invalid fields", []metav1.ManagedFieldsEntry{entry("x", 9, "{"), {Manager: "y"}}, "x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{ManagedFields: row.entries}}
			if got := OtherManager(svc); got != row.want {
				t.Errorf("got %q", got)
			}
		})
	}
}
