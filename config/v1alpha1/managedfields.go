package v1alpha1

import (
	"slices"
	"strings"
	"time"

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

// OtherIngressManager returns the field manager, other than the controller, of
// status.loadBalancer.ingress according to metadata.managedFields, "" if there is none.
// Anyone who may update the Service can forge it.
func OtherIngressManager(service *corev1.Service) string {
	for _, e := range service.ManagedFields {
		var fields fieldpath.Set
		if !isOwnEntry(e) && e.FieldsV1 != nil && fields.FromJSON(e.FieldsV1.GetRawReader()) == nil && fields.Has(ingressPath) {
			return e.Manager
		}
	}
	return ""
}

// OtherManager returns the OtherIngressManager of the Service, otherwise the field
// manager that has written any part of it last, since the controller did; "" if there is
// none.
func OtherManager(service *corev1.Service) (manager string) {
	if manager := OtherIngressManager(service); manager != "" {
		return manager
	}
	var own, last time.Time
	for _, e := range service.ManagedFields {
		if isOwnEntry(e) && e.Time != nil && e.Time.After(own) {
			own = e.Time.Time
		}
	}
	for _, e := range service.ManagedFields {
		// Times are in seconds.
		if !isOwnEntry(e) && e.Time != nil && !e.Time.Time.Before(own) && e.Time.After(last) {
			manager, last = e.Manager, e.Time.Time
		}
	}
	return manager
}

// isOwnEntry reports whether the entry is of the controller: it has another field manager
// for node ports, of which the name begins with the same.
func isOwnEntry(e metav1.ManagedFieldsEntry) bool {
	return e.Manager == FieldManager || strings.HasPrefix(e.Manager, FieldManager+"-")
}
