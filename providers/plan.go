// Package providers decides which provider implements a Service of type
// LoadBalancer.
package providers

import (
	"fmt"
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
	AWS       Mode = "aws"
	BareMetal Mode = "bare-metal"
)

// Modes are all values of Mode.
var Modes = []Mode{Auto, AWS, BareMetal}

// Policy is the administrator's, for all Services.
type Policy struct {
	Mode Mode
	// ClassedOnly leaves Services without a class to other controllers.
	ClassedOnly bool
	// AWSLacks is the message about a required setting of AWS that is missing; ""
	// if none is.
	AWSLacks string
	// Cluster is the name of the cluster in AWS; "" if it is not known.
	Cluster string
	// CleanupFinalizer sets v1alpha1.FinalizerCleanup on Services without a class on
	// bare metal.
	CleanupFinalizer bool
}

// RefusesAWS returns why AWS must not be called for a Service that may have a load
// balancer: without a setting it cannot be, and under another name of the cluster the
// load balancer would not be found.
func (p Policy) RefusesAWS(service *corev1.Service) v1alpha1.Refusal {
	if p.AWSLacks != "" {
		return v1alpha1.Refusal{Reason: v1alpha1.CloudNotConfigured, Message: p.AWSLacks}
	}
	created := v1alpha1.LoadBalancerCluster(service)
	if created == "" || p.Cluster == "" || created == p.Cluster {
		return v1alpha1.Refusal{}
	}
	return v1alpha1.Refusal{Reason: v1alpha1.ClusterNameChanged, Message: fmt.Sprintf(
		"the load balancer was created with --cluster-name=%s, but the controller has --cluster-name=%s", created, p.Cluster)}
}

// Verdict is the provider of a Service.
type Verdict int

// The verdicts.
const (
	// NotOurs is never changed.
	NotOurs Verdict = iota
	// Undecided is reported on, but not served yet.
	Undecided
	// OnBareMetal is served from an IPAddressPool.
	OnBareMetal
	// OnAWS is served by a load balancer of AWS.
	OnAWS
)

// Choice is a Verdict with its reason.
type Choice struct {
	Verdict Verdict
	// Reason is why the Service is Undecided. With a provider it is why that
	// provider changes nothing.
	Reason  v1alpha1.Reason
	Message string
	// Fallback is why the Service is OnBareMetal although AWS is requested.
	Fallback string
}

// taintUninitialized is on a node until its cloud's controller has initialized it
// (k8s.io/cloud-provider/api.TaintExternalCloudProvider).
const taintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// annotationType assigns a Service without a class to the AWS Load Balancer
// Controller if it has one of these values.
const annotationType = "service.beta.kubernetes.io/aws-load-balancer-type"

var typesElsewhere = []string{"external", "nlb-ip"}

// IsOnAWS reports whether the node is an instance of AWS.
func IsOnAWS(n *corev1.Node) bool { return strings.HasPrefix(n.Spec.ProviderID, "aws://") }

// Chooser decides about the Services of one cluster.
type Chooser struct {
	policy    Policy
	onAWS     Choice // if AWS is requested
	byDefault Choice // if nothing is requested
}

// NewChooser derives the default from the nodes. It is undecided without nodes, or
// while a node is uninitialized: a wrong guess would assign an address that a load
// balancer then replaces, or vice versa.
func NewChooser(policy Policy, nodes []*corev1.Node) Chooser {
	aws, uninitialized := "", ""
	for _, n := range nodes {
		if IsOnAWS(n) {
			aws = max(aws, n.Name)
		}
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintUninitialized }) {
			uninitialized = max(uninitialized, n.Name)
		}
	}
	c := Chooser{policy: policy}
	switch {
	case aws != "":
		c.onAWS = Choice{Verdict: OnAWS, Message: "node " + aws + " is on AWS"}
	case len(nodes) == 0:
		c.onAWS = undecidedChoice(v1alpha1.ProviderUndecided,
			"there are no nodes to detect the provider from; set --provider=bare-metal to serve Services without nodes")
	case uninitialized != "":
		c.onAWS = undecidedChoice(v1alpha1.ProviderUndecided,
			"node "+uninitialized+" still has the taint "+taintUninitialized+", so it may be in a cloud; set --provider=bare-metal to ignore it")
	default:
		c.onAWS = fallbackChoice("no node of this cluster is on AWS")
	}
	c.byDefault = c.onAWS
	switch {
	case policy.Mode == BareMetal:
		c.byDefault = Choice{Verdict: OnBareMetal, Message: "--provider=bare-metal"}
	case policy.Mode != AWS && c.onAWS.Verdict == OnBareMetal:
		c.byDefault = Choice{Verdict: OnBareMetal, Message: "no node is in a cloud"}
	}
	return c
}

func undecidedChoice(reason v1alpha1.Reason, message string) Choice {
	return Choice{Verdict: Undecided, Reason: reason, Message: message}
}

func fallbackChoice(why string) Choice {
	why = "AWS cannot serve it: " + why
	return Choice{Verdict: OnBareMetal, Message: why, Fallback: why}
}

// requestNone is the value of v1alpha1.AnnotationProvider that releases a Service.
const requestNone = "none"

