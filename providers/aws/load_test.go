package aws

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	corev1 "k8s.io/api/core/v1"
)

// load is a number of Services that are created at once, with the rate limits and
// retries of production, in virtual time.
type load struct {
	*testing.T
	*account
	cloud   *Cloud
	workers chan struct{} // as many as the controller has
}

func newLoad(t *testing.T) *load {
	a := fakeAccount(t)
	a.fake.quota.balancers = 500
	l := &load{T: t, account: a, workers: make(chan struct{}, 16)}
	l.cloud = a.newProvider(t, func(o *Options) { o.Load = slices.Concat([]func(*config.LoadOptions) error{identity}, a.under) })
	l.cloud.bucketSizes = realSizes
	return l
}

// call makes one call of the provider, as a worker of the controller does.
func (l *load) call(svc *corev1.Service) (err error) {
	l.workers <- struct{}{}
	defer func() { <-l.workers }()
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Minute)
	defer cancel()
	_, err = l.cloud.EnsureLoadBalancer(ctx, l.cluster, svc, l.nodes)
	return err
}

// serve retries with the controller's backoff until the load balancers exist, and
// returns the times at which they do, in order.
func (l *load) serve(services int) (times []time.Duration) {
	var mu sync.Mutex
	var group sync.WaitGroup
	start := time.Now()
	for i := range services {
		group.Go(func() {
			backoff := 5 * time.Second
			for l.call(newService(fmt.Sprint("web-", i), 80)) != nil {
				time.Sleep(backoff)
				backoff = min(2*backoff, 5*time.Minute)
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(start))
		})
	}
	group.Wait()
	l.Logf("%d Services: half after %v, all after %v, %.1f calls each", services, times[services/2].Round(time.Second),
		times[services-1].Round(time.Second), float64(len(l.calls()))/float64(services))
	return times
}

// TestLoad checks how long many new Services take, also beside one whose writes are
// refused.
func TestLoad(t *testing.T) {
	const services = 200
	var usual time.Duration
	synctest.Test(t, func(t *testing.T) {
		l := newLoad(t)
		usual = l.serve(services)[services-1]
		// Three writes for each Service, at three a second after the first 40.
		if usual > 210*time.Second {
			t.Errorf("%d Services took %v", services, usual)
		}
	})
	for _, row := range []struct {
		name     string
		nodes    int
		services int                  // that are refused
		slower   float64              // as a factor
		refused  map[string]faultKind // by action
	}{
		{"one refused write for each sync", 3, 1, 1.25, map[string]faultKind{"CreateTargetGroup": clientError("ValidationError")}},
		// AWS does not name an invalid target, so that each is searched for.
		// Failing Services together take a quarter of the rate; without a limit they
		// take more than half.
		{"many refused Services", 3, 20, 1.7, map[string]faultKind{"CreateTargetGroup": clientError("ValidationError")}},
		{"many refused writes for each sync", 66, 1, 1.25, map[string]faultKind{
			"RegisterTargets": clientError("InvalidTarget"), "CreateLoadBalancer": clientError("ValidationError"),
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLoad(t)
				for len(l.nodes) < row.nodes {
					l.addNode(t)
				}
				stop := l.addRefused(row.services, row.refused)
				slowest := l.serve(services)[services-1]
				stop()
				if slowest.Seconds() > usual.Seconds()*row.slower {
					t.Errorf("%d Services took %v, and %v without those that are refused", services, slowest, usual)
				}
			})
		})
	}
}

// addRefused makes a call for each of some Services every second, of which AWS
// refuses these actions, until it is stopped. This is more often than the
// controller would, and does not need its workers.
func (l *load) addRefused(services int, refused map[string]faultKind) (stop func()) {
	l.fake.failCall = func(ctx context.Context, action string) *faultKind {
		if kind, ok := refused[action]; ok && strings.HasPrefix(string(flowOf(ctx)), "refused") {
			return &kind
		}
		return nil
	}
	ctx, cancel := context.WithCancel(l.Context())
	var group sync.WaitGroup
	for i := range services {
		group.Go(func() {
			s := newService(fmt.Sprint("refused-", i), 80)
			for ctx.Err() == nil {
				if _, err := l.cloud.EnsureLoadBalancer(ctx, l.cluster, s, l.nodes); err == nil {
					l.Error("the Service is not refused")
				}
				time.Sleep(time.Second)
			}
		})
	}
	return func() { cancel(); group.Wait() }
}

// TestLoadThrottled checks that throttling slows all Services evenly.
func TestLoadThrottled(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			l := newLoad(t)
			random := rand.New(rand.NewPCG(seed, seed))
			var mu sync.Mutex
			l.fake.failCall = func(context.Context, string) *faultKind {
				mu.Lock()
				defer mu.Unlock()
				if random.IntN(2) == 0 {
					return &throttle
				}
				return nil
			}
			const services = 12
			times := l.serve(services)
			median, slowest := times[services/2], times[services-1]
			// The calls at once serve some Services within seconds.
			if slowest > 10*time.Minute || slowest > max(3*median, 90*time.Second) {
				t.Errorf("the slowest of %d Services took %v, half of them %v", services, slowest, median)
			}
		})
	}
}
