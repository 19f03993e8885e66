package aws

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	callDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name:           "fairlead_aws_api_call_duration_seconds",
		Help:           "Attempts of calls of AWS's APIs, by action and code (OK, AWS's own code, or Unanswered).",
		Buckets:        []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		StabilityLevel: metrics.ALPHA,
	}, []string{"action", "code"})

	orphans = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_aws_orphans",
		Help:           "Objects in AWS that belong to this cluster but to no Service, by kind.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind"})
)

var register = sync.OnceFunc(func() { legacyregistry.MustRegister(callDuration, orphans) })

func observe(action, code string, took time.Duration) {
	callDuration.WithLabelValues(action, code).Observe(took.Seconds())
}
