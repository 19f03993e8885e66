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
		Help:           "Duration of AWS API calls, one observation per attempt, by action and code (OK, the error code of AWS, or Unanswered).",
		Buckets:        []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		StabilityLevel: metrics.ALPHA,
	}, []string{"action", "code"})

	orphans = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "fairlead_aws_orphans",
		Help:           "AWS resources of this cluster that do not belong to a Service, by kind.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind"})
)

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(callDuration, orphans) })

func observeCall(action, code string, took time.Duration) {
	callDuration.WithLabelValues(action, code).Observe(took.Seconds())
}
