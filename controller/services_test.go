package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestStrip: a Service is kept whole as long as anything on it is Fairlead's,
// whatever its type; of the others only what identifies them and occupies
// addresses and ports is kept.
func TestStrip(t *testing.T) {
	demoted := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Selector = corev1.ServiceTypeNodePort, map[string]string{"a": "b"}
		s.Spec.ExternalIPs, s.Spec.ClusterIP = []string{"192.0.2.9"}, "10.0.0.1"
		s.Spec.Ports = []corev1.ServicePort{{Port: 80, NodePort: 30080}, {Port: 81}}
		s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}}
	}
	for _, row := range []struct {
		name  string
		svc   *corev1.Service
		whole bool
	}{
		{"a LoadBalancer", service("a", demoted, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }), true},
		{"demoted, with a finalizer", service("a", demoted, func(s *corev1.Service) { s.Finalizers = []string{v1alpha1.FinalizerAWS} }), true},
		{"demoted, with a record", service("a", demoted, fixture.Recorded("192.0.2.1=p")), true},
		{"demoted, with a condition", service("a", demoted, func(s *corev1.Service) {
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionProvisioned}}
		}), true},
		{"demoted, with an address", fixture.Assigned("a", "192.0.2.1", "p", demoted), true},
		{"another one", service("a", demoted, annotated("x", "y")), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			object, err := stripObject(row.svc)
			if err != nil {
				t.Fatal(err)
			}
			svc := object.(*corev1.Service)
			if whole := svc.Spec.Selector != nil; whole != row.whole {
				t.Errorf("kept whole: %t", whole)
			}
			if svc.ManagedFields != nil || svc.Name != "a" || svc.UID != "a" || svc.Spec.ClusterIP != "10.0.0.1" ||
				len(svc.Spec.ExternalIPs) != 1 || svc.Spec.Ports[0].NodePort != 30080 {
				t.Errorf("got %+v", svc)
			}
		})
	}
}
