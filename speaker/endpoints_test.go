package speaker

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// TestEndpointLosses checks since when a Service counts as one without endpoints.
func TestEndpointLosses(t *testing.T) {
	const half = withdrawalDelay / 2
	type step struct {
		after   time.Duration
		state   string // of the endpoint; "gone" without the Service
		without bool
		wait    time.Duration
	}
	for _, row := range []struct {
		name  string
		steps []step
	}{
		{"none when the speaker starts", []step{
			{0, "down", true, 0}, {half, "down", true, 0}, {0, "ready", true, proxySyncDelay}, {proxySyncDelay, "ready", false, 0},
		}},
		{"the last endpoint is lost", []step{
			{0, "ready", false, 0},
			{time.Hour, "down", false, withdrawalDelay},
			{half, "down", false, half},
			{half, "down", true, 0},
			{time.Hour, "down", true, 0},
			{0, "ready", true, proxySyncDelay},
			{proxySyncDelay / 2, "ready", true, proxySyncDelay / 2},
			{proxySyncDelay / 2, "ready", false, 0},
			{0, "down", false, withdrawalDelay},
		}},
		{"the endpoint is lost again before it counts", []step{
			{0, "ready", false, 0},
			{time.Hour, "down", false, withdrawalDelay},
			{withdrawalDelay, "down", true, 0},
			{time.Hour, "ready", true, proxySyncDelay},
			{0, "down", true, 0},
			{time.Hour, "serving", true, proxySyncDelay},
			{proxySyncDelay, "ready", false, 0},
		}},
		{"a short restart, again and again", []step{
			{0, "ready", false, 0},
			{time.Hour, "", false, withdrawalDelay},
			{half, "ready", false, 0},
			{half, "", false, withdrawalDelay},
			{half, "ready", false, 0},
			{half, "", false, withdrawalDelay},
		}},
		{"terminating, but serving", []step{{0, "ready", false, 0}, {time.Hour, "serving", false, 0}, {0, "down", false, withdrawalDelay}}},
		{"a new Service", []step{{0, "gone", false, 0}, {0, "down", true, 0}, {half, "ready", false, 0}, {half, "down", false, withdrawalDelay}}},
		{"a Service that is created again", []step{
			{0, "ready", false, 0}, {half, "gone", false, 0}, {half, "down", true, 0}, {half, "ready", false, 0},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var losses endpointLosses
			now := time.Now()
			svc := service("s", "203.0.113.5", "p")
			key := plan.EndpointFamily{Service: fixture.Key("s"), Type: discoveryv1.AddressTypeIPv4}
			for i, step := range row.steps {
				now = now.Add(step.after)
				services := []*corev1.Service{svc, fixture.Service("pending")}
				if step.state == "gone" {
					services = nil
				}
				slicesOf := func(*corev1.Service) []*discoveryv1.EndpointSlice {
					return slices.Repeat([]*discoveryv1.EndpointSlice{fixture.EndpointSlice("s", "a "+step.state)}, len(strings.Fields(step.state)))
				}
				without, wait := losses.observe(services, slicesOf, now)
				if without[key] != step.without || wait != step.wait || len(without) > 1 {
					t.Fatalf("step %d: got %v and %s, want %t and %s", i, without, wait, step.without, step.wait)
				}
			}
		})
	}
}
