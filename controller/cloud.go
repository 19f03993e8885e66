package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider"
	cloudapi "k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

const (
	// callTimeout ends a call of the cloud; what it has begun, the next one finishes.
	callTimeout = 2 * time.Minute

	// firstCallRetry and lastCallRetry bound the wait after a call that failed.
	firstCallRetry, lastCallRetry = 5 * time.Second, 5 * time.Minute

	// nodeDebounce is how long a change of the nodes waits for more of them.
	nodeDebounce = 2 * time.Second

	// firstSweep and sweepEvery are when the cloud looks for what belongs to no Service.
	firstSweep, sweepPeriod = 10 * time.Minute, 4 * time.Hour

	// jitter spreads what is periodic, as a share of its period.
	jitter = 0.2
)

// orphanSweeper is what a cloud may offer in addition: it looks for what it has made
// for Services that are not live any more.
type orphanSweeper interface {
	Sweep(ctx context.Context, live map[types.UID]bool) error
}

// balancers keeps the balancers of a cloud as the last wish wants them: several
// at a time, but never two calls about one Service.
type balancers struct {
	cloud           cloudprovider.LoadBalancer
	cluster         string
	resync          time.Duration
	parallel        int
	log             *slog.Logger
	outcomesChanged func() // when there are new outcomes

	queue   workqueue.TypedDelayingInterface[types.UID]
	backoff workqueue.TypedRateLimiter[types.UID]

	mu              sync.Mutex
	byUID           map[types.UID]*balancer
	nodes           []*corev1.Node
	nodesGeneration int // counts the changes of nodes
	live            map[types.UID]bool
}

// balancer is what is wanted of, and known about, one balancer.
type balancer struct {
	desired         plan.CloudRequest
	attempted       plan.CloudRequest // at the last call
	nodesGeneration int               // of the nodes that the cloud was told last
	outcome         plan.CloudOutcome
	callAt          time.Time // when to call again though nothing has changed
}

func newBalancers(o Options, wake func()) *balancers {
	return &balancers{
		cloud: o.Cloud, cluster: o.Cluster, resync: o.Resync, parallel: max(o.Parallel, 1), log: o.Log, outcomesChanged: wake,
		queue:   workqueue.NewTypedDelayingQueue[types.UID](),
		backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](firstCallRetry, lastCallRetry),
		byUID:   map[types.UID]*balancer{},
	}
}

// setDesired tells the whole wish: what to do for which Services, for which nodes, and
// which Services may have anything in the cloud at all. Where the wish has not
// changed, nothing happens.
func (b *balancers) setDesired(wish map[types.UID]plan.CloudRequest, live map[types.UID]bool, nodes []*corev1.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live = live
	moved := !plan.SameTargetNodes(b.nodes, nodes)
	b.nodes = nodes
	if moved {
		b.nodesGeneration++
	}
	for uid := range b.byUID {
		if _, wanted := wish[uid]; !wanted {
			delete(b.byUID, uid)
			b.backoff.Forget(uid)
		}
	}
	for uid, want := range wish {
		known := b.byUID[uid]
		if known == nil || known.desired.Action != want.Action {
			known = &balancer{} // what is known of the opposite is worth nothing now
			b.byUID[uid] = known
		}
		changed := !plan.SameCloudRequest(known.desired, want)
		known.desired = want
		switch {
		case changed:
			b.backoff.Forget(uid)
			b.queue.Add(uid)
		case moved && want.Action == plan.EnsureBalancer:
			b.queue.AddAfter(uid, nodeDebounce)
		}
	}
}

// outcomes are what is known of all balancers.
func (b *balancers) outcomes() map[types.UID]plan.CloudOutcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := make(map[types.UID]plan.CloudOutcome, len(b.byUID))
	for uid, one := range b.byUID {
		known[uid] = one.outcome
	}
	return known
}

// run makes calls until ctx ends, and returns when the last one has returned.
func (b *balancers) run(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	if s, ok := b.cloud.(orphanSweeper); ok {
		calls.Go(func() { b.sweepOrphans(ctx, s) })
	}
	for range b.parallel {
		calls.Go(func() {
			for {
				uid, shutdown := b.queue.Get()
				if shutdown {
					return
				}
				b.syncBalancer(ctx, uid)
				b.queue.Done(uid)
			}
		})
	}
	<-ctx.Done()
	b.queue.ShutDown()
}

