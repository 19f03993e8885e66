package plan

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestRenumbering: the replaced address is kept alongside the new one, and released in
// each possible way.
func TestRenumbering(t *testing.T) {
	const old, next = "192.0.2.0", "198.51.100.0"
	begin := func(t *testing.T, value string) *Snapshot {
		s := testSnapshot(service("a"))
		s.reconcile(t)
		s.annotate("a", v1alpha1.AnnotationRenumber, value)
		if got := s.shownState(t, "a"); got != old+" Assigned" {
			t.Fatalf("changed without a request: %s", got)
		}
		s.annotate("a", v1alpha1.AnnotationAddressPool, "q")
		if got := s.shownState(t, "a"); got != old+" "+next+" Renumbering" {
			t.Fatalf("started: %s", got)
		}
		if got := s.service("a").Annotations[v1alpha1.AnnotationLeaving]; got != old+"=2030-01-01T12:00:00Z" {
			t.Fatalf("recorded: %s", got)
		}
		return &s
	}
	expect := func(t *testing.T, s *Snapshot, want, message string) {
		t.Helper()
		if got := s.shownState(t, "a"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := s.provisionedMessage(t, "a"); !strings.Contains(got, message) {
			t.Errorf("%q does not contain %q", got, message)
		}
	}
	t.Run("until the annotation goes", func(t *testing.T) {
		s := begin(t, "hold")
		s.Now = s.Now.AddDate(1, 0, 0)
		s.announce(old, next)
		expect(t, s, old+" "+next+" Renumbering", "until annotation fairlead.io/renumber is removed")
		s.annotate("a", v1alpha1.AnnotationRenumber, "")
		expect(t, s, next+" Assigned", "")
	})
	t.Run("until it is released by name", func(t *testing.T) {
		s := begin(t, "hold")
		s.annotate("a", v1alpha1.AnnotationRelease, old)
		expect(t, s, next+" Assigned", "")
	})
	t.Run("until the time is over, but the old one is requested again", func(t *testing.T) {
		for annotation, value := range map[string]string{v1alpha1.AnnotationLoadBalancerIPs: old, v1alpha1.AnnotationAddressPool: "p"} {
			s := begin(t, "1h")
			s.announce(old, next)
			s.reconcile(t)
			s.Now = s.Now.Add(2 * time.Hour)
			s.annotate("a", v1alpha1.AnnotationAddressPool, "")
			s.annotate("a", annotation, value)
			if got := s.shownState(t, "a"); got != next+" "+old+" Renumbering" { // now the other one is leaving
				t.Errorf("%s: got %s", annotation, got)
			}
		}
	})
	for value, at := range map[string]time.Duration{"90m": 90 * time.Minute, "2030-01-01T14:00:00+01:00": time.Hour} {
		t.Run("until the time is over: "+value, func(t *testing.T) {
			s := begin(t, value)
			s.announce(old, next)
			end := s.Now.Add(at)
			if plan := s.reconcile(t); !plan.RequeueAt.Equal(end) {
				t.Errorf("wakes up at %s, want %s", plan.RequeueAt, end)
			}
			s.Now = end.Add(-time.Second)
			expect(t, s, old+" "+next+" Renumbering", "until "+end.Format(time.RFC3339))
			s.Now, s.Speakers = end, nil
			expect(t, s, old+" "+next+" Renumbering", "until the new address is announced")
			s.announce(next)
			expect(t, s, next+" Assigned", "")
		})
	}
	t.Run("second thoughts", func(t *testing.T) {
		s := begin(t, "hold")
		s.annotate("a", v1alpha1.AnnotationAddressPool, "p")
		expect(t, s, next+" "+old+" Renumbering", next+" is kept alongside the new address")
		s.annotate("a", v1alpha1.AnnotationRenumber, "")
		expect(t, s, old+" Assigned", "")
	})
	t.Run("no third address", func(t *testing.T) {
		s := begin(t, "hold")
		s.annotate("a", v1alpha1.AnnotationAddressPool, "")
		s.annotate("a", v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.9")
		expect(t, s, old+" "+next+" Renumbering", "a third address is not assigned")
		s.annotate("a", v1alpha1.AnnotationRelease, old)
		expect(t, s, next+" 192.0.2.9 Renumbering", "")
	})
	t.Run("off a pool that is deleted, and out of one that shrank", func(t *testing.T) {
		s := testSnapshot(service("a", annotated(v1alpha1.AnnotationRenumber, "1h")), service("b", annotated(v1alpha1.AnnotationRenumber, "1h")))
		s.reconcile(t)
		now := metav1.Now()
		s.Objects.Pools[0].DeletionTimestamp = &now
		expect(t, &s, old+" "+next+" Renumbering", "")
		s.Objects.Pools[0] = pool("p", "192.0.2.8/29")
		expect(t, &s, old+" "+next+" Renumbering", "")
		if got := s.reconcile(t).Pools["p"].Services; got != 2 {
			t.Errorf("%d Services have an address of the pool that they leave", got)
		}
	})
	t.Run("an invalid annotation keeps both", func(t *testing.T) {
		s := begin(t, "hold")
		s.annotate("a", v1alpha1.AnnotationRenumber, "forever")
		expect(t, s, old+" "+next+" InvalidRequest", "")
	})
}

// TestReplacedWhileRenumbering: without its records, a Service keeps the roles of its
// two addresses, and the new one of them if it does not renumber any more.
func TestReplacedWhileRenumbering(t *testing.T) {
	managed := func(s *corev1.Service) {
		s.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: v1alpha1.FieldManager, Operation: metav1.ManagedFieldsOperationApply, Subresource: "status",
			FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
		}}
	}
	for value, want := range map[string]string{"hold": "192.0.2.2 192.0.2.1 Renumbering", "": "192.0.2.1 Assigned"} {
		s := testSnapshot(service("a", holding("192.0.2.2", "192.0.2.1"), managed))
		s.annotate("a", v1alpha1.AnnotationRenumber, value)
		if got := s.shownState(t, "a"); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}
