package speaker

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-io/fairlead/speaker/plan"
)

// withdrawalDelay is the time for which a Service that had endpoints counts as if it still
// had some, so that a restart of its only pod does not withdraw its routes. After a withdrawal,
// a Service with endpoints counts as one without for the proxySyncDelay: until then the
// kube-proxy of this node may reject packets that another site answers.
const withdrawalDelay = 5 * time.Second

// endpointLosses are the Services that this process has observed, by address family.
type endpointLosses map[plan.EndpointFamily]endpointLoss

type endpointLoss struct {
	has     bool      // whether there is an endpoint
	since   time.Time // when has changed; zero if only the first endpoint of the Service did
	without bool      // whether the Service counts as one without endpoints
}

// observe replaces the losses by those of these Services. It returns the Services without
// endpoints, and the time until that changes; 0 if it does not. A Service that had none when it
// was first observed belongs to them at once: this process advertises no routes for it. A former
// process may have withdrawn the routes of Services that exist when this one starts, so that
// these wait for the proxySyncDelay.
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
			loss, known := (*e)[family]
			switch {
			case !known && *e == nil:
				loss = endpointLoss{has, now, !has}
			case !known:
				loss = endpointLoss{has: has, without: !has}
			case has && !loss.has && loss.since.IsZero():
				loss.has = true // the first endpoint of a new Service
			case has != loss.has:
				loss.has, loss.since = has, now
			}
			delay := withdrawalDelay
			if has {
				delay = proxySyncDelay
			}
			switch left := delay - now.Sub(loss.since); {
			case loss.without != has: // up to date
			case left <= 0:
				loss.without = !has
			case wait == 0 || left < wait:
				wait = left
			}
			if observed[family] = loss; loss.without {
				without[family] = true
			}
		}
	}
	*e = observed
	return without, wait
}
