package controller

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
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

// TestFirstEndpointsEvent checks that missing endpoints of a new Service are not a Warning,
// whether its address is announced or not.
func TestFirstEndpointsEvent(t *testing.T) {
	for _, row := range []struct {
		age    time.Duration
		status metav1.ConditionStatus
		want   string
	}{
		{time.Second, metav1.ConditionFalse, "Normal"},
		{time.Second, metav1.ConditionTrue, "Normal"},
		{time.Hour, metav1.ConditionFalse, "Warning"},
		{time.Hour, metav1.ConditionTrue, "Warning"},
	} {
		recorder := record.NewFakeRecorder(1)
		c := &Controller{log: slog.New(slog.DiscardHandler), events: newEventQueue(recorder)}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now().Add(-row.age))}}
		c.reportTransitions(svc, plan.ServicePlan{Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionAnnounced, Status: row.status, Reason: string(v1alpha1.NoEndpoints), Message: "m",
		}}})
		event, _ := c.events.nextEvent()
		if event == nil {
			t.Fatal("no Event")
		}
		if event(); <-recorder.Events != row.want+" NoEndpoints m" {
			t.Errorf("after %s, status %s: the Event is not of type %s", row.age, row.status, row.want)
		}
	}
}
