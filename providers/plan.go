// Package providers knows what can implement a Service of type LoadBalancer,
// and decides which of them a Service belongs to.
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

// Policy is what the administrator has decided for all Services.
type Policy struct {
	Mode Mode
	// ClassedOnly leaves Services without a class to somebody else.
	ClassedOnly bool
	// AWSLacks says which setting that AWS cannot do without is missing; "" if none.
	AWSLacks string
}

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
	// OnAWS is served by a balancer of AWS.
	OnAWS
)

// Choice is a Verdict and why.
type Choice struct {
	Verdict Verdict
	// Reason is why the Service is Undecided. With a provider it is why the
	// Service gets nothing beyond what that provider has given it already.
	Reason  v1alpha1.Reason
	Message string
	// Fallback says why the Service is OnBareMetal although AWS is wanted.
	Fallback string
}

// taintUninitialized is on a node until its cloud's controller has said what
// the node is (k8s.io/cloud-provider/api.TaintExternalCloudProvider).
const taintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// annotationType says, with one of these values, that the AWS Load Balancer
// Controller shall serve a Service without a class.
const annotationType = "service.beta.kubernetes.io/aws-load-balancer-type"

var typesElsewhere = []string{"external", "nlb-ip"}

// IsOnAWS reports whether the node is an instance of AWS.
func IsOnAWS(n *corev1.Node) bool { return strings.HasPrefix(n.Spec.ProviderID, "aws://") }

// Chooser decides whose each Service of one cluster is.
type Chooser struct {
	policy    Policy
	onAWS     Choice // what it comes to if AWS is wanted
	byDefault Choice // what it comes to if nothing is asked for
}

// NewChooser looks at the nodes. No node, or a node that no cloud has looked at
// yet, leaves the default undecided: a wrong guess would hand out an address
// that a balancer then replaces, or the other way round.
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
		c.onAWS = undecided(v1alpha1.ProviderUndecided, "there is no node yet, and nodes tell the provider; --provider=bare-metal decides without them")
	case uninitialized != "":
		c.onAWS = undecided(v1alpha1.ProviderUndecided, "node "+uninitialized+" still has the taint "+taintUninitialized+", so it may be in a cloud; --provider=bare-metal decides without it")
	default:
		c.onAWS = fallback("no node of this cluster is on AWS")
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

func undecided(reason v1alpha1.Reason, message string) Choice {
	return Choice{Verdict: Undecided, Reason: reason, Message: message}
}

func fallback(why string) Choice {
	why = "AWS cannot serve it: " + why
	return Choice{Verdict: OnBareMetal, Message: why, Fallback: why}
}

// Choose decides whose a Service is. A class is obeyed, and never overridden.
func (c Chooser) Choose(service *corev1.Service) Choice {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return Choice{Message: "the type is " + string(service.Spec.Type)}
	}
	class := service.Spec.LoadBalancerClass
	if class == nil {
		return c.classless(service)
	}
	switch *class {
	case v1alpha1.ClassBareMetal:
		return Choice{Verdict: OnBareMetal, Message: "loadBalancerClass " + *class}
	case v1alpha1.ClassAWS:
		return c.onceConfigured(service, Choice{Verdict: OnAWS, Message: "loadBalancerClass " + *class})
	}
	return Choice{Message: "loadBalancerClass " + *class + " is somebody else's"}
}

// classless decides by the annotation, else by the finalizer, which is the
// record of who serves the Service already, else by default.
func (c Chooser) classless(service *corev1.Service) Choice {
	stays, served := holder(service)
	if c.policy.ClassedOnly && !served {
		return Choice{Message: "--serve-services-without-class=false"}
	}
	asked := service.Annotations[v1alpha1.AnnotationProvider]
	want := c.byDefault
	switch {
	case asked == "" && served && stays.Verdict == OnBareMetal:
		stays.Fallback = c.able(service, c.byDefault).Fallback
		return stays
	case asked == "" && served:
		return c.onceConfigured(service, stays)
	case asked == "":
	case asked == string(BareMetal):
		return Choice{Verdict: OnBareMetal, Message: askedFor(asked)}
	case asked == string(AWS):
		want = c.onAWS
		if has(service, v1alpha1.FinalizerAWS) {
			// A failure that AWS may recover from, its nodes being away among
			// them, never moves a Service.
			want = Choice{Verdict: OnAWS, Message: askedFor(asked)}
		}
	default:
		want = undecided(v1alpha1.InvalidRequest, fmt.Sprintf("annotation %s: %q is neither %q nor %q", v1alpha1.AnnotationProvider, asked, AWS, BareMetal))
	}
	want = c.onceConfigured(service, c.able(service, want))
	if served && (want.Verdict == Undecided || want.Verdict == NotOurs) {
		stays.Reason, stays.Message = want.Reason, want.Message
		return stays
	}
	return want
}

func askedFor(provider string) string {
	return "annotation " + v1alpha1.AnnotationProvider + ": " + provider
}

// holder is the provider that serves the Service by the record of its
// finalizers. Both are on it while it moves from one to the other; then it is
// the one whose ingress it shows.
func holder(service *corev1.Service) (stays Choice, served bool) {
	aws, bareMetal := has(service, v1alpha1.FinalizerAWS), has(service, v1alpha1.FinalizerBareMetal)
	if aws && bareMetal {
		aws = slices.ContainsFunc(service.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.Hostname != "" })
	}
	if aws {
		return Choice{Verdict: OnAWS, Message: "AWS serves it already"}, true
	}
	return Choice{Verdict: OnBareMetal, Message: "bare metal serves it already"}, bareMetal
}

// able takes back a wish for AWS that no balancer of ours can ever fulfil.
func (c Chooser) able(service *corev1.Service, want Choice) Choice {
	if want.Verdict != OnAWS || has(service, v1alpha1.FinalizerAWS) {
		return want
	}
	if why := Elsewhere(service); why != "" {
		return Choice{Message: why}
	}
	if why := Unspoken(service); why != "" {
		return fallback(why)
	}
	return want
}

// Elsewhere says why a Service without a class is for another implementation on
// AWS, "" if it is not.
func Elsewhere(service *corev1.Service) string {
	kind := service.Annotations[annotationType]
	if service.Spec.LoadBalancerClass != nil || !slices.Contains(typesElsewhere, kind) {
		return ""
	}
	return "annotation " + annotationType + ": " + kind + " is for another implementation"
}

// Unspoken names the port whose protocol no balancer of AWS speaks, "" if there
// is none.
func Unspoken(service *corev1.Service) string {
	for _, p := range service.Spec.Ports {
		if p.Protocol == corev1.ProtocolSCTP {
			return fmt.Sprintf("port %d speaks SCTP, which no balancer does", p.Port)
		}
	}
	return ""
}

// onceConfigured holds back what AWS cannot be asked for yet. What it serves
// already stays its own.
func (c Chooser) onceConfigured(service *corev1.Service, want Choice) Choice {
	if want.Verdict != OnAWS || c.policy.AWSLacks == "" {
		return want
	}
	if has(service, v1alpha1.FinalizerAWS) {
		want.Reason, want.Message = v1alpha1.CloudNotConfigured, c.policy.AWSLacks
		return want
	}
	return undecided(v1alpha1.CloudNotConfigured, c.policy.AWSLacks)
}

func has(service *corev1.Service, finalizer string) bool {
	return slices.Contains(service.Finalizers, finalizer)
}
