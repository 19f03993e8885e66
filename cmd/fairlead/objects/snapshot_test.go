package objects

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// TestSnapshotPolicy: what the policy lacks for AWS is what the controller has
// written on a Service.
func TestSnapshotPolicy(t *testing.T) {
	for _, row := range []struct {
		reason v1alpha1.Reason
		want   string
	}{
		{v1alpha1.CloudNotConfigured, "set --cluster-name"},
		{v1alpha1.QuotaExceeded, ""},
	} {
		refused := &corev1.Service{Status: corev1.ServiceStatus{Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionProvisioned, Status: metav1.ConditionFalse, Reason: string(row.reason), Message: "set --cluster-name"},
		}}}
		c := Collection{Services: []*corev1.Service{{}, refused}}
		got := c.Snapshot(time.Time{}, providers.Policy{Mode: providers.Auto, ClassedOnly: true}).Controller.Policy
		if want := (providers.Policy{Mode: providers.Auto, ClassedOnly: true, AWSLacks: row.want}); got != want {
			t.Errorf("%s: got %+v, want %+v", row.reason, got, want)
		}
	}
}

// TestSnapshotNamespaces checks that the controller and the speakers decide with the
// same Namespaces.
func TestSnapshotNamespaces(t *testing.T) {
	c := Collection{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}
	s := c.Snapshot(time.Time{}, providers.Policy{})
	if len(s.Controller.Namespaces) != 1 || len(s.Speaker.Namespaces) != 1 {
		t.Errorf("the controller has %d, the speakers have %d", len(s.Controller.Namespaces), len(s.Speaker.Namespaces))
	}
}

func TestSession(t *testing.T) {
	reported := func(node string, peers ...string) *v1alpha1.Speaker {
		s := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: node}}
		for _, p := range peers {
			s.Status.Sessions = append(s.Status.Sessions, v1alpha1.Session{Peer: p, State: node + " to " + p})
		}
		return s
	}
	c := Collection{Speakers: []*v1alpha1.Speaker{reported("node-1", "tor-a", "tor-b"), reported("node-2", "tor-b")}}
	s := c.Snapshot(time.Time{}, providers.Policy{})
	for _, row := range []struct{ node, peer, want string }{
		{"node-1", "tor-a", "node-1 to tor-a"},
		{"node-2", "tor-b", "node-2 to tor-b"},
		{"node-2", "tor-a", ""},
		{"node-3", "tor-a", ""},
	} {
		if got, ok := s.Session(row.node, row.peer); got.State != row.want || ok != (row.want != "") {
			t.Errorf("%s, %s: got %+v, %v, want %q", row.node, row.peer, got, ok, row.want)
		}
	}
}
