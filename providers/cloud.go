package providers

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Report is the state of a Service's load balancer in addition to its status: the
// reason and message of the condition fairlead.io/Provisioned.
type Report struct {
	Ready   bool // false while the cloud provisions the load balancer
	Reason  v1alpha1.Reason
	Message string
	// RequeueAfter is when to ensure the load balancer again although nothing has
	// changed; 0 is the next drift check.
	RequeueAfter time.Duration
}

// Reporter is an optional interface of a cloudprovider.LoadBalancer. Report
// describes the result of the last EnsureLoadBalancer or UpdateLoadBalancer that
// succeeded. It does not call the cloud.
type Reporter interface {
	Report(service *corev1.Service) Report
}
