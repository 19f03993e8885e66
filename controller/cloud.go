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

	"golang.org/x/time/rate"
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

	// editBurst and editPeriod limit the calls for edits of one Service: so many at
	// once, and then one per period.
	editBurst, editPeriod = 5, 30 * time.Second

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

	queue       workqueue.TypedDelayingInterface[types.UID]
	backoff     workqueue.TypedRateLimiter[types.UID]
	nodeBackoff workqueue.TypedRateLimiter[types.UID] // after a failed update of nodes

	mu sync.Mutex
	// retries is how many Services whose last call failed have a worker, or are granted one;
	// waiting are the others that are due, in order.
	retries         int
	waiting         []types.UID
	byUID           map[types.UID]*balancer
	nodes           []*corev1.Node
	nodesGeneration int // counts the changes of nodes
	live            map[types.UID]bool
}

// balancer is the desired and the observed state of one load balancer.
type balancer struct {
	desired         plan.CloudRequest
	nodesGeneration int // of the nodes in the last successful call
	outcome         plan.CloudOutcome
	callAt          time.Time     // when to call again even if nothing has changed
	editAt          time.Time     // when to call because of an edit; zero if there is none
	nodesAt         time.Time     // when to update nodes again after a failure
	edits           *rate.Limiter // an owner who edits all the time must not cause calls at full speed
	failed          bool          // the last call
	granted         bool          // counts among balancers.retries until it is synced
}

func newBalancers(o Options, wake func()) *balancers {
	return &balancers{
		cloud: o.Cloud, cluster: o.Cluster, resync: o.Resync, parallel: max(o.Parallel, 1), log: o.Log, outcomesChanged: wake,
		queue:       workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[types.UID]{Name: "load-balancers"}),
		backoff:     workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](firstCallRetry, lastCallRetry),
		nodeBackoff: workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](firstCallRetry, lastCallRetry),
		byUID:       map[types.UID]*balancer{},
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
			b.returnGrant(b.byUID[uid])
			delete(b.byUID, uid)
			b.backoff.Forget(uid)
			b.nodeBackoff.Forget(uid)
		}
	}
	for uid, request := range desired {
		known := b.byUID[uid]
		switch {
		case known == nil:
			known = &balancer{edits: rate.NewLimiter(rate.Every(editPeriod), editBurst)}
			b.byUID[uid] = known
		case known.desired.Action != request.Action:
			// The outcome of the opposite action is obsolete.
			b.returnGrant(known)
			known = &balancer{edits: known.edits, nodesGeneration: known.nodesGeneration}
			b.byUID[uid] = known
		}
		changed := !plan.SameCloudRequest(known.desired, request)
		known.desired = request
		switch {
		case changed:
			b.enqueueEdit(uid, known)
		// Nodes often change in groups.
		case nodesChanged && known.hasTargets():
			b.queue.AddAfter(uid, nodeDebounce)
		}
	}
}

// enqueueEdit enqueues a Service that its owner has edited. Earlier failures do not
// delay it, as long as there are few edits. b.mu must be held.
func (b *balancers) enqueueEdit(uid types.UID, edited *balancer) {
	// The call for an earlier edit includes this one.
	if !edited.editAt.IsZero() {
		return
	}
	delay := edited.edits.Reserve().Delay()
	edited.editAt = time.Now().Add(delay)
	if delay > 0 {
		// The first call for an action is due at once otherwise.
		if edited.callAt.IsZero() {
			edited.callAt = edited.editAt
		}
		b.queue.AddAfter(uid, delay)
		return
	}
	b.backoff.Forget(uid)
	b.queue.Add(uid)
}

// hasTargets reports whether the load balancer may have targets that must follow the
// nodes: also one with a refused deletion, such as by deletion protection.
func (one *balancer) hasTargets() bool {
	if one.outcome.Action != one.desired.Action {
		return false // the first call is due
	}
	return one.desired.Action == plan.EnsureBalancer || one.outcome.Reason != "" && one.outcome.Reason != v1alpha1.Deleting
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
	due, era, nodes, now := *known, b.nodesGeneration, b.nodes, time.Now()
	edited := !due.editAt.IsZero() && !due.editAt.After(now)
	early := due.callAt.After(now) && !edited
	// Nodes are updated first, even if the Service is refused or in backoff: a load
	// balancer without existing targets serves no traffic.
	updateNodes := due.nodesGeneration != era && due.hasTargets() && !due.nodesAt.After(now)
	// Nothing is due: the item was enqueued before its time.
	if early && !updateNodes {
		b.queue.AddAfter(uid, due.nextAt(era).Sub(now))
		b.returnGrant(known)
		b.mu.Unlock()
		return
	}
	if due.failed && !b.startRetry(uid, known) {
		b.mu.Unlock()
		return
	}
	if edited {
		known.editAt = time.Time{}
	}
	b.mu.Unlock()
	b.makeCalls(ctx, known, dueCalls{due, nodes, era, updateNodes, early, early && due.failed})
	if due.failed {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.endRetry()
	}
}

