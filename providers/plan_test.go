package providers

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, providerID string, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerID}}
	for _, t := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t})
	}
	return n
}

func TestDefault(t *testing.T) {
	plain, aws := node("n1", ""), node("a1", "aws:///eu-west-1a/i-0123456789abcdef0")
	fresh := node("n2", "", taintUninitialized)
	for _, row := range []struct {
		name    string
		mode    Mode
		nodes   []*corev1.Node
		want    Verdict
		message string
	}{
		{"bare metal by flag, even without nodes", BareMetal, nil, OnBareMetal, "--provider"},
		{"bare metal by flag, even on AWS", BareMetal, []*corev1.Node{aws}, OnBareMetal, "--provider"},
		{"no node", Auto, nil, Undecided, "no node yet"},
		{"plain nodes", Auto, []*corev1.Node{plain}, OnBareMetal, "no node is in a cloud"},
		{"another cloud's nodes have a provider of their own or none", Auto, []*corev1.Node{node("k", "kind://docker/k/k")}, OnBareMetal, ""},
		{"one uninitialized", Auto, []*corev1.Node{plain, fresh}, Undecided, "node n2"},
		{"other taints don't matter", Auto, []*corev1.Node{node("n3", "", "node-role.kubernetes.io/control-plane")}, OnBareMetal, ""},
		{"one on AWS", Auto, []*corev1.Node{plain, aws}, NotOurs, "node a1"},
		{"AWS known before the others are", Auto, []*corev1.Node{fresh, aws}, NotOurs, "node a1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := Default(row.mode, row.nodes)
			if got.Verdict != row.want || !strings.Contains(got.Message, row.message) || (got.Reason != "") != (row.want == Undecided) {
				t.Errorf("got %+v, want verdict %d with %q", got, row.want, row.message)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	undecided, bareMetal, notOurs := Choice{Verdict: Undecided}, Choice{Verdict: OnBareMetal}, Choice{Verdict: NotOurs}
	service := func(kind corev1.ServiceType, class string, finalizers ...string) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Finalizers: finalizers}, Spec: corev1.ServiceSpec{Type: kind}}
		if class != "" {
			s.Spec.LoadBalancerClass = &class
		}
		return s
	}
	const lb = corev1.ServiceTypeLoadBalancer
	for _, row := range []struct {
		name      string
		service   *corev1.Service
		byDefault Choice
		want      Verdict
	}{
		{"ClusterIP", service(corev1.ServiceTypeClusterIP, ""), bareMetal, NotOurs},
		{"NodePort", service(corev1.ServiceTypeNodePort, ""), bareMetal, NotOurs},
		{"ExternalName", service(corev1.ServiceTypeExternalName, ""), bareMetal, NotOurs},
		{"no longer a LoadBalancer", service(corev1.ServiceTypeClusterIP, "", "fairlead.io/bare-metal"), bareMetal, NotOurs},
		{"our class", service(lb, "fairlead.io/bare-metal"), notOurs, OnBareMetal},
		{"our class while undecided", service(lb, "fairlead.io/bare-metal"), undecided, OnBareMetal},
		{"AWS's class, which nothing serves yet", service(lb, "fairlead.io/aws"), bareMetal, Undecided},
		{"another's class", service(lb, "example.com/lb"), bareMetal, NotOurs},
		{"another's class, our finalizer", service(lb, "example.com/lb", "fairlead.io/bare-metal"), bareMetal, NotOurs},
		{"no class, by default", service(lb, ""), bareMetal, OnBareMetal},
		{"no class, undecided", service(lb, ""), undecided, Undecided},
		{"no class, not ours", service(lb, ""), notOurs, NotOurs},
		{"no class, served already", service(lb, "", "fairlead.io/bare-metal"), undecided, OnBareMetal},
		{"no class, served already, the default changed", service(lb, "", "fairlead.io/bare-metal"), notOurs, OnBareMetal},
		{"the standard finalizer is nobody's record", service(lb, "", "service.kubernetes.io/load-balancer-cleanup"), notOurs, NotOurs},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := Choose(row.service, row.byDefault); got.Verdict != row.want {
				t.Errorf("got %+v, want %d", got, row.want)
			}
		})
	}
}