// Choose decides about a Service. Its class is never overridden by another provider.
func (c Chooser) Choose(service *corev1.Service) Choice {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return Choice{Message: "the type is " + string(service.Spec.Type)}
	}
	if service.Annotations[v1alpha1.AnnotationProvider] == requestNone {
		return Choice{Message: byAnnotation(requestNone)}
	}
	class := service.Spec.LoadBalancerClass
	if class == nil {
		return c.chooseWithoutClass(service)
	}
	switch *class {
	case v1alpha1.ClassBareMetal:
		return Choice{Verdict: OnBareMetal, Message: "loadBalancerClass " + *class}
	case v1alpha1.ClassAWS:
		return c.requireConfiguration(service, Choice{Verdict: OnAWS, Message: "loadBalancerClass " + *class})
	}
	return Choice{Message: "loadBalancerClass " + *class + " belongs to another controller"}
}

// chooseWithoutClass decides by the annotation, otherwise by what records the present
// provider, otherwise by default.
func (c Chooser) chooseWithoutClass(service *corev1.Service) Choice {
	present, served := recordedProvider(service)
	// Removing the record hands the Service over to another implementation.
	if c.policy.ClassedOnly && !v1alpha1.HasOwnAllocation(service) && !v1alpha1.HasOwnLoadBalancer(service) {
		return Choice{Message: "--serve-services-without-class=false"}
	}
	requested := service.Annotations[v1alpha1.AnnotationProvider]
	choice := c.byDefault
	switch {
	case requested == "" && served && present.Verdict == OnBareMetal:
		present.Fallback = c.excludeUnservable(service, c.byDefault).Fallback
		return present
	case requested == "" && served:
		return c.requireConfiguration(service, present)
	case requested == "":
	case requested == string(BareMetal):
		return Choice{Verdict: OnBareMetal, Message: byAnnotation(requested)}
	case requested == string(AWS):
		choice = c.onAWS
		if v1alpha1.HasOwnLoadBalancer(service) {
			// A failure that AWS may recover from, its nodes being away among
			// them, never moves a Service.
			choice = Choice{Verdict: OnAWS, Message: byAnnotation(requested)}
		}
	default:
		choice = undecidedChoice(v1alpha1.InvalidRequest, fmt.Sprintf("annotation %s: invalid value %q: must be %q, %q or %q",
			v1alpha1.AnnotationProvider, requested, AWS, BareMetal, requestNone))
	}
	choice = c.requireConfiguration(service, c.excludeUnservable(service, choice))
	if served && (choice.Verdict == Undecided || choice.Verdict == NotOurs) {
		present.Reason, present.Message = choice.Reason, choice.Message
		return present
	}
	return choice
}

func byAnnotation(provider string) string {
	return "annotation " + v1alpha1.AnnotationProvider + ": " + provider
}

// recordedProvider returns the provider that serves the Service already: the Service's
// own record of a load balancer or of addresses from pools proves it. Both are on it
// while it moves from one to the other; then its ingress decides. It also decides
// after a tool such as kubectl replace has dropped both, if it is the controller's.
func recordedProvider(service *corev1.Service) (present Choice, served bool) {
	aws, bareMetal := v1alpha1.HasOwnLoadBalancer(service), v1alpha1.HasOwnAllocation(service)
	dropped := !aws && !bareMetal && len(service.Status.LoadBalancer.Ingress) > 0 && v1alpha1.OwnsIngress(service)
	if aws && bareMetal || dropped {
		aws = slices.ContainsFunc(service.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.Hostname != "" })
		bareMetal = !aws
	}
	if aws {
		return Choice{Verdict: OnAWS, Message: "already served by AWS"}, true
	}
	return Choice{Verdict: OnBareMetal, Message: "already served by bare metal"}, bareMetal
}

// excludeUnservable replaces the choice of AWS if no load balancer of ours can ever
// serve the Service.
func (c Chooser) excludeUnservable(service *corev1.Service, choice Choice) Choice {
	if choice.Verdict != OnAWS || v1alpha1.HasOwnLoadBalancer(service) {
		return choice
	}
	if why := ForOtherController(service); why != "" {
		return Choice{Message: why}
	}
	if why := UnsupportedProtocol(service); why != "" {
		return fallbackChoice(why)
	}
	return choice
}

// ForOtherController returns why a Service without a class is for another
// implementation on AWS, "" if it is not.
func ForOtherController(service *corev1.Service) string {
	kind := service.Annotations[annotationType]
	if service.Spec.LoadBalancerClass != nil || !slices.Contains(typesElsewhere, kind) {
		return ""
	}
	return "annotation " + annotationType + ": " + kind + " is for another implementation"
}

// UnsupportedProtocol describes the first port with a protocol that Network Load
// Balancers do not support, "" if there is none.
func UnsupportedProtocol(service *corev1.Service) string {
	for _, p := range service.Spec.Ports {
		if p.Protocol == corev1.ProtocolSCTP {
			return fmt.Sprintf("port %d uses SCTP, which Network Load Balancers do not support", p.Port)
		}
	}
	return ""
}

// requireConfiguration replaces the choice of AWS while a required setting is
// missing. A Service that AWS serves already stays there.
func (c Chooser) requireConfiguration(service *corev1.Service, choice Choice) Choice {
	refusal := c.policy.RefusesAWS(service)
	if choice.Verdict != OnAWS || refusal.Reason == "" {
		return choice
	}
	if v1alpha1.HasOwnLoadBalancer(service) {
		choice.Reason, choice.Message = refusal.Reason, refusal.Message
		return choice
	}
	return undecidedChoice(refusal.Reason, refusal.Message)
}
