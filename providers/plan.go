// Package providers knows what can implement a Service of type LoadBalancer,
// and decides which of them a Service belongs to.
package providers

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Mode is the administrator's choice of the provider that serves Services
// without a class.
type Mode string

// The modes, as the flag --provider spells them.
const (
	Auto      Mode = "auto"
	BareMetal Mode = "bare-metal"
)

// Modes are all values of Mode.
var Modes = []Mode{Auto, BareMetal}

// Verdict is whose a Service is.
type Verdict int

// The verdicts.
const (
	// NotOurs is never touched.
	NotOurs Verdict = iota
	// Undecided is ours to report on, but not yet to serve.
	Undecided
	// OnBareMetal is served from an IPAddressPool.
	OnBareMetal
)

// Choice is a Verdict and why.
type Choice struct {
	Verdict Verdict
	Reason  v1alpha1.Reason // with Undecided
	Message string
}

// taintUninitialized is on a node until its cloud's controller has said what
// the node is (k8s.io/cloud-provider/api.TaintExternalCloudProvider).
const taintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// Default decides for all Services without a class. No node, or a node that
// no cloud has looked at yet, leaves it undecided: a wrong guess would hand out
// an address that the cloud's balancer then replaces.
func Default(mode Mode, nodes []*corev1.Node) Choice {
	if mode == BareMetal {
		return Choice{Verdict: OnBareMetal, Message: "--provider=bare-metal"}
	}
	uninitialized := ""
	for _, n := range nodes {
		if strings.HasPrefix(n.Spec.ProviderID, "aws://") {
			return Choice{Verdict: NotOurs, Message: "node " + n.Name + " is on AWS, whose own controller serves Services without a class"}
		}
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintUninitialized }) {
			uninitialized = max(uninitialized, n.Name)
		}
	}
	switch {
	case len(nodes) == 0:
		return Choice{Undecided, v1alpha1.ProviderUndecided, "there is no node yet, and nodes tell the provider; --provider=bare-metal decides without them"}
	case uninitialized != "":
		return Choice{Undecided, v1alpha1.ProviderUndecided, "node " + uninitialized + " still has the taint " + taintUninitialized + ", so it may be in a cloud; --provider=bare-metal decides without it"}
	}
	return Choice{Verdict: OnBareMetal, Message: "no node is in a cloud"}
}

// Choose decides whose a Service is. A class is obeyed, and without one the
// finalizer is the record: a Service stays with the provider that serves it.
func Choose(service *corev1.Service, byDefault Choice) Choice {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return Choice{Message: "the type is " + string(service.Spec.Type)}
	}
	if class := service.Spec.LoadBalancerClass; class != nil {
		if *class == v1alpha1.ClassBareMetal {
			return Choice{Verdict: OnBareMetal, Message: "loadBalancerClass " + *class}
		}
		if *class == v1alpha1.ClassAWS {
			return Choice{Undecided, v1alpha1.ProviderUndecided, "loadBalancerClass " + *class + ": this version has no AWS provider"}
		}
		return Choice{Message: "loadBalancerClass " + *class + " is somebody else's"}
	}
	if slices.Contains(service.Finalizers, v1alpha1.FinalizerBareMetal) {
		return Choice{Verdict: OnBareMetal, Message: "bare metal serves it already"}
	}
	return byDefault
}
