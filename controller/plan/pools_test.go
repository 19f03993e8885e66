package plan

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestSelection: which pools a Service may use.
func TestSelection(t *testing.T) {
	selecting := func(name, addrs string, a v1alpha1.ServiceAllocation) *v1alpha1.IPAddressPool {
		p := pool(name, v1alpha1.AddressRange(addrs))
		p.Spec.ServiceAllocation = &a
		return p
	}
	labelled := func(key, value string) []metav1.LabelSelector {
		return []metav1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
	}
	s := testSnapshot()
	s.Namespaces = []*corev1.Namespace{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "team", Labels: map[string]string{"tier": "edge"}},
		}, {ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, {
			ObjectMeta: metav1.ObjectMeta{Name: "named"},
		},
	}
	s.Objects.Pools = []*v1alpha1.IPAddressPool{
		pool("all", "192.0.2.0/28"),
		selecting("first", "192.0.2.16/28", v1alpha1.ServiceAllocation{Priority: 1, Namespaces: []string{"unused"}}),
		selecting("by-name", "192.0.2.32/28", v1alpha1.ServiceAllocation{Namespaces: []string{"named"}}),
		selecting("by-label", "192.0.2.48/28", v1alpha1.ServiceAllocation{
			NamespaceSelectors: labelled("tier", "edge"), ServiceSelectors: labelled("app", "web"),
		}),
		selecting("by-service", "192.0.2.64/28", v1alpha1.ServiceAllocation{ServiceSelectors: labelled("app", "db")}),
		selecting("broken", "192.0.2.80/28", v1alpha1.ServiceAllocation{NamespaceSelectors: []metav1.LabelSelector{{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}},
		}}}),
	}
	for i, row := range []struct {
		namespace, app, asks, want string
	}{
		{"ns", "", "", "192.0.2.0 Assigned"},
		{"named", "", "", "192.0.2.32 Assigned"},
		{"team", "web", "", "192.0.2.48 Assigned"},
		{"team", "", "", "192.0.2.1 Assigned"},
		{"ns", "web", "", "192.0.2.2 Assigned"},
		{"ns", "db", "", "192.0.2.64 Assigned"},
		{"ns", "", "by-name", "NoMatchingPool"},
		{"ns", "", "broken", "NoMatchingPool"},
		{"new", "", "", "NoMatchingPool"}, // its labels may select a pool of higher priority
	} {
		name := fmt.Sprintf("%c", 'a'+i)
		svc := service(name, func(svc *corev1.Service) { svc.Labels = map[string]string{"app": row.app} })
		if row.asks != "" {
			annotated(v1alpha1.AnnotationAddressPool, row.asks)(svc)
		}
		svc.Namespace = row.namespace
		s.Services = append(s.Services, svc)
		p := s.reconcile(t).planOf(KeyOf(svc))
		got := p.Conditions[0].Reason
		if len(p.Ingress) > 0 {
			got = p.Ingress[0].IP + " " + got
		}
		if got != row.want {
			t.Errorf("%+v: got %s: %s", row, got, p.Conditions[0].Message)
		}
	}
	got := s.reconcile(t).Pools["broken"].Conditions[0]
	if got.Reason != "InvalidSelector" ||
		!strings.Contains(got.Message, "spec.serviceAllocation.namespaceSelectors[0]") {
		t.Errorf("broken: %+v", got)
	}
	s.Services = []*corev1.Service{service("z", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.33"))}
	const want = "AddressNotInPool: 192.0.2.33 is in pool by-name, which does not select this Service"
	if got := s.shownState(t, "z") + ": " + s.provisionedMessage(t, "z"); got != want {
		t.Error(got)
	}
}

// TestClusterRanges: addresses of nodes, Pods and Services are never assigned, and
// are reported.
func TestClusterRanges(t *testing.T) {
	s := testSnapshot(
		service("a"),
		service("b", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.1")),
		service("c", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.9")),
		service("d", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.17")),
		service("e", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.255")),
		service("f", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.128")),
		service("g", holding("192.0.2.2"), fixture.Recorded("192.0.2.2=p")),
	)
	buggy := pool("p", "192.0.2.0/25", "192.0.2.128/25")
	buggy.Spec.AvoidBuggyIPs = true
	s.Objects.Pools = []*v1alpha1.IPAddressPool{buggy}
	s.Nodes[0].Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "n1"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
		{Type: corev1.NodeExternalIP, Address: "192.0.2.2"},
	}
	s.Nodes[0].Spec.PodCIDRs = []string{"192.0.2.8/29", "nonsense"}
	s.ServiceCIDRs = []*networkingv1.ServiceCIDR{{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"192.0.2.16/28", "fd00::/108"}},
	}}
	for name, want := range map[string]string{
		"a": "192.0.2.3 Assigned: 192.0.2.3 from pool p",
		"b": "AddressReserved: 192.0.2.1 is an address of Node n1",
		"c": "AddressReserved: 192.0.2.9 is in the pod CIDR 192.0.2.8/29 of Node n1",
		"d": "AddressReserved: 192.0.2.17 is in 192.0.2.16/28 of ServiceCIDR kubernetes",
		"e": "AddressReserved: 192.0.2.255 is the first or last address of a CIDR of pool p, which has avoidBuggyIPs set",
		"f": "AddressReserved: 192.0.2.128 is the first or last address of a CIDR of pool p, which has avoidBuggyIPs set",
		"g": "192.0.2.2 Assigned: 192.0.2.2 from pool p",
	} {
		if got := s.shownState(t, name) + ": " + s.provisionedMessage(t, name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	status := s.reconcile(t).Pools["p"]
	if ready := status.Conditions[0]; ready.Reason != "NodeAddress" ||
		!strings.Contains(ready.Message, "192.0.2.1, which is an address of Node n1; 192.0.2.2") ||
		!strings.Contains(ready.Message, "192.0.2.16-192.0.2.31, which is in") {
		t.Errorf("ready: %+v", ready)
	}
	// 256, without 4 edges, 2 of nodes, 8 of pods and 16 of Services.
	if status.IPv4.Capacity != "226" || status.IPv4.Used != 2 || status.IPv4.Free != "225" {
		t.Errorf("usage: %+v", status.IPv4)
	}
}

// TestClusterRangesInEntries: the condition Ready of a pool has the addresses of its own
// entries that the cluster uses, not all that the cluster uses.
func TestClusterRangesInEntries(t *testing.T) {
	s := testSnapshot()
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "10.97.0.0/24", "10.97.255.255-10.98.0.7", "10.99.0.0/30")}
	s.Nodes[0].Spec.PodCIDRs = []string{"10.99.0.2/31"}
	s.ServiceCIDRs = []*networkingv1.ServiceCIDR{{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/16"}},
	}}
	const want = "spec.addresses: these are never assigned: 10.97.0.0-10.97.0.255, which is in 10.97.0.0/16 of ServiceCIDR kubernetes; " +
		"10.97.255.255, which is in 10.97.0.0/16 of ServiceCIDR kubernetes; 10.99.0.2-10.99.0.3, which is in the pod CIDR 10.99.0.2/31 of Node n1"
	if ready := s.reconcile(t).Pools["p"].Conditions[0]; ready.Reason != "ClusterAddress" || ready.Message != want {
		t.Errorf("got %s: %s\nwant %s", ready.Reason, ready.Message, want)
	}
}

// TestPoolConditions lists the conditions of pools.
func TestPoolConditions(t *testing.T) {
	s := testSnapshot()
	younger := pool(
		"younger", "10.0.0.0/24", "192.0.2.8-192.0.2.200", "0.0.0.0/0",
		"::/0", "10.1.0.0/33", "::ffff:10.0.0.0/120", "10.2.0.1%eth0",
	)
	younger.CreationTimestamp = metav1.Now()
	s.Objects.Pools = append(s.Objects.Pools, younger)
	s.Objects.L2Advertisements = []*v1alpha1.L2Advertisement{{
		ObjectMeta: metav1.ObjectMeta{Name: "ad"},
		Spec:       v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}},
	}}
	plan := s.reconcile(t)
	for name, want := range map[string][3]string{
		"p": {"Ready True Ready", "Advertised True Advertised", "Overlaps True OverlappingAddresses shares addresses with younger"},
		"q": {"Ready True Ready", "Advertised False NoAdvertisement", "Overlaps False NoOverlap"},
		"younger": {
			"Ready False OverlappingAddresses", "Advertised False NoAdvertisement",
			"Overlaps True OverlappingAddresses shares addresses with p",
		},
	} {
		for i, c := range plan.Pools[name].Conditions {
			if got := fmt.Sprintf("%s %s %s %s", c.Type, c.Status, c.Reason, c.Message); !strings.HasPrefix(got, want[i]) {
				t.Errorf("%s: got %q, want %q", name, got, want[i])
			}
		}
	}
	if got := plan.Pools["younger"]; got.IPv4.Capacity != "256" ||
		strings.Count(got.Conditions[0].Message, "spec.addresses[") != 3 ||
		!strings.HasSuffix(got.Conditions[0].Message, "; and 3 more") {
		t.Errorf("its one valid entry serves, three others are named: %+v", got)
	}
}
