package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNextHopOfOtherFamily checks that the next hop of IPv6 routes over an IPv4 session is
// the address of the Node, also after another address was added to the interface.
func TestNextHopOfOtherFamily(t *testing.T) {
	routers(t)
	create := func(name string) {
		service(t, name, func(s *corev1.Service) {
			policy := corev1.IPFamilyPolicyRequireDualStack
			s.Spec.IPFamilyPolicy = &policy
			s.Annotations["fairlead.io/address-pool"] = "bgp"
		})
		condition(t, name, "Announced", "Announced")
		for _, in := range get(t, name).Status.LoadBalancer.Ingress {
			routedViaAll(t, netip.MustParseAddr(in.IP), 0, 1, 2)
		}
	}
	create("hop-before")
	other := netip.MustParsePrefix("2001:db8:0:77::1/64") // of no router
	if err := cluster.Nodes[0].AddAddress(other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Nodes[0].RemoveAddress(other); err != nil {
			t.Error(err)
		}
	})
	create("hop-after")
}

// TestDualStack checks that the cluster of the lab forwards dual-stack Services from
// nodes and pods to pods of other nodes.
func TestDualStack(t *testing.T) {
	svc := service(t, "dual", func(s *corev1.Service) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		s.Spec.Type, s.Spec.IPFamilyPolicy = corev1.ServiceTypeClusterIP, &policy
	})
	if len(svc.Spec.ClusterIPs) != 2 {
		t.Fatalf("the Service has the addresses %v, want two", svc.Spec.ClusterIPs)
	}
	for _, ip := range svc.Spec.ClusterIPs {
		target := url(netip.MustParseAddr(ip), 8086)
		reach(t, cluster.Nodes[0], target)
		reach(t, cluster.Pods[0], target)
		eventually(t, "all pods answer at "+target, func() error {
			seen := map[string]bool{}
			for range 50 {
				answer, err := cluster.Pods[1].Get(t.Context(), target)
				if err != nil {
					return err
				}
				var name string
				if _, err := fmt.Sscanf(answer, "pong from %s", &name); err != nil {
					return fmt.Errorf("read %q: %w", answer, err)
				}
				seen[name] = true
			}
			if len(seen) < len(cluster.Pods) {
				return fmt.Errorf("only %v have answered", seen)
			}
			return nil
		})
	}
}
