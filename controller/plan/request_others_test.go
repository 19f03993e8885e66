package plan

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestRequestsOfOthers checks the annotations with which other implementations
// request addresses and pools.
func TestRequestsOfOthers(t *testing.T) {
	const (
		own, cilium, oldCilium  = v1alpha1.AnnotationLoadBalancerIPs, "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"
		kubeVIP, pureLB, calico = "kube-vip.io/loadbalancerIPs", "purelb.io/addresses", "projectcalico.org/loadBalancerIPs"
		ownPool, serviceGroup   = v1alpha1.AnnotationAddressPool, "purelb.io/service-group"
		notArray                = "annotation projectcalico.org/loadBalancerIPs: must be a JSON array"
		byDHCP                  = "requests an address by DHCP"
	)
	both := dualStack(corev1.IPFamilyPolicyRequireDualStack)
	many := `"192.0.2.3"`
	for i := range 100 {
		many += fmt.Sprintf(`, "10.0.1.%d"`, i)
	}
	for _, row := range []struct {
		name    string
		service *corev1.Service
		want    string
		message string
	}{
		{"Cilium's address", service("a", annotated(cilium, "192.0.2.3")), "192.0.2.3 Assigned", ""},
		{"Cilium's old address", service("a", annotated(oldCilium, "192.0.2.3")), "192.0.2.3 Assigned", ""},
		{"Cilium's addresses", service("a", both, annotated(cilium, "2001:db8::3, 192.0.2.3")), "192.0.2.3 2001:db8::3 Assigned", ""},
		{
			"two addresses of one family", service("a", annotated(cilium, "192.0.2.3,192.0.2.4")), "InvalidRequest",
			"annotation lbipam.cilium.io/ips: must not list more than one IPv4 address",
		},
		{"kube-vip's address", service("a", annotated(kubeVIP, "192.0.2.3")), "192.0.2.3 Assigned", ""},
		{"kube-vip's addresses", service("a", both, annotated(kubeVIP, "192.0.2.3, 2001:db8::3")), "192.0.2.3 2001:db8::3 Assigned", ""},
		{
			"kube-vip's DHCP", service("a", annotated(kubeVIP, "0.0.0.0")), "InvalidRequest",
			"annotation kube-vip.io/loadbalancerIPs: 0.0.0.0 " + byDHCP,
		},
		{"kube-vip's DHCP for IPv6", service("a", both, annotated(kubeVIP, "192.0.2.3,::")), "InvalidRequest", ":: " + byDHCP},
		{
			"kube-vip's DHCP keeps what is there",
			service("a", finalized, holding("192.0.2.9"), annotated(kubeVIP, "0.0.0.0")), "192.0.2.9 InvalidRequest", byDHCP,
		},
		{"PureLB's address", service("a", annotated(pureLB, "192.0.2.3")), "192.0.2.3 Assigned", ""},
		{"PureLB's pool", service("a", annotated(serviceGroup, "q")), "198.51.100.0 Assigned", "from pool q"},
		{"PureLB's pool does not exist", service("a", annotated(serviceGroup, "none")), "NoMatchingPool", "pool none does not exist"},
		{
			"PureLB's pool and address", service("a", annotated(serviceGroup, "q"), annotated(pureLB, "192.0.2.3")), "ConflictingRequest",
			"192.0.2.3 is in pool p, but the Service requests pool q",
		},
		{
			"PureLB's pool and Fairlead's", service("a", annotated(serviceGroup, "q"), annotated(ownPool, "p")), "ConflictingRequest",
			`annotation fairlead.io/address-pool is "p" and annotation purelb.io/service-group is "q"`,
		},
		{"Calico's address", service("a", annotated(calico, `["192.0.2.3"]`)), "192.0.2.3 Assigned", ""},
		{"Calico's addresses", service("a", both, annotated(calico, `["2001:db8::3", "192.0.2.3"]`)), "192.0.2.3 2001:db8::3 Assigned", ""},
		{"no address of Calico's", service("a", annotated(calico, `[]`)), "192.0.2.0 Assigned", ""},
		{
			"no address of Calico's and one of Fairlead's", service("a", annotated(calico, `[]`), annotated(own, "192.0.2.3")),
			"192.0.2.3 Assigned", "",
		},
		{"Calico's, not an array", service("a", annotated(calico, "192.0.2.3")), "InvalidRequest", notArray},
		{"Calico's, not strings", service("a", annotated(calico, `[192]`)), "InvalidRequest", notArray},
		{"Calico's, not addresses", service("a", annotated(calico, `[""]`)), "InvalidRequest", `invalid IP address ""`},
		{
			"Calico's, a list in a string", service("a", both, annotated(calico, `["192.0.2.3,2001:db8::3"]`)), "InvalidRequest",
			`invalid IP address "192.0.2.3,2001:db8::3"`,
		},
		{"Calico's, a long list", service("a", annotated(calico, "["+many+"]")), "InvalidRequest", "must not list more than 100 addresses"},
		{
			"the same in all ways", service("a", annotated(own, "192.0.2.3"), annotated(cilium, "192.0.2.3"), annotated(oldCilium, "192.0.2.3"),
				annotated(kubeVIP, "192.0.2.3"), annotated(pureLB, "192.0.2.3"), annotated(calico, `["192.0.2.3"]`)),
			"192.0.2.3 Assigned", "",
		},
		{
			"two implementations, two addresses", service("a", annotated(calico, `["192.0.2.3"]`), annotated(cilium, "192.0.2.4")),
			"ConflictingRequest",
			`annotation lbipam.cilium.io/ips is "192.0.2.4" and annotation projectcalico.org/loadBalancerIPs is "192.0.2.3"`,
		},
		{"outside of every pool", service("a", annotated(cilium, "203.0.113.9")), "AddressNotInPool", "203.0.113.9"},
		{"outside of every pool, Calico's", service("a", annotated(calico, `["203.0.113.9"]`)), "AddressNotInPool", "203.0.113.9"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := testSnapshot(row.service)
			if got := s.shownState(t, "a"); got != row.want {
				t.Errorf("got %q, want %q: %s", got, row.want, s.provisionedMessage(t, "a"))
			}
			if message := s.provisionedMessage(t, "a"); !strings.Contains(message, row.message) {
				t.Errorf("got message %q, want %q", message, row.message)
			}
		})
	}
}

