package aws

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

const (
	// maxPollInterval is how often the provisioning of a load balancer is
	// checked, which takes AWS one to four minutes.
	maxPollInterval = time.Minute
	// maxGracePeriod is how long a replaced load balancer stays after the Service
	// has shown the new name: clients cache the old one's addresses for a minute
	// (AWS's DNS), and copies of the name elsewhere are updated more slowly.
	maxGracePeriod = 5 * time.Minute
	// minDeletionRetry is when the deletion of what AWS still uses is retried;
	// later each time.
	minDeletionRetry = 10 * time.Second
)

// GetLoadBalancerName returns the name of the Service's first load balancer
// (cloudprovider.LoadBalancer).
func (c *Cloud) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return c.names.firstName(svc.UID)
}

// GetLoadBalancer finds the Service's load balancer (cloudprovider.LoadBalancer).
func (c *Cloud) GetLoadBalancer(ctx context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	if err := c.connect(ctx); err != nil {
		return nil, false, err
	}
	// During a replacement there are two, and either shows that the Service has one.
	found, err := c.loadBalancers.match(ctx, c.names.ofService(svc.UID))
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	return statusOf(found[0]), true, nil
}

// statusOf returns the status with the DNS name of the load balancer. The API server
// refuses capital letters in a host name, which a DNS name of AWS can have.
func statusOf(b elb.LoadBalancer) *corev1.LoadBalancerStatus {
	return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: strings.ToLower(aws.ToString(b.DNSName))}}}
}

// EnsureLoadBalancer applies the desired stack of the Service. It does not wait
// until AWS has provisioned the load balancer; Report has its progress. For an
// unchanged Service it makes no call before a comparison is due
// (cloudprovider.LoadBalancer).
//
// A *v1alpha1.Refusal is the user's or administrator's to resolve; other errors
// are worth a retry.
func (c *Cloud) EnsureLoadBalancer(
	ctx context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	// The Service requests the AWS Load Balancer Controller by an annotation.
	if providers.ForOtherController(svc) != "" {
		return nil, cloudprovider.ImplementedElsewhere
	}
	defer c.lockService(svc.UID)()
	// An invalid Service is refused before any call, also where AWS is not
	// configured.
	desired, refusal := planStack(svc, c.settings)
	if refusal != nil {
		return nil, c.refuse(ctx, svc, refusal)
	}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	if refusal := desired.checkRegion(c.apiClients.region); refusal != nil {
		return nil, c.refuse(ctx, svc, refusal)
	}
	ctx = withFlow(ctx, svc.UID)
	targets := targetNodes(nodes, desired.NodeLabels)
	last := c.lastSyncOf(svc.UID)
	mode := nextMode(last, desired, targets, time.Now())
	if mode == syncPending {
		r := &reconciler{Cloud: c, svc: svc, mode: mode, result: last.clone()}
		completed, err := r.completePending(ctx)
		if err != nil && !isGone(err) {
			return nil, c.endSync(svc.UID, err)
		}
		if completed {
			c.storeSync(svc.UID, r.result)
			return r.result.status.DeepCopy(), nil
		}
		// The load balancer has failed, or an object was deleted: the whole stack is
		// compared.
		mode = comparisonMode(last, desired, targets)
	}
	var r *reconciler
	err := c.retryIfGone(func(bool) error {
		r = &reconciler{Cloud: c, svc: svc, mode: mode, result: &lastSync{desired: desired, targets: targets}}
		r.continueFrom(last)
		return r.ensureStack(ctx)
	})
	c.recordResult(svc.UID, err)
	if err != nil {
		c.invalidateSync(svc.UID)
		return nil, r.addExisting(c.endSync(svc.UID, err))
	}
	// A caller with the period Resync must find the comparison due.
	r.result.due = time.Now().Add(c.options.Resync - c.options.Resync/10)
	c.storeSync(svc.UID, r.result)
	return r.result.status.DeepCopy(), c.endSync(svc.UID, nil)
}

// refuse returns the Refusal of a Service that cannot be planned. If the last sync has
// failed, the rules of the last successful one are restored.
func (c *Cloud) refuse(ctx context.Context, svc *corev1.Service, refusal *v1alpha1.Refusal) error {
	last := c.lastSyncOf(svc.UID)
	if c.apiClients == nil || last == nil || !c.isUnfinished(svc.UID) {
		return refusal
	}
	r := &reconciler{Cloud: c, svc: svc, result: last.clone()}
	r.continueFrom(last)
	ctx = withFlow(ctx, svc.UID)
	err := r.readStack(ctx)
	if err == nil {
		err = r.restoreRules(ctx)
	}
	return errors.Join(err, refusal)
}

// endSync ends a sync of the whole stack, or the failed one of its targets. It
// returns the error as asRefusal does.
func (c *Cloud) endSync(uid types.UID, err error) error {
	c.limiter.endSync(uid, err)
	return asRefusal(err)
}

// continueFrom takes over from the last sync, nil for none, what outlives a change of
// the stack.
func (r *reconciler) continueFrom(last *lastSync) {
	if last == nil {
		return
	}
	r.result.syncs, r.result.refused, r.result.shown = last.syncs+1, maps.Clone(last.refused), last.shown
	r.knownTags, r.appliedRules = last.tags, last.desired.Rules
	if len(last.left) > 0 {
		r.result.leftSyncs = last.leftSyncs + 1
	}
}

