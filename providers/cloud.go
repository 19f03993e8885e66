package providers

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Report is what a cloud has to say about a Service's balancer beside its
// status: the reason and message for the condition fairlead.io/Provisioned.
type Report struct {
	Ready   bool // the balancer answers; false while the cloud still makes it
	Reason  v1alpha1.Reason
	Message string
	// Again is when to ensure the balancer once more though nothing has
	// changed, 0 at the next drift check.
	Again time.Duration
}

// Reporter is what a cloudprovider.LoadBalancer may offer in addition. Report
// is about the last EnsureLoadBalancer or UpdateLoadBalancer that succeeded,
// and calls nobody.
type Reporter interface {
	Report(service *corev1.Service) Report
}
