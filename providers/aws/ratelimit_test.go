package aws

import (
	"fmt"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
)

// TestRateAdaptation checks that only a throttled bucket gets slower, and that
// it recovers.
func TestRateAdaptation(t *testing.T) {
	l := newRateLimiter()
	bucket, other := ec2.ServiceID+"Modify", ec2.ServiceID+"Describe"
	base, untouched := l.bases[bucket], l.buckets[other].Limit()
	throttle := &smithy.GenericAPIError{Code: "RequestLimitExceeded"}
	for range 3 {
		l.adaptRate(bucket, throttle)
	}
	if got := l.buckets[bucket].Limit(); got != base/8 {
		t.Errorf("the rate is %v, not %v", got, base/8)
	}
	for range 100 {
		l.adaptRate(bucket, throttle)
	}
	if got := l.buckets[bucket].Limit(); got < base/20 {
		t.Errorf("the rate is %v: it would never recover", got)
	}
	for range 100 {
		l.adaptRate(bucket, nil)
	}
	if got := l.buckets[bucket].Limit(); got != base {
		t.Errorf("the rate is %v after many successes, not %v", got, base)
	}
	if got := l.buckets[other].Limit(); got != untouched {
		t.Errorf("another class has %v, not %v", got, untouched)
	}
	l.adaptRate(bucket, fmt.Errorf("anything else"))
	if got := l.buckets[bucket].Limit(); got != base {
		t.Errorf("the rate is %v after another failure", got)
	}
}

// TestThrottling checks that many Services are served under throttling, with
// each object created once.
func TestThrottling(t *testing.T) {
	a := fakeAccount(t)
	c := a.newProvider(t)
	for _, action := range []string{
		"CreateTargetGroup", "CreateLoadBalancer", "RegisterTargets",
		"AuthorizeSecurityGroupIngress", "DescribeLoadBalancers",
	} {
		a.fail(fault{action: action, times: 40, kind: throttle})
	}
	const services = 15
	var group sync.WaitGroup
	for i := range services {
		group.Go(func() {
			s := newService(fmt.Sprint("web-", i), 80, 443)
			for range 50 {
				if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
					return
				}
			}
			t.Errorf("%s was never made", s.Name)
		})
	}
	group.Wait()
	if n := len(a.balancers(t)); n != services {
		t.Errorf("%d balancers for %d Services", n, services)
	}
	if n := len(a.targetGroups(t)); n != 2*services {
		t.Errorf("%d target groups", n)
	}
}
