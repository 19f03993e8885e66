package controller

import (
	"strconv"
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

var (
	servicesGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_services",
		Help:           "Services that Fairlead says something on, by condition (Provisioned, Announced) and its reason.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"condition", "reason"})

	poolServicesGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_pool_services",
		Help:           "Services that hold an address which came from the pool.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool"})

	poolAddressesGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_pool_addresses",
		Help:           "Addresses of the pool, by family (ipv4, ipv6) and state: all that it can give (capacity), those that somebody holds (used), those that it can still give (free).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family", "state"})

	poolOutOfPoolGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_pool_out_of_pool_addresses",
		Help:           "Addresses that came from the pool and that Services keep, although the pool does not contain them, or does not select these Services, any more.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool"})
)

var gauges = []*metrics.GaugeVec{servicesGauge, poolServicesGauge, poolAddressesGauge, poolOutOfPoolGauge}

var registerMetrics = sync.OnceFunc(func() {
	for _, g := range gauges {
		legacyregistry.MustRegister(g)
	}
})

// setMetrics makes the metrics say what the plan says. What the plan does not have,
// they have no longer.
func setMetrics(p plan.Plan) {
	type state struct{ condition, reason string }
	counts := map[state]int{}
	for _, svc := range p.Services {
		for _, c := range svc.Plan.Conditions {
			counts[state{conditionNames[c.Type], c.Reason}]++
		}
	}
	for _, g := range gauges {
		g.Reset()
	}
	for s, n := range counts {
		servicesGauge.WithLabelValues(s.condition, s.reason).Set(float64(n))
	}
	for name, pool := range p.Pools {
		poolServicesGauge.WithLabelValues(name).Set(float64(pool.Status.Services))
		poolOutOfPoolGauge.WithLabelValues(name).Set(float64(pool.Status.OutOfPool))
		for family, usage := range map[string]v1alpha1.FamilyUsage{"ipv4": pool.Status.IPv4, "ipv6": pool.Status.IPv6} {
			for state, value := range map[string]float64{"capacity": parseCount(usage.Capacity), "used": float64(usage.Used), "free": parseCount(usage.Free)} {
				poolAddressesGauge.WithLabelValues(name, family, state).Set(value)
			}
		}
	}
}

// conditionNames are the conditions' types without their group.
var conditionNames = map[string]string{v1alpha1.ConditionProvisioned: "Provisioned", v1alpha1.ConditionAnnounced: "Announced"}

// parseCount is a count that a status writes as text, because it may be very large.
func parseCount(text string) float64 {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0 // it is not there
	}
	return n
}
