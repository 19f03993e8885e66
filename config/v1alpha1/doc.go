// Package v1alpha1 holds the kinds of the API group fairlead.io, the names
// that Fairlead reads and writes on objects of Kubernetes (annotations, finalizers,
// load balancer classes), and all Reasons.
//
// All kinds are cluster-scoped, so that no object can be in the wrong namespace.
// Kinds and fields have the names of MetalLB where the meaning is the same.
//
// +kubebuilder:object:generate=true
// +groupName=fairlead.io
package v1alpha1