// syncBalancer makes the call that is due about one Service, if any is.
func (b *balancers) syncBalancer(ctx context.Context, uid types.UID) {
	b.mu.Lock()
	known := b.byUID[uid]
	if known == nil || known.outcome.Deleted() {
		b.mu.Unlock()
		return
	}
	due, era, nodes := *known, b.nodesGeneration, b.nodes
	b.mu.Unlock()

	// The nodes are told first, also while something else is wrong: a balancer
	// whose targets no longer exist serves nobody.
	moved := due.nodesGeneration != era && due.outcome.Action == plan.EnsureBalancer && due.desired.Action == plan.EnsureBalancer
	wait := time.Until(due.callAt)
	early := wait > 0 && plan.SameCloudRequest(due.attempted, due.desired)
	if early && !moved {
		b.queue.AddAfter(uid, wait)
		return
	}
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	told := moved && b.cloud.UpdateLoadBalancer(limited, b.cluster, due.desired.Service, nodes) == nil
	onlyNodes := early && told
	var outcome plan.CloudOutcome
	var err error
	if onlyNodes {
		outcome = due.outcome
		outcome.Report = b.balancerReport(due.desired.Service, outcome.Report)
	} else {
		outcome, err = b.callCloud(limited, due, nodes)
	}
	if ctx.Err() != nil {
		return // what the call has come to is the next leader's to see
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byUID[uid] != known {
		return // the wish has turned meanwhile
	}
	if !equality.Semantic.DeepEqual(known.outcome, outcome) {
		b.outcomesChanged()
	}
	known.outcome, known.attempted = outcome, due.desired
	if err == nil || told {
		known.nodesGeneration = era
	}
	after := time.Until(due.callAt) // which nodes that come and go do not put off
	if !onlyNodes {
		after = b.nextCall(uid, outcome, err)
	} else if outcome.Reason == "" && outcome.Report.Again > 0 {
		after = min(after, outcome.Report.Again)
	}
	known.callAt = time.Now().Add(after)
	if !outcome.Deleted() {
		b.queue.AddAfter(uid, after)
	}
}

// nextCall is when the next call is due if nothing changes.
func (b *balancers) nextCall(uid types.UID, outcome plan.CloudOutcome, err error) time.Duration {
	if retry := (*cloudapi.RetryError)(nil); errors.As(err, &retry) {
		return retry.RetryAfter()
	}
	if err != nil {
		return b.backoff.When(uid)
	}
	b.backoff.Forget(uid)
	return cmp.Or(outcome.Report.Again, wait.Jitter(b.resync, jitter))
}

// callCloud makes one call about a whole balancer.
func (b *balancers) callCloud(ctx context.Context, due balancer, nodes []*corev1.Node) (o plan.CloudOutcome, err error) {
	svc := due.desired.Service
	o = plan.CloudOutcome{Action: due.desired.Action, Ingress: due.outcome.Ingress, Report: due.outcome.Report}
	if o.Action == plan.DeleteBalancer {
		err = b.cloud.EnsureLoadBalancerDeleted(ctx, b.cluster, svc)
	} else {
		var status *corev1.LoadBalancerStatus
		status, err = b.cloud.EnsureLoadBalancer(ctx, b.cluster, svc, nodes)
		switch {
		case err != nil:
		case status == nil:
			err = fmt.Errorf("ensure the balancer of Service %s: the cloud returned no status", plan.KeyOf(svc))
		default:
			o.Ingress, o.Report = status.Ingress, b.balancerReport(svc, providers.Report{Ready: len(status.Ingress) > 0, Message: "the balancer is made"})
		}
	}
	if err != nil {
		o.Reason, o.Message = callFailure(o.Action, err)
	}
	return o, err
}

// balancerReport is what the cloud says about a balancer beside its status; otherwise
// is for a cloud that says nothing.
func (b *balancers) balancerReport(svc *corev1.Service, otherwise providers.Report) providers.Report {
	if r, ok := b.cloud.(providers.Reporter); ok {
		return r.Report(svc)
	}
	return otherwise
}

// callFailure is why a call has not done what it was asked to.
func callFailure(to plan.CloudAction, err error) (v1alpha1.Reason, string) {
	if refusal := (*v1alpha1.Refusal)(nil); errors.As(err, &refusal) {
		return refusal.Reason, refusal.Message
	}
	if retry := (*cloudapi.RetryError)(nil); errors.As(err, &retry) {
		if to == plan.DeleteBalancer {
			return v1alpha1.Deleting, err.Error()
		}
		return v1alpha1.Provisioning, err.Error()
	}
	if errors.Is(err, cloudprovider.ImplementedElsewhere) {
		return v1alpha1.CloudCannotServe, "the Service asks for a balancer of another implementation"
	}
	return v1alpha1.CloudFailed, err.Error()
}

// sweepOrphans has the cloud look for what belongs to no Service. A cloud that is not
// in use is not asked: it may not even be reachable from here.
func (b *balancers) sweepOrphans(ctx context.Context, cloud orphanSweeper) {
	for after := firstSweep; ; after = sweepPeriod {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.Jitter(after, jitter)):
		}
		b.mu.Lock()
		live, nodes := b.live, b.nodes
		b.mu.Unlock()
		if len(live) == 0 && !slices.ContainsFunc(nodes, providers.IsOnAWS) {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, callTimeout)
		if err := cloud.Sweep(limited, live); err != nil && ctx.Err() == nil {
			b.log.Warn("search for orphans failed", "error", err)
		}
		cancel()
	}
}
