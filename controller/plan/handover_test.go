package plan

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestHandOver checks that a Service keeps its address when it moves from another
// implementation to Fairlead, and that it is released when it moves back.
func TestHandOver(t *testing.T) {
	const addr = "192.0.2.7"
	ofOthers := []func(*corev1.Service){
		holding(addr), fixture.IngressManagedBy("other"),
		annotated("metallb.io/loadBalancerIPs", addr), annotated("kube-vip.io/loadbalancerIPs", addr),
	}
	expect := func(t *testing.T, s *Snapshot, want string, recorded bool) {
		t.Helper()
		s.reconcile(t)
		svc, got := s.service("a"), ""
		for _, in := range svc.Status.LoadBalancer.Ingress {
			got += in.IP
		}
		if got != want || (len(config.OwnAllocation(svc)) > 0) != recorded {
			t.Errorf("got %q, want %q; annotations %v", got, want, svc.Annotations)
		}
	}
	t.Run("all Services, to Fairlead", func(t *testing.T) {
		s := testSnapshot(service("a", ofOthers...), service("b"))
		expect(t, &s, addr, true)
	})
	t.Run("one Service, to Fairlead", func(t *testing.T) {
		s := testSnapshot(service("a", ofOthers...))
		s.Policy.ClassedOnly = true
		expect(t, &s, addr, false)
		fixture.Recorded(addr + "=p")(s.service("a")) // by an administrator
		expect(t, &s, addr, true)
	})
	t.Run("one Service, by class", func(t *testing.T) {
		s := testSnapshot(service("a", ofOthers...))
		class := v1alpha1.ClassBareMetal
		s.Policy.ClassedOnly = true
		// The API server empties the status of a ClusterIP Service.
		s.service("a").Spec.LoadBalancerClass, s.service("a").Status.LoadBalancer.Ingress = &class, nil
		expect(t, &s, addr, true)
	})
	t.Run("one Service, from Fairlead", func(t *testing.T) {
		s := testSnapshot(service("a", annotated("metallb.io/loadBalancerIPs", addr)))
		expect(t, &s, addr, true)
		s.Policy.ClassedOnly = true
		expect(t, &s, addr, true) // it stays until the record is removed
		fixture.IngressManagedBy(v1alpha1.FieldManager)(s.service("a"))
		delete(s.service("a").Annotations, v1alpha1.AnnotationAllocatedFrom)
		expect(t, &s, "", false)
		if svc := s.service("a"); len(svc.Finalizers) > 0 || len(svc.Status.Conditions) > 0 {
			t.Errorf("left on the Service: %v, %v", svc.Finalizers, svc.Status.Conditions)
		}
	})
}
