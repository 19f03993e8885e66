package v1alpha1

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// AllocationUIDSeparator precedes the UID of the Service at the end of the annotations
// fairlead.io/allocated-from and fairlead.io/load-balancer.
const AllocationUIDSeparator = ",uid="

// HasOwnAllocation reports whether the allocation record on a Service is its own: the
// record has the Service's UID.
func HasOwnAllocation(service metav1.Object) bool {
	return hasOwnRecord(service, AnnotationAllocatedFrom)
}

func hasOwnRecord(service metav1.Object, annotation string) bool {
	_, uid, _ := strings.Cut(service.GetAnnotations()[annotation], AllocationUIDSeparator)
	return uid != "" && uid == string(service.GetUID())
}

// loadBalancerPrefix precedes the name of the cluster in AnnotationLoadBalancer.
const loadBalancerPrefix = "aws="

// FormatLoadBalancer returns the value of AnnotationLoadBalancer on the Service with
// the UID, for a controller with this --cluster-name.
func FormatLoadBalancer(cluster string, uid types.UID) string {
	return loadBalancerPrefix + cluster + AllocationUIDSeparator + string(uid)
}

// HasOwnLoadBalancer reports whether the record of a load balancer on a Service is its
// own: the record has the Service's UID.
func HasOwnLoadBalancer(service metav1.Object) bool {
	return hasOwnRecord(service, AnnotationLoadBalancer)
}

// LoadBalancerCluster returns the --cluster-name in the Service's own record of a load
// balancer; "" without one.
func LoadBalancerCluster(service metav1.Object) string {
	if !HasOwnLoadBalancer(service) {
		return ""
	}
	text, _, _ := strings.Cut(service.GetAnnotations()[AnnotationLoadBalancer], AllocationUIDSeparator)
	return strings.TrimPrefix(text, loadBalancerPrefix)
}

// MayHaveLoadBalancer reports whether Fairlead may have created a load balancer for the
// Service that is not deleted yet: the Service's own record proves that, or, after a
// tool such as kubectl replace has dropped the record, a host name in a status that only
// the controller has written. A finalizer does not, because anyone who may update the
// Service can add it.
func MayHaveLoadBalancer(service *corev1.Service) bool {
	if HasOwnLoadBalancer(service) {
		return true
	}
	for _, in := range service.Status.LoadBalancer.Ingress {
		if in.Hostname != "" {
			return OwnsIngress(service)
		}
	}
	return false
}
