package controller

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// observations returns the number and the sum of the observations of the histogram or counter
// with the name and the label values.
func observations(t *testing.T, name string, labels ...string) (count uint64, sum float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() { // sorted by name
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && strings.Join(values, ",") == strings.Join(labels, ",") {
				return m.GetHistogram().GetSampleCount() + uint64(m.GetCounter().GetValue()), m.GetHistogram().GetSampleSum()
			}
		}
	}
	return 0, 0
}

// waitStep is an input of serviceLatencies for a Service, at a time in seconds.
type waitStep struct {
	at    int64
	input string // "seen", "assigned", "announced": the latter are writes; "full": a full plan
	svc   func(*corev1.Service)
}

// TestServiceLatencies checks which waits of Services are measured, and from when on.
func TestServiceLatencies(t *testing.T) {
	registerMetrics()
	condition := func(kind string, status metav1.ConditionStatus, since int64) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, LastTransitionTime: metav1.Unix(since, 0)}
	}
	refused := func(since int64) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Status.Conditions = append(svc.Status.Conditions, condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, since))
		}
	}
	ingress := []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	has := func(svc *corev1.Service) { svc.Status.LoadBalancer.Ingress = ingress }
	announced := func(svc *corev1.Service) {
		has(svc)
		svc.Status.Conditions = append(svc.Status.Conditions, condition(v1alpha1.ConditionAnnounced, metav1.ConditionTrue, 0))
	}
	notServed := func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = new(string) }
	otherType := func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }
	for _, row := range []struct {
		name      string
		steps     []waitStep
		address   string // number and sum of the observations
		announced string
		oldest    int64 // at 1000
	}{
		{
			"assigned and announced",
			[]waitStep{{100, "seen", nil}, {101, "seen", nil}, {103, "assigned", nil}, {104, "full", has}, {106, "announced", has}},
			"1 3", "1 6", 0,
		},
		{
			"written again",
			[]waitStep{{100, "seen", nil}, {103, "assigned", nil}, {104, "assigned", has}, {105, "announced", has}, {106, "announced", has}},
			"1 3", "1 5", 0,
		},
		{"in one write", []waitStep{{100, "seen", nil}, {103, "announced", nil}}, "1 3", "1 3", 0},
		{"first seen in a plan", []waitStep{{100, "full", nil}, {103, "assigned", nil}}, "1 3", "0 0", 0},
		{"refused by an earlier leader", []waitStep{{100, "seen", refused(40)}, {103, "assigned", nil}}, "1 63", "0 0", 0},
		{"pending", []waitStep{{100, "seen", nil}, {200, "full", nil}}, "0 0", "0 0", 900},
		{"had an address before", []waitStep{{100, "seen", has}, {101, "full", has}, {103, "announced", has}}, "0 0", "0 0", 0},
		{"deleted", []waitStep{{100, "seen", nil}, {103, "full", nil}, {104, "gone", nil}, {105, "assigned", nil}}, "0 0", "0 0", 0},
		{"not served", []waitStep{{100, "seen", notServed}, {103, "full", notServed}}, "0 0", "0 0", 0},
		{"of another type", []waitStep{{100, "seen", otherType}}, "0 0", "0 0", 0},
		{"written by another writer", []waitStep{{100, "seen", nil}, {103, "full", has}, {104, "announced", has}}, "0 0", "1 4", 0},
		{"announced without a write", []waitStep{{100, "seen", nil}, {103, "full", announced}, {104, "announced", announced}}, "0 0", "0 0", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			addressCount, addressSum := observations(t, "fairlead_time_to_address_seconds")
			announcedCount, announcedSum := observations(t, "fairlead_time_to_announced_seconds")
			var l serviceLatencies
			for _, step := range row.steps {
				svc := service("a")
				svc.UID, svc.Spec.Type = types.UID("uid"), corev1.ServiceTypeLoadBalancer
				if step.svc != nil {
					step.svc(svc)
				}
				now := time.Unix(step.at, 0)
				p := plan.ServicePlan{Ingress: ingress, Conditions: []metav1.Condition{condition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, 0)}}
				switch step.input {
				case "seen":
					l.observe(svc, now)
				case "full":
					if svc.Spec.LoadBalancerClass != nil {
						p.Conditions = nil
					}
					l.retain([]plan.PlannedService{{Service: svc, Plan: &p}}, now)
				case "gone":
					l.retain(nil, now)
				case "announced":
					p.Conditions = append(p.Conditions, condition(v1alpha1.ConditionAnnounced, metav1.ConditionTrue, 0))
					l.written(svc, p, now)
				case "assigned":
					l.written(svc, p, now)
				}
			}
			count, sum := observations(t, "fairlead_time_to_address_seconds")
			if got := fmt.Sprint(count-addressCount, math.Round(sum-addressSum)); got != row.address {
				t.Errorf("time to address: got %s, want %s", got, row.address)
			}
			count, sum = observations(t, "fairlead_time_to_announced_seconds")
			if got := fmt.Sprint(count-announcedCount, math.Round(sum-announcedSum)); got != row.announced {
				t.Errorf("time to announced: got %s, want %s", got, row.announced)
			}
			if got := int64(l.oldest(time.Unix(1000, 0)).Seconds()); got != row.oldest {
				t.Errorf("the oldest has been pending for %d s, want %d", got, row.oldest)
			}
		})
	}
}

// TestCountWrite checks the results by which writes are counted.
func TestCountWrite(t *testing.T) {
	registerMetrics()
	resource := schema.GroupResource{Resource: "services"}
	for want, err := range map[string]error{
		"success": nil, "conflict": fmt.Errorf("apply: %w", apierrors.NewConflict(resource, "a", nil)), "failure": errors.New("no answer"),
		"": apierrors.NewNotFound(resource, "a"),
	} {
		before := map[string]uint64{}
		results := []string{"success", "conflict", "failure"}
		for _, r := range results {
			before[r], _ = observations(t, "fairlead_writes_total", "Service", r)
		}
		countWrite("Service", err)
		for _, r := range results {
			n, _ := observations(t, "fairlead_writes_total", "Service", r)
			if counted := n > before[r]; counted != (r == want) {
				t.Errorf("%v: counted as %s: %t", err, r, counted)
			}
		}
	}
}