// TestPureLBSharing: PureLB's key has the meaning of Fairlead's.
func TestPureLBSharing(t *testing.T) {
	const own, pureLB = v1alpha1.AnnotationAllowSharedIP, "purelb.io/allow-shared-ip"
	s := testSnapshot(
		service("a", annotated(pureLB, "k"), serving("TCP", 80)), service("b", annotated(own, "k"), serving("TCP", 81)),
		service("c", annotated(pureLB, "other"), serving("TCP", 82)), service("d", annotated(pureLB, "k"), annotated(own, "other")),
	)
	for name, want := range map[string]string{
		"a": "192.0.2.0 Assigned", "b": "192.0.2.0 Assigned", "c": "192.0.2.1 Assigned", "d": "ConflictingRequest",
	} {
		if got := s.shownState(t, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// TestCiliumSharing: Cilium's key is limited to the namespace of the Service.
func TestCiliumSharing(t *testing.T) {
	const own, cilium, oldCilium = v1alpha1.AnnotationAllowSharedIP, "lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"
	elsewhere := func(s *corev1.Service) { s.Namespace = "other" }
	for _, row := range []struct {
		name          string
		first, second *corev1.Service
		want          string // of the second one; the first one has 192.0.2.0
	}{
		{"one key", service("a", annotated(cilium, "k")), service("b", annotated(oldCilium, "k")), "192.0.2.0 Assigned"},
		{"two keys", service("a", annotated(cilium, "k")), service("b", annotated(cilium, "l")), "192.0.2.1 Assigned"},
		{"two namespaces", service("a", annotated(cilium, "k"), elsewhere), service("b", annotated(cilium, "k")), "192.0.2.1 Assigned"},
		{"Fairlead's key", service("a", annotated(cilium, "k")), service("b", annotated(own, "k")), "192.0.2.1 Assigned"},
		{
			"both on one Service", service("a", annotated(cilium, "k"), annotated(own, "k"), elsewhere), service("b", annotated(own, "k")),
			"192.0.2.0 Assigned",
		},
		{"contradicting keys", service("a"), service("b", annotated(cilium, "k"), annotated(own, "l")), "ConflictingRequest"},
		{
			"a key that imitates one of the namespace", service("a", annotated(cilium, "k")),
			service("b", annotated(own, namespacedKeyPrefix+"ns: k"), elsewhere), "InvalidRequest",
		},
		{"a long key", service("a"), service("b", annotated(cilium, strings.Repeat("k", maxKeyLength-5))), "InvalidRequest"},
	} {
		t.Run(row.name, func(t *testing.T) {
			serving("TCP", 80)(row.first)
			serving("TCP", 81)(row.second)
			s := testSnapshot(row.first, row.second)
			plan := s.reconcile(t)
			states := map[string]string{}
			for _, svc := range s.Services {
				state := ""
				p, _ := plan.findService(KeyOf(svc))
				for _, in := range p.Ingress {
					state += in.IP + " "
				}
				states[svc.Name] = state + p.Conditions[0].Reason
			}
			if states["a"] != "192.0.2.0 Assigned" || states["b"] != row.want {
				t.Errorf("got %q, want %q", states, row.want)
			}
		})
	}
}

// TestContradictingKeyIsRefused: a Service goes on sharing while its keys contradict each other.
func TestContradictingKeyIsRefused(t *testing.T) {
	const own, cilium = v1alpha1.AnnotationAllowSharedIP, "lbipam.cilium.io/sharing-key"
	s := testSnapshot(service("a", annotated(cilium, "k"), serving("TCP", 80)), service("b", annotated(cilium, "k"), serving("TCP", 81)))
	s.reconcile(t)
	s.annotate("b", own, "l")
	for name, want := range map[string]string{"a": "192.0.2.0 Assigned", "b": "192.0.2.0 ConflictingRequest"} {
		if got := s.shownState(t, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// TestUnsupportedAnnotations: the Service is served, and its condition names them.
func TestUnsupportedAnnotations(t *testing.T) {
	const pools, across, multi = "projectcalico.org/ipv4pools", "lbipam.cilium.io/sharing-cross-namespace", "purelb.io/multi-pool"
	for _, row := range []struct {
		name    string
		service *corev1.Service
		want    string
		message string
	}{
		{
			"Calico's pools", service("a", annotated(pools, `["q"]`)), "192.0.2.0 UnsupportedAnnotation",
			"192.0.2.0 from pool p; annotation projectcalico.org/ipv4pools is not supported: use fairlead.io/address-pool",
		},
		{
			"superseded", service("a", annotated(pools, `["q"]`), annotated(v1alpha1.AnnotationAddressPool, "q")), "198.51.100.0 Assigned",
			"198.51.100.0 from pool q",
		},
		{
			"two of them", service("a", annotated(pools, `["q"]`), annotated(across, "*")), "192.0.2.0 UnsupportedAnnotation",
			"address-pool; annotation lbipam.cilium.io/sharing-cross-namespace is not supported: use fairlead.io/allow-shared-ip",
		},
		{
			"no equivalent", service("a", annotated(multi, "true")), "192.0.2.0 UnsupportedAnnotation",
			"annotation purelb.io/multi-pool is not supported",
		},
		{"no request", service("a", annotated(multi, "false"), annotated(pools, "")), "192.0.2.0 Assigned", "192.0.2.0 from pool p"},
		{
			"out of its pool", service("a", finalized, holding("203.0.113.1"), fixture.Recorded("203.0.113.1=p"), annotated(pools, `["q"]`)), "203.0.113.1 OutOfPool",
			"pool p does not contain it any more; annotation projectcalico.org/ipv4pools is not supported: use fairlead.io/address-pool",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := testSnapshot(row.service)
			if got := s.shownState(t, "a"); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if message := s.provisionedMessage(t, "a"); !strings.HasSuffix(message, row.message) {
				t.Errorf("got message %q, want %q at its end", message, row.message)
			}
		})
	}
}
