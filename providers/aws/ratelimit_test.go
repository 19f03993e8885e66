package aws

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"k8s.io/apimachinery/pkg/types"
)

// TestRateAdaptation checks that a throttled bucket gets slower once a second, keeps
// a quarter of its rate, and recovers with time.
func TestRateAdaptation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCallBucket(bucketSize{8, 1})
		rateNow := func() float64 { return float64(b.currentRate(time.Now())) }
		for range 10 {
			b.reduceRate() // calls in parallel
		}
		if got := rateNow(); got != 4 {
			t.Errorf("the rate is %v after one second of throttling, not 4", got)
		}
		for range 100 {
			time.Sleep(reduceEvery)
			b.reduceRate()
		}
		if got := rateNow(); got < 2 || got > 2.2 {
			t.Errorf("the rate is %v after 100 seconds of throttling, not a quarter of 8", got)
		}
		time.Sleep(recovery / 4)
		if got := rateNow(); got < 4 || got > 4.2 {
			t.Errorf("the rate is %v, and has not recovered by a quarter of 8 in a quarter of the time", got)
		}
		time.Sleep(recovery)
		if got := rateNow(); got != 8 {
			t.Errorf("the rate is %v after the recovery, not 8", got)
		}
	})
}

// admission is when a call of a flow was admitted.
type admission struct {
	flow types.UID
	at   time.Duration
}

// admitAll makes calls of each flow at once, in the order of the flows, and
// returns when they were admitted.
func admitAll(t *testing.T, b *callBucket, calls int, failing bool, flows ...types.UID) (all []admission) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	start := time.Now()
	for _, flow := range flows {
		for range calls {
			group.Go(func() {
				if err := b.wait(t.Context(), flow, failing); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, admission{flow, time.Since(start)})
			})
		}
		synctest.Wait()
	}
	group.Wait()
	return all
}

// TestRoundRobin checks that the calls of a flow wait for one call of each other
// flow, not for all of them.
func TestRoundRobin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := admitAll(t, newCallBucket(bucketSize{1, 1}), 20, false, "many", "other")
		// One call was admitted before the other flow had any.
		for i := 2; i < 38; i++ {
			if all[i].flow == all[i-1].flow {
				t.Fatalf("calls %d and %d are of the same flow: %v", i-1, i, all)
			}
		}
	})
}

// TestFailingFlows checks that failing flows use a quarter of the rate and of the
// burst together, and that the others do not wait for them.
func TestFailingFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCallBucket(bucketSize{4, 8})
		failing := admitAll(t, b, 6, true, "a", "b") // two at once, then one a second
		if last := failing[len(failing)-1].at; last != 10*time.Second {
			t.Errorf("the last of 12 calls was admitted after %v, not 10s: %v", last, failing)
		}
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { _ = b.wait(t.Context(), "a", true) })
		}
		synctest.Wait()
		healthy := admitAll(t, b, 6, false, "c")
		if last := healthy[len(healthy)-1].at; last != 0 {
			t.Errorf("a call waited %v behind failing flows", last)
		}
		group.Wait()
	})
}

// TestRefusalsAreNotRepeated checks that a call that AWS refuses is made once, and
// that only refusals limit the writes of the Service.
func TestRefusalsAreNotRepeated(t *testing.T) {
	for _, row := range []struct {
		kind     faultKind
		attempts int
		failing  bool
	}{
		{clientError("ValidationError"), 1, true},
		{clientError("AccessDenied"), 1, true},
		{throttle, maxAttempts, false},
		{serverError(500), maxAttempts, false},
		{unreached, maxAttempts, false},
	} {
		t.Run(row.kind.name, func(t *testing.T) {
			a := fakeAccount(t)
			c, s := a.newProvider(t), newService("web", 80)
			a.fail(fault{action: "CreateTargetGroup", times: forever, kind: row.kind})
			// A retried sync creates security groups again, which are duplicates.
			const syncs = 8
			for range syncs {
				if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
					t.Fatal("the call did not fail")
				}
			}
			attempts := len(slices.DeleteFunc(a.calls(), func(action string) bool { return action != "CreateTargetGroup" }))
			if attempts != syncs*row.attempts || c.limiter.isFailing(s.UID) != row.failing {
				t.Errorf("%d attempts, failing: %t", attempts, !row.failing)
			}
			a.reset()
			a.fail(fault{kind: throttle, times: maxAttempts})
			if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil || c.limiter.isFailing(s.UID) != row.failing {
				t.Errorf("after throttling, with the error %v: failing: %t", err, !row.failing)
			}
			a.reset()
			a.ensureService(t, c, s)
			if c.limiter.isFailing(s.UID) {
				t.Error("the writes are limited after a success")
			}
		})
	}
}

// TestRetriesWithoutQuota checks that throttling does not use up the retries of
// later calls.
func TestRetriesWithoutQuota(t *testing.T) {
	a := fakeAccount(t)
	c := a.newProvider(t)
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		a.fail(fault{action: "DescribeSubnets", times: maxAttempts - 1, kind: throttle})
		if _, err := callAPI(t.Context(), c.ec2.DescribeSubnets, &ec2.DescribeSubnetsInput{}); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
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
