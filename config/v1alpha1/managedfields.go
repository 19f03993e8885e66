package v1alpha1

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// ingressPath is the path of the addresses in a Service's status, an atomic list.
var ingressPath = fieldpath.MakePathOrDie("status", "loadBalancer", "ingress")

// ingressOwner are the managed fields that StripManagedFields leaves if OwnsIngress.
var ingressOwner = []metav1.ManagedFieldsEntry{{
	Manager: FieldManager, Operation: metav1.ManagedFieldsOperationApply, Subresource: "status",
	APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
}}

// OwnsIngress reports whether the controller is the only manager of
// status.loadBalancer.ingress according to metadata.managedFields: the addresses are
// those that it wrote last. Anyone who may update the Service can forge or remove
// managed fields. They may serve to keep what is announced, and never to take an
// address from another Service or to adopt what another controller wrote.
func OwnsIngress(service *corev1.Service) bool {
	if len(service.ManagedFields) == 1 && &service.ManagedFields[0] == &ingressOwner[0] {
		return true
	}
	own := false
	for _, e := range service.ManagedFields {
		if e.FieldsV1 == nil {
			continue
		}
		var fields fieldpath.Set
		// Invalid managed fields own nothing.
		if fields.FromJSON(e.FieldsV1.GetRawReader()) != nil || !fields.Has(ingressPath) {
			continue
		}
		if e.Manager != FieldManager || e.Operation != metav1.ManagedFieldsOperationApply || e.Subresource != "status" {
			return false
		}
		own = true
	}
	return own
}

// StripManagedFields reduces the Service's managed fields to what OwnsIngress reads,
// so that a cache of many Services stays small.
func StripManagedFields(service *corev1.Service) {
	if OwnsIngress(service) {
		service.ManagedFields = slices.Clip(ingressOwner)
	} else {
		service.ManagedFields = nil
	}
}
