package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AllocationUIDSeparator precedes the UID of the Service at the end of the annotation
// fairlead.io/allocated-from.
const AllocationUIDSeparator = ",uid="

// HasOwnAllocation reports whether the allocation record on a Service is its own: the
// record has the Service's UID.
func HasOwnAllocation(service metav1.Object) bool {
	_, uid, _ := strings.Cut(service.GetAnnotations()[AnnotationAllocatedFrom], AllocationUIDSeparator)
	return uid != "" && uid == string(service.GetUID())
}
