package providers

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func node(name, providerID string, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
	for _, t := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t})
	}
	return n
}

var (
	plain  = node("n1", "")
	onAWS  = node("a1", "aws:///eu-west-1a/i-0123456789abcdef0")
	hybrid = node("h1", "eks-hybrid:///eu-west-1/c/mi-0123456789abcdef0")
	fresh  = node("n2", "", taintUninitialized)
)

func TestDefault(t *testing.T) {
	for _, row := range []struct {
		name     string
		mode     Mode
		nodes    []*corev1.Node
		want     Verdict
		message  string
		fallback string
	}{
		{"bare metal by flag, even without nodes", BareMetal, nil, OnBareMetal, "--provider", ""},
		{"bare metal by flag, even on AWS", BareMetal, []*corev1.Node{onAWS}, OnBareMetal, "--provider", ""},
		{"no node", Auto, nil, Undecided, "no nodes to detect", ""},
		{"plain nodes", Auto, []*corev1.Node{plain}, OnBareMetal, "no node is in a cloud", ""},
		{"another cloud's nodes have a provider of their own or none", Auto, []*corev1.Node{node("k", "kind://docker/k/k")}, OnBareMetal, "", ""},
		{"one uninitialized", Auto, []*corev1.Node{plain, fresh}, Undecided, "node n2", ""},
		{"other taints don't matter", Auto, []*corev1.Node{node("n3", "", "node-role.kubernetes.io/control-plane")}, OnBareMetal, "", ""},
		{"one on AWS", Auto, []*corev1.Node{plain, onAWS}, OnAWS, "node a1", ""},
		{"AWS known before the others are", Auto, []*corev1.Node{fresh, onAWS}, OnAWS, "node a1", ""},
		{"a rack that EKS manages is not on AWS", Auto, []*corev1.Node{hybrid}, OnBareMetal, "no node is in a cloud", ""},
		{"AWS by flag", AWS, []*corev1.Node{plain, onAWS}, OnAWS, "", ""},
		{"AWS by flag, no node", AWS, nil, Undecided, "no nodes to detect", ""},
		{"AWS by flag, which may still come", AWS, []*corev1.Node{plain, fresh}, Undecided, "node n2", ""},
		{"AWS by flag, but no node is there", AWS, []*corev1.Node{plain, hybrid}, OnBareMetal, "", "AWS cannot serve it: no node"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := NewChooser(Policy{Mode: row.mode}, row.nodes).byDefault
			if got.Verdict != row.want || !strings.Contains(got.Message, row.message) || (got.Reason != "") != (row.want == Undecided) {
				t.Errorf("got %+v, want verdict %d with %q", got, row.want, row.message)
			}
			if (got.Fallback != "") != (row.fallback != "") || !strings.Contains(got.Fallback, row.fallback) {
				t.Errorf("fallback %q, want %q", got.Fallback, row.fallback)
			}
		})
	}
}

const lb = corev1.ServiceTypeLoadBalancer

func service(kind corev1.ServiceType, class string, finalizers ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{UID: "u1", Finalizers: finalizers, Annotations: map[string]string{}},
		Spec:       corev1.ServiceSpec{Type: kind},
	}
	// The records prove which provider serves it, not the finalizers.
	if slices.Contains(finalizers, v1alpha1.FinalizerBareMetal) {
		s.Annotations[v1alpha1.AnnotationAllocatedFrom] = "192.0.2.1=p,uid=u1"
	}
	if slices.Contains(finalizers, v1alpha1.FinalizerAWS) {
		s.Annotations[v1alpha1.AnnotationLoadBalancer] = "aws=prod,uid=u1"
	}
	if class != "" {
		s.Spec.LoadBalancerClass = &class
	}
	return s
}

// replaced has lost its records, and a status that the controller wrote.
func replaced(s *corev1.Service, ip, host string) *corev1.Service {
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip, Hostname: host}}
	fixture.IngressManagedBy(v1alpha1.FieldManager)(s)
	return s
}

