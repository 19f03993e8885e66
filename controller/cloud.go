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
	// callTimeout bounds a call of the cloud. Calls are idempotent: the next one
	// completes what the last one started.
	callTimeout = 2 * time.Minute

	// firstCallRetry and lastCallRetry bound the backoff after a failed call.
	firstCallRetry, lastCallRetry = 5 * time.Second, 5 * time.Minute

	// nodeDebounce is the debounce of changes of nodes.
	nodeDebounce = 2 * time.Second

	// firstSweep and sweepPeriod are the delay of the first sweep for orphans and the
	// time between sweeps.
	firstSweep, sweepPeriod = 10 * time.Minute, 4 * time.Hour

	// jitter spreads periodic calls, as a share of their period.
	jitter = 0.2
)

// orphanSweeper is implemented by clouds that can search for resources of Services
// that are not live any more.
type orphanSweeper interface {
	SweepOrphans(ctx context.Context, live map[types.UID]bool) error
}

// balancers reconciles the load balancers of a cloud with the desired state: several
// at a time, but never with two concurrent calls for one Service. All methods may be
// called concurrently; run may be called once.
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

// balancer is the desired and the observed state of one load balancer.
type balancer struct {
	desired         plan.CloudRequest
	attempted       plan.CloudRequest // at the last call
	nodesGeneration int               // of the nodes in the last successful call
	outcome         plan.CloudOutcome
	callAt          time.Time // when to call again even if nothing has changed
}

func newBalancers(o Options, wake func()) *balancers {
	return &balancers{
		cloud: o.Cloud, cluster: o.Cluster, resync: o.Resync, parallel: max(o.Parallel, 1), log: o.Log, outcomesChanged: wake,
		queue:   workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[types.UID]{Name: "load-balancers"}),
		backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](firstCallRetry, lastCallRetry),
		byUID:   map[types.UID]*balancer{},
	}
}

// setDesired replaces the desired state: the requests by Service, the target nodes,
// and the Services that may own resources in the cloud. Only what has changed is
// enqueued.
func (b *balancers) setDesired(desired map[types.UID]plan.CloudRequest, live map[types.UID]bool, nodes []*corev1.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live = live
	nodesChanged := !plan.SameTargetNodes(b.nodes, nodes)
	b.nodes = nodes
	if nodesChanged {
		b.nodesGeneration++
	}
	for uid := range b.byUID {
		if _, requested := desired[uid]; !requested {
			delete(b.byUID, uid)
			b.backoff.Forget(uid)
		}
	}
	for uid, request := range desired {
		known := b.byUID[uid]
		if known == nil || known.desired.Action != request.Action {
			known = &balancer{} // the outcome of the opposite action is obsolete
			b.byUID[uid] = known
		}
		changed := !plan.SameCloudRequest(known.desired, request)
		known.desired = request
		switch {
		// The owner has changed the Service: earlier failures do not delay it.
		case changed:
			b.backoff.Forget(uid)
			b.queue.Add(uid)
		// Nodes often change in groups.
		case nodesChanged && request.Action == plan.EnsureBalancer:
			b.queue.AddAfter(uid, nodeDebounce)
		}
	}
}

// outcomes returns the last outcome for each Service.
func (b *balancers) outcomes() map[types.UID]plan.CloudOutcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := make(map[types.UID]plan.CloudOutcome, len(b.byUID))
	for uid, one := range b.byUID {
		known[uid] = one.outcome
	}
	return known
}

// run calls the cloud until ctx is done, and returns when the last call has returned.
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

