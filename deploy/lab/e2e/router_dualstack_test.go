package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

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