func TestChoose(t *testing.T) {
	const (
		ours  = "fairlead.io/bare-metal"
		aws   = "fairlead.io/aws"
		other = "example.com/lb"
	)
	rack, cloud := []*corev1.Node{plain}, []*corev1.Node{plain, onAWS}
	asking := func(s *corev1.Service, provider string) *corev1.Service {
		s.Annotations[v1alpha1.AnnotationProvider] = provider
		return s
	}
	showing := func(s *corev1.Service, host string) *corev1.Service {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: host}}
		return s
	}
	withoutRecords := func(s *corev1.Service) *corev1.Service {
		s.Annotations = map[string]string{}
		return s
	}
	sctp := func(s *corev1.Service) *corev1.Service {
		s.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}, {Port: 132, Protocol: corev1.ProtocolSCTP}}
		return s
	}
	typed := func(s *corev1.Service, kind string) *corev1.Service {
		s.Annotations["service.beta.kubernetes.io/aws-load-balancer-type"] = kind
		return s
	}
	auto, flagged, lacking := Policy{Mode: Auto}, Policy{Mode: AWS}, Policy{Mode: Auto, AWSLacks: "set --cluster-name"}
	classed := Policy{Mode: Auto, ClassedOnly: true}
	for _, row := range []struct {
		name     string
		service  *corev1.Service
		policy   Policy
		nodes    []*corev1.Node
		want     Verdict
		reason   v1alpha1.Reason
		fallback string
	}{
		{"ClusterIP", service(corev1.ServiceTypeClusterIP, ""), auto, rack, NotOurs, "", ""},
		{"NodePort", service(corev1.ServiceTypeNodePort, ""), auto, cloud, NotOurs, "", ""},
		{"ExternalName", service(corev1.ServiceTypeExternalName, ""), auto, rack, NotOurs, "", ""},
		{"no longer a LoadBalancer", service(corev1.ServiceTypeClusterIP, "", ours), auto, rack, NotOurs, "", ""},
		{"no longer a LoadBalancer, though asking", asking(service(corev1.ServiceTypeClusterIP, "", aws), "aws"), auto, cloud, NotOurs, "", ""},

		{"class bare metal", service(lb, ours), auto, cloud, OnBareMetal, "", ""},
		{"class bare metal while undecided", service(lb, ours), auto, nil, OnBareMetal, "", ""},
		{"class bare metal whatever the annotation says", asking(service(lb, ours), "aws"), auto, cloud, OnBareMetal, "", ""},
		{"class AWS", service(lb, aws), auto, cloud, OnAWS, "", ""},
		{"class AWS without a node there", service(lb, aws), auto, rack, OnAWS, "", ""},
		{"class AWS, SCTP", sctp(service(lb, aws)), auto, cloud, OnAWS, "", ""},
		{"class AWS whatever the annotation says", asking(service(lb, aws), "bare-metal"), auto, cloud, OnAWS, "", ""},
		{"class AWS, not configured", service(lb, aws), lacking, cloud, Undecided, v1alpha1.CloudNotConfigured, ""},
		{"class AWS, no longer configured", service(lb, aws, aws), lacking, cloud, OnAWS, v1alpha1.CloudNotConfigured, ""},
		{"another's class", service(lb, other), auto, cloud, NotOurs, "", ""},
		{"another's class, our finalizers", service(lb, other, ours, aws), auto, cloud, NotOurs, "", ""},
		{"classes are served although those without are not", service(lb, aws), classed, cloud, OnAWS, "", ""},

		{"no class, by default on a rack", service(lb, ""), auto, rack, OnBareMetal, "", ""},
		{"no class, by default on AWS", service(lb, ""), auto, cloud, OnAWS, "", ""},
		{"no class, undecided", service(lb, ""), auto, nil, Undecided, v1alpha1.ProviderUndecided, ""},
		{"no class, not configured", service(lb, ""), lacking, cloud, Undecided, v1alpha1.CloudNotConfigured, ""},
		{"no class, not configured, and not needed", service(lb, ""), lacking, rack, OnBareMetal, "", ""},
		{"no class, left to others", service(lb, ""), classed, rack, NotOurs, "", ""},
		{"no class, left to others, though asking", asking(service(lb, ""), "aws"), classed, cloud, NotOurs, "", ""},
		{"no class, left to others, but served already", service(lb, "", ours), classed, rack, OnBareMetal, "", ""},
		{"no class, left to others, but served by AWS already", service(lb, "", aws), classed, rack, OnAWS, "", ""},

		{"on bare metal while undecided", service(lb, "", ours), auto, nil, OnBareMetal, "", ""},
		{"on bare metal, the default changed", service(lb, "", ours), auto, cloud, OnBareMetal, "", ""},
		{"on AWS, the default changed", service(lb, "", aws), Policy{Mode: BareMetal}, cloud, OnAWS, "", ""},
		{"on AWS, its nodes are gone", service(lb, "", aws), flagged, rack, OnAWS, "", ""},
		{"on AWS, SCTP came later", sctp(service(lb, "", aws)), auto, cloud, OnAWS, "", ""},
		{"on AWS, no longer configured", service(lb, "", aws), lacking, cloud, OnAWS, v1alpha1.CloudNotConfigured, ""},
		{"the standard finalizer is nobody's record", service(lb, "", "service.kubernetes.io/load-balancer-cleanup"), auto, cloud, OnAWS, "", ""},
		{"between both, showing AWS", showing(service(lb, "", ours, aws), "lb.example.com"), auto, rack, OnAWS, "", ""},
		{"between both, not showing AWS", service(lb, "", ours, aws), auto, cloud, OnBareMetal, "", ""},

		{"asks for AWS", asking(service(lb, ""), "aws"), Policy{Mode: BareMetal}, cloud, OnAWS, "", ""},
		{"asks for bare metal", asking(service(lb, ""), "bare-metal"), auto, cloud, OnBareMetal, "", ""},
		{"asks to move to AWS", asking(service(lb, "", ours), "aws"), auto, cloud, OnAWS, "", ""},
		{"asks to move to bare metal", asking(service(lb, "", aws), "bare-metal"), auto, cloud, OnBareMetal, "", ""},
		{"asks to move to AWS, undecided", asking(service(lb, "", ours), "aws"), auto, nil, OnBareMetal, v1alpha1.ProviderUndecided, ""},
		{
			"asks to move to AWS, not configured", asking(service(lb, "", ours), "aws"),
			lacking, cloud, OnBareMetal, v1alpha1.CloudNotConfigured, "",
		},
		{"asks to stay on AWS, its nodes are gone", asking(service(lb, "", aws), "aws"), auto, rack, OnAWS, "", ""},
		{"asks to stay on AWS, SCTP came later", asking(sctp(service(lb, "", aws)), "aws"), auto, cloud, OnAWS, "", ""},
		{"a finalizer without a record", withoutRecords(service(lb, "", aws)), auto, rack, OnBareMetal, "", ""},
		{"a finalizer without a record, left to others", withoutRecords(service(lb, "", ours, aws)), classed, cloud, NotOurs, "", ""},
		{"asks for none", asking(service(lb, "", ours), "none"), auto, rack, NotOurs, "", ""},
		{"asks for none, on AWS by its class", asking(service(lb, aws, aws), "none"), auto, cloud, NotOurs, "", ""},
		{"asks for nonsense", asking(service(lb, ""), "gcp"), auto, cloud, Undecided, v1alpha1.InvalidRequest, ""},
		{"asks for nonsense on AWS", asking(service(lb, "", aws), "AWS"), auto, cloud, OnAWS, v1alpha1.InvalidRequest, ""},
		{"asks for nonsense on bare metal", asking(service(lb, "", ours), "AWS"), auto, cloud, OnBareMetal, v1alpha1.InvalidRequest, ""},

		{"for another controller of AWS", typed(service(lb, ""), "external"), auto, cloud, NotOurs, "", ""},
		{"for another controller of AWS, long ago", typed(service(lb, ""), "nlb-ip"), auto, cloud, NotOurs, "", ""},
		{"for another controller of AWS, on a rack", typed(service(lb, ""), "external"), auto, rack, OnBareMetal, "", ""},
		{"for another controller of AWS, but by our class", typed(service(lb, aws), "external"), auto, cloud, OnAWS, "", ""},
		{"for another controller of AWS, but served already", typed(service(lb, "", aws), "external"), auto, cloud, OnAWS, "", ""},
		{"for an NLB", typed(service(lb, ""), "nlb"), auto, cloud, OnAWS, "", ""},

		{"AWS by flag, no node there", service(lb, ""), flagged, rack, OnBareMetal, "", "no node of this cluster"},
		{"AWS by annotation, no node there", asking(service(lb, ""), "aws"), auto, rack, OnBareMetal, "", "no node of this cluster"},
		{"AWS by flag, no node there, on bare metal since", service(lb, "", ours), flagged, rack, OnBareMetal, "", "no node of this cluster"},
		{"replaced, by our field manager", replaced(service(lb, ""), "192.0.2.1", ""), auto, cloud, OnBareMetal, "", ""},
		{"replaced, left to others", replaced(service(lb, ""), "192.0.2.1", ""), Policy{Mode: BareMetal, ClassedOnly: true}, rack, NotOurs, "", ""},
		{"replaced on AWS", replaced(service(lb, ""), "", "nlb.example.com"), Policy{Mode: BareMetal}, cloud, OnAWS, "", ""},

		{"SCTP", sctp(service(lb, "")), auto, cloud, OnBareMetal, "", "port 132 uses SCTP"},
		{"SCTP, on bare metal since", sctp(service(lb, "", ours)), auto, cloud, OnBareMetal, "", "port 132 uses SCTP"},
		{"SCTP, by annotation", asking(sctp(service(lb, "", ours)), "aws"), auto, cloud, OnBareMetal, "", "port 132 uses SCTP"},
		{"SCTP on a rack is no fallback", sctp(service(lb, "")), auto, rack, OnBareMetal, "", ""},
		{"SCTP, bare metal asked for", asking(sctp(service(lb, "")), "bare-metal"), auto, cloud, OnBareMetal, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := NewChooser(row.policy, row.nodes).Choose(row.service)
			if got.Verdict != row.want || got.Reason != row.reason || got.Message == "" {
				t.Errorf("got %+v, want %d %s", got, row.want, row.reason)
			}
			if (got.Fallback != "") != (row.fallback != "") || !strings.Contains(got.Fallback, row.fallback) {
				t.Errorf("fallback %q, want %q", got.Fallback, row.fallback)
			}
			if row.reason == v1alpha1.InvalidRequest && !strings.Contains(got.Message, v1alpha1.AnnotationProvider) {
				t.Errorf("%q does not name the annotation", got.Message)
			}
		})
	}
}
