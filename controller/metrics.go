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
		Help:           "Services with a Fairlead condition, by condition type (Provisioned, Announced) and reason.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"condition", "reason"})

	poolServicesGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_pool_services",
		Help:           "Services that hold an address assigned from the pool.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool"})

	poolAddressesGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "fairlead_pool_addresses",
		Help: "Addresses of the pool, by family (ipv4, ipv6) and state: " +
			"capacity (can be assigned), used (held by a Service), free (can still be assigned).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family", "state"})

	poolOutOfPoolGauge = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "fairlead_pool_out_of_pool_addresses",
		Help: "Addresses assigned from the pool that Services keep although the pool " +
			"no longer contains them or no longer selects these Services.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool"})
)

// revertedWrites counts occurrences, and is set by the writes, not from a plan.
var revertedWrites = metrics.NewCounter(&metrics.CounterOpts{
	Name:           "fairlead_service_writes_reverted_total",
	Help:           "Writes to Services that another writer has reverted.",
	StabilityLevel: metrics.ALPHA,
})

var gauges = []*metrics.GaugeVec{servicesGauge, poolServicesGauge, poolAddressesGauge, poolOutOfPoolGauge}

var registerMetrics = sync.OnceFunc(func() {
	for _, g := range gauges {
		legacyregistry.MustRegister(g)
	}
	legacyregistry.MustRegister(revertedWrites)
})

// setMetrics sets all gauges to the state in the plan. Label values that the plan
// does not contain are removed.
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
		poolServicesGauge.WithLabelValues(name).Set(float64(pool.Services))
		poolOutOfPoolGauge.WithLabelValues(name).Set(float64(pool.OutOfPool))
		for family, usage := range map[string]v1alpha1.FamilyUsage{"ipv4": pool.IPv4, "ipv6": pool.IPv6} {
			values := map[string]float64{"capacity": parseCount(usage.Capacity), "used": float64(usage.Used), "free": parseCount(usage.Free)}
			for state, value := range values {
				poolAddressesGauge.WithLabelValues(name, family, state).Set(value)
			}
		}
	}
}

// conditionNames are the condition types without their group.
var conditionNames = map[string]string{v1alpha1.ConditionProvisioned: "Provisioned", v1alpha1.ConditionAnnounced: "Announced"}

// parseCount parses a count that is text in the status because it may exceed 64 bits.
func parseCount(text string) float64 {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0 // the status has no such count
	}
	return n
}