// syncBalancer makes the call that is due for one Service, if any.
func (b *balancers) syncBalancer(ctx context.Context, uid types.UID) {
	b.mu.Lock()
	known := b.byUID[uid]
	if known == nil || known.outcome.Deleted() {
		b.mu.Unlock()
		return
	}
	due, era, nodes := *known, b.nodesGeneration, b.nodes
	b.mu.Unlock()

	// Nodes are updated first, even if the Service is refused or in backoff: a load
	// balancer without existing targets serves no traffic.
	nodesChanged := due.nodesGeneration != era && due.outcome.Action == plan.EnsureBalancer && due.desired.Action == plan.EnsureBalancer
	wait := time.Until(due.callAt)
	early := wait > 0 && plan.SameCloudRequest(due.attempted, due.desired)
	// Nothing is due: the item was enqueued before its time.
	if early && !nodesChanged {
		b.queue.AddAfter(uid, wait)
		return
	}
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	updated := nodesChanged && b.cloud.UpdateLoadBalancer(limited, b.cluster, due.desired.Service, nodes) == nil
	onlyNodes := early && updated
	var outcome plan.CloudOutcome
	var err error
	if onlyNodes {
		outcome = due.outcome
		outcome.Report = b.balancerReport(due.desired.Service, outcome.Report)
	} else {
		outcome, err = b.callCloud(limited, due, nodes)
	}
	if ctx.Err() != nil {
		return // the outcome of a cancelled call is unknown; the next leader calls again
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byUID[uid] != known {
		return // the desired action has changed during the call
	}
	if !equality.Semantic.DeepEqual(known.outcome, outcome) {
		b.outcomesChanged()
	}
	known.outcome, known.attempted = outcome, due.desired
	if err == nil || updated {
		known.nodesGeneration = era
	}
	after := time.Until(due.callAt) // changes of nodes do not postpone the resync
	if !onlyNodes {
		after = b.nextCall(uid, outcome, err)
	} else if outcome.Reason == "" && outcome.Report.RequeueAfter > 0 {
		after = min(after, outcome.Report.RequeueAfter)
	}
	known.callAt = time.Now().Add(after)
	if !outcome.Deleted() {
		b.queue.AddAfter(uid, after)
	}
}

// nextCall is the time until the next call if nothing changes: a backoff after an error,
// otherwise the resync period or what the report requests.
func (b *balancers) nextCall(uid types.UID, outcome plan.CloudOutcome, err error) time.Duration {
	if retry := (*cloudapi.RetryError)(nil); errors.As(err, &retry) {
		return retry.RetryAfter()
	}
	if err != nil {
		return b.backoff.When(uid)
	}
	// A report may request an earlier call than the resync.
	b.backoff.Forget(uid)
	return cmp.Or(outcome.Report.RequeueAfter, wait.Jitter(b.resync, jitter))
}

// callCloud ensures or deletes a load balancer. On failure the outcome keeps the
// ingress and the report of the last success.
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
			err = fmt.Errorf("ensure the load balancer of Service %s: the cloud returned no status", plan.KeyOf(svc))
		default:
			o.Ingress = status.Ingress
			o.Report = b.balancerReport(svc, providers.Report{Ready: len(status.Ingress) > 0, Message: "the load balancer is provisioned"})
		}
	}
	if err != nil {
		o.Reason, o.Message = callFailure(o.Action, err)
	}
	return o, err
}

// balancerReport is the cloud's report about a load balancer, in addition to its
// status, or the default for a cloud that does not report.
func (b *balancers) balancerReport(svc *corev1.Service, byDefault providers.Report) providers.Report {
	if r, ok := b.cloud.(providers.Reporter); ok {
		return r.Report(svc)
	}
	return byDefault
}

// callFailure is the reason and message of a failed call.
func callFailure(action plan.CloudAction, err error) (v1alpha1.Reason, string) {
	// The owner or an administrator must change something.
	if refusal := (*v1alpha1.Refusal)(nil); errors.As(err, &refusal) {
		return refusal.Reason, refusal.Message
	}
	// The call is in progress, not failed: it is continued after a while.
	if retry := (*cloudapi.RetryError)(nil); errors.As(err, &retry) {
		if action == plan.DeleteBalancer {
			return v1alpha1.Deleting, err.Error()
		}
		return v1alpha1.Provisioning, err.Error()
	}
	if errors.Is(err, cloudprovider.ImplementedElsewhere) {
		return v1alpha1.CloudCannotServe, "the Service requests a load balancer of another implementation"
	}
	return v1alpha1.CloudFailed, err.Error()
}

// sweepOrphans searches the cloud periodically for resources of Services that no
// longer exist. A cloud that is not in use is not called: it may not be reachable.
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
		if err := cloud.SweepOrphans(limited, live); err != nil && ctx.Err() == nil {
			b.log.Warn("orphan sweep failed", "error", err)
		}
		cancel()
	}
}
