package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// onAWS is a cluster with a Service that AWS serves, as the controller left it.
func onAWS(status metav1.ConditionStatus, reason v1alpha1.Reason, message string) world {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: "a", Finalizers: []string{v1alpha1.FinalizerAWS}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
	svc.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionProvisioned, Status: status, Reason: string(reason), Message: message}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{ProviderID: "aws:///z/i-1"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	var w world
	w.cluster.Policy.Mode = providers.Auto
	w.cluster.Services, w.cluster.Nodes = []*corev1.Service{svc}, []*corev1.Node{node}
	w.cluster.Speakers = []*v1alpha1.Speaker{{ObjectMeta: metav1.ObjectMeta{Name: "n"}}}
	w.nodes.Services, w.nodes.Nodes = w.cluster.Services, w.cluster.Nodes
	return w
}

// TestOnAWS: without a word from the cloud, which only the controller hears,
// both commands say what the controller has said.
func TestOnAWS(t *testing.T) {
	w := onAWS(metav1.ConditionTrue, v1alpha1.Assigned, "it answers")
	var out strings.Builder
	e, err := explain(w, types.NamespacedName{Namespace: "ns", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	e.text(&out)
	for _, want := range []string{"AWS: AWS serves it already", "* lb.example.com", "it answers"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\ndoes not say %q", out.String(), want)
		}
	}
	if found := diagnose(w); len(found) > 0 {
		t.Errorf("doctor finds %v", found)
	}
	found := diagnose(onAWS(metav1.ConditionFalse, v1alpha1.QuotaExceeded, "50 balancers"))
	if len(found) != 1 || found[0].Severity != broken || found[0].Reason != v1alpha1.QuotaExceeded {
		t.Errorf("doctor finds %v", found)
	}
}

func TestPolicyFlags(t *testing.T) {
	lacking := onAWS(metav1.ConditionFalse, v1alpha1.CloudNotConfigured, "set --cluster-name")
	for _, row := range []struct {
		args []string
		want providers.Policy
	}{
		{nil, providers.Policy{Mode: "auto", AWSLacks: "set --cluster-name"}},
		{[]string{"--provider=aws", "--serve-services-without-class=false"}, providers.Policy{Mode: "aws", ClassedOnly: true, AWSLacks: "set --cluster-name"}},
		{[]string{"--provider=gcp"}, providers.Policy{}},
	} {
		cmd := &cobra.Command{}
		policy := policyFlags(cmd)
		if err := cmd.ParseFlags(row.args); err != nil {
			t.Fatal(err)
		}
		got, err := policy(lacking.cluster.Services)
		if got != row.want || (err == nil) != (row.want != providers.Policy{}) {
			t.Errorf("%q: %+v, %v", row.args, got, err)
		}
	}
}