// completePending is syncPending. It returns false if the load balancer is
// neither being provisioned nor usable.
func (r *reconciler) completePending(ctx context.Context) (completed bool, err error) {
	if !r.result.report.Ready {
		found, err := r.loadBalancers.match(ctx, r.names.ofService(r.svc.UID))
		// None, or a second one, is not what the last sync left: the stack must be
		// compared.
		if err != nil || len(found) != 1 {
			return false, err
		}
		switch {
		// The report changes to Ready, and the polling ends.
		case isProvisioned(found[0]):
			r.reportBalancer(found[0])
		// AWS has ended the provisioning with a failure.
		case stateOf(found[0]) != elb.LoadBalancerStateEnumProvisioning:
			return false, nil
		}
	}
	if len(r.result.missing) > 0 {
		if err := r.updateTargets(ctx); err != nil {
			return false, err
		}
	}
	return true, nil
}

// stateOf returns the state of a load balancer (LoadBalancerState). A response
// without one counts as active.
func stateOf(b elb.LoadBalancer) elb.LoadBalancerStateEnum {
	if b.State == nil || b.State.Code == "" {
		return elb.LoadBalancerStateEnumActive
	}
	return b.State.Code
}

// isProvisioned reports whether AWS has provisioned the load balancer. One that is
// active_impaired serves, although AWS cannot scale it.
func isProvisioned(b elb.LoadBalancer) bool {
	state := stateOf(b)
	return state == elb.LoadBalancerStateEnumActive || state == elb.LoadBalancerStateEnumActiveImpaired
}

// Report returns the report of the Service's last sync (providers.Reporter).
func (c *Cloud) Report(svc *corev1.Service) providers.Report {
	if l := c.lastSyncOf(svc.UID); l != nil {
		return l.report
	}
	return providers.Report{Reason: v1alpha1.Provisioning, Message: "the load balancer has not been synced yet"}
}

// UpdateLoadBalancer makes the nodes the targets of the Service's load balancer,
// and changes nothing else (cloudprovider.LoadBalancer).
func (c *Cloud) UpdateLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node) error {
	defer c.lockService(svc.UID)()
	if err := c.connect(ctx); err != nil {
		return err
	}
	ctx = withFlow(ctx, svc.UID)
	r := &reconciler{Cloud: c, svc: svc, mode: syncTargets}
	err := c.retryIfGone(func(again bool) error {
		last := c.lastSyncOf(svc.UID)
		if last != nil && last.deletions > 0 {
			return nil // the load balancer is deleted
		}
		if r.result = nil; last != nil {
			r.result = last.clone()
		}
		// What exists is the state to start from, unless the last sync of this process
		// is. Without a load balancer nothing is to be updated.
		if last == nil || again {
			if exists, err := r.readRegistered(ctx); err != nil || !exists {
				r.result = nil
				return err
			}
		}
		r.result.targets = targetNodes(nodes, r.result.desired.NodeLabels)
		return r.updateTargets(ctx)
	})
	if err != nil {
		return c.endSync(svc.UID, err)
	}
	if r.result == nil {
		return nil
	}
	// The report of the refused Service must not become that of a working one.
	if len(r.observed.unowned) == 0 {
		c.storeSync(svc.UID, r.result)
	}
	return nil
}

// EnsureLoadBalancerDeleted deletes all objects of the Service, whether or not
// its load balancer still exists. While AWS still uses one of them it returns an
// *api.RetryError, and must be called again (cloudprovider.LoadBalancer).
func (c *Cloud) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	defer c.lockService(svc.UID)()
	if err := c.connect(ctx); err != nil {
		return err
	}
	ctx = withFlow(ctx, svc.UID)
	// The attempts are in memory only. A new process starts with the shortest delay.
	var last lastSync
	if l := c.lastSyncOf(svc.UID); l != nil {
		last = lastSync{deletions: l.deletions, users: l.users}
	}
	r := &reconciler{Cloud: c, svc: svc, mode: syncDeletion}
	err := c.retryIfGone(func(bool) error { return r.deleteStack(ctx) })
	c.recordResult(svc.UID, err)
	var group *groupInUseError
	switch {
	case errors.Is(err, errInUse):
		text := "waiting for AWS to release " + err.Error()
		// The interfaces of a deleted load balancer keep its security groups for
		// minutes: the first attempt does not search.
		if errors.As(err, &group) && last.deletions > 0 {
			last.users = c.findGroupUsers(ctx, group.id, last.users, last.deletions)
			text = strings.TrimSuffix(text+" by "+last.users.String(), " by ")
		}
		wait := minDeletionRetry << min(last.deletions, 3)
		last.deletions++
		c.storeSync(svc.UID, &last)
		c.limiter.endSync(svc.UID, nil)
		return api.NewRetryError(text, wait)
	case errors.As(err, new(*protectionError)):
		return err
	case err != nil:
		c.invalidateLists()
	}
	// A Service that only changed its provider or type can return with the same
	// UID, and must then be read from AWS.
	c.storeSync(svc.UID, nil)
	return c.endSync(svc.UID, err)
}
