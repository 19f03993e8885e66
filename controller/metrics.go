package controller

import (
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// The metrics of occurrences are set by syncs and writes, not from a plan.
var (
	revertedWrites = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "fairlead_service_writes_reverted_total",
		Help:           "Writes to Services that another writer has reverted.",
		StabilityLevel: metrics.ALPHA,
	})

	syncDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name:           "fairlead_sync_duration_seconds",
		Help:           "Duration of syncs with their writes, by type (full, incremental).",
		Buckets:        []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		StabilityLevel: metrics.ALPHA,
	}, []string{"type"})

	writesTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "fairlead_writes_total",
		Help:           "Writes of statuses, by kind and result (success, conflict, failure).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "result"})

	timeToAddress = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "fairlead_time_to_address_seconds",
		Help:           "Time from when a Service was first seen without an address until an address or a host name was written to its status.",
		Buckets:        latencyBuckets,
		StabilityLevel: metrics.ALPHA,
	})

	timeToAnnounced = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "fairlead_time_to_announced_seconds",
		Help:           "Time from when a Service was first seen without an address until its condition Announced was True.",
		Buckets:        latencyBuckets,
		StabilityLevel: metrics.ALPHA,
	})

	latencyBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}

	oldestPendingAge = metrics.NewGaugeFunc(&metrics.GaugeOpts{
		Name:           "fairlead_oldest_pending_service_age_seconds",
		Help:           "Longest time for which a Service has been waiting for an address; 0 if none is waiting.",
		StabilityLevel: metrics.ALPHA,
	}, func() float64 {
		if l := leaderLatencies.Load(); l != nil {
			return l.oldest(time.Now()).Seconds()
		}
		return 0
	})
)

// countWrite counts a write of the status of an object. A write to a deleted object does not count.
func countWrite(kind string, err error) {
	result := "failure"
	switch {
	case err == nil:
		result = "success"
	case apierrors.IsConflict(err):
		result = "conflict"
	case apierrors.IsNotFound(err):
		return
	}
	writesTotal.WithLabelValues(kind, result).Inc()
}

var gauges = []*metrics.GaugeVec{servicesGauge, poolServicesGauge, poolAddressesGauge, poolOutOfPoolGauge}

var registerMetrics = sync.OnceFunc(func() {
	for _, g := range gauges {
		legacyregistry.MustRegister(g)
	}
	legacyregistry.MustRegister(revertedWrites, syncDuration, writesTotal, timeToAddress, timeToAnnounced)
	legacyregistry.RawMustRegister(oldestPendingAge)
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
	resetMetrics()
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

// resetMetrics removes all gauges.
func resetMetrics() {
	for _, g := range gauges {
		g.Reset()
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
