// Package v1alpha1 holds the kinds of the API group fairlead.io, the names
// that Fairlead reads and writes on other people's objects (annotations,
// finalizers, load balancer classes), and the one vocabulary of Reasons.
//
// All kinds are cluster-scoped: a pool in the wrong namespace cannot exist.
// Kinds and fields carry MetalLB's names where the meaning is the same.
//
// +kubebuilder:object:generate=true
// +groupName=fairlead.io
package v1alpha1