// startRetry reports whether a Service whose last call failed may use a worker now. Calls
// that fail slowly must leave workers to the other Services, however often their owners
// edit these Services. Otherwise the Service is enqueued when it is its turn. b.mu must be
// held.
func (b *balancers) startRetry(uid types.UID, known *balancer) bool {
	switch {
	case known.granted:
		known.granted = false
	case b.retries < max(b.parallel/2, 1):
		b.retries++
	default:
		if !slices.Contains(b.waiting, uid) {
			b.waiting = append(b.waiting, uid)
		}
		return false
	}
	return true
}

// endRetry grants the worker of a retry to the next Service that waits. b.mu must be held.
func (b *balancers) endRetry() {
	for len(b.waiting) > 0 {
		uid := b.waiting[0]
		b.waiting = b.waiting[1:]
		// A Service with another desired action has not failed.
		if known := b.byUID[uid]; known != nil && known.failed && !known.granted {
			known.granted = true
			b.queue.Add(uid)
			return
		}
	}
	b.retries--
}

// returnGrant ends a grant that is not needed. b.mu must be held.
func (b *balancers) returnGrant(known *balancer) {
	if known.granted {
		known.granted = false
		b.endRetry()
	}
}

// dueCalls are the calls that are due for one Service.
type dueCalls struct {
	balancer                   // when they became due
	targets     []*corev1.Node // the nodes of the generation
	generation  int
	updateNodes bool
	nodesOnly   bool // the balancer itself is ensured only if the update fails
	untilRetry  bool // and not even then, because its earlier failure is in backoff
}

// makeCalls makes the calls that are due, and records their outcome.
func (b *balancers) makeCalls(ctx context.Context, known *balancer, due dueCalls) {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	svc := due.desired.Service
	updated := due.updateNodes && b.cloud.UpdateLoadBalancer(limited, b.cluster, svc, due.targets) == nil
	onlyNodes := due.nodesOnly && (updated || due.untilRetry)
	outcome := due.outcome
	var err error
	switch {
	case !onlyNodes:
		outcome, err = b.callCloud(limited, due.balancer, due.targets)
	case updated && outcome.Action == plan.EnsureBalancer:
		outcome.Report = b.balancerReport(svc, outcome.Report)
	}
	if ctx.Err() != nil {
		return // the outcome of a cancelled call is unknown; the next leader calls again
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byUID[svc.UID] != known {
		return // the desired action has changed during the call
	}
	if !equality.Semantic.DeepEqual(known.outcome, outcome) {
		b.outcomesChanged()
	}
	known.outcome = outcome
	if !onlyNodes {
		known.failed = err != nil && !errors.As(err, new(*cloudapi.RetryError))
	}
	switch {
	case updated || !onlyNodes && err == nil:
		known.nodesGeneration = due.generation
		b.nodeBackoff.Forget(svc.UID)
	case due.updateNodes:
		known.nodesAt = time.Now().Add(b.nodeBackoff.When(svc.UID))
	}
	// Changes of nodes do not postpone the resync.
	if !onlyNodes {
		known.callAt = time.Now().Add(b.nextCall(svc.UID, outcome, err))
	} else if soon := time.Now().Add(outcome.Report.RequeueAfter); outcome.Reason == "" && soon.After(time.Now()) && soon.Before(known.callAt) {
		known.callAt = soon
	}
	if !outcome.Deleted() {
		b.queue.AddAfter(svc.UID, time.Until(known.nextAt(b.nodesGeneration)))
	}
}

// nextAt is when a call for the Service is due, given the generation of the nodes.
func (one *balancer) nextAt(generation int) time.Time {
	at := one.callAt
	if !one.editAt.IsZero() && one.editAt.Before(at) {
		at = one.editAt
	}
	// Only a failed update is retried by time; setDesired enqueues changes of nodes.
	if one.nodesGeneration != generation && one.hasTargets() && !one.nodesAt.IsZero() && one.nodesAt.Before(at) {
		at = one.nodesAt
	}
	return at
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
