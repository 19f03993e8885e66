package speaker

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-io/fairlead/speaker/plan"
)

// withdrawalDelay is the time for which a Service that had endpoints counts as if it still
// had some, so that a restart of its only pod does not withdraw its routes.
const withdrawalDelay = 5 * time.Second

// endpointLosses are the Services that this process has observed, by address family, each with
// the time since when it has had no endpoint. The time is zero if it has one.
type endpointLosses map[plan.EndpointFamily]time.Time

// observe replaces the losses by those of these Services. It returns the Services without
// endpoints, and the time until the next one belongs to them; 0 if there is none. A Service
// that had none when it was first observed belongs to them at once: this process advertises no
// routes for it.
func (e *endpointLosses) observe(
	services []*corev1.Service, slicesOf func(*corev1.Service) []*discoveryv1.EndpointSlice, now time.Time,
) (without map[plan.EndpointFamily]bool, wait time.Duration) {
	observed := make(endpointLosses, len(services))
	without = map[plan.EndpointFamily]bool{}
	for _, svc := range services {
		if len(svc.Status.LoadBalancer.Ingress) == 0 {
			continue
		}
		for family, has := range plan.EndpointFamilies(svc, slicesOf(svc)) {
			since, known := (*e)[family]
			switch {
			case has:
				observed[family] = time.Time{}
				continue
			case !known:
				since = now.Add(-withdrawalDelay)
			case since.IsZero():
				since = now
			}
			observed[family] = since
			if left := withdrawalDelay - now.Sub(since); left <= 0 {
				without[family] = true
			} else if wait == 0 || left < wait {
				wait = left
			}
		}
	}
	*e = observed
	return without, wait
}
