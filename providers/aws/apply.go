package aws

import (
	"context"
	"errors"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// reconciler is one sync of one Service's stack.
type reconciler struct {
	*Cloud
	svc  *corev1.Service
	mode syncMode
	// result becomes the lastSync of the Service if the sync succeeds. It has
	// the desired state from the start.
	result    *lastSync
	knownTags map[string]map[string]string // which the last sync read, by ARN
	observed  observedStack

	name string // of the desired load balancer
	arn  string
	old  *elb.LoadBalancer // which the desired load balancer replaces
	// place is planned before the first write, and set only if it is needed.
	place placement
	// appliedRules are those of the last successful sync, none if this process has
	// not made one.
	appliedRules []securityRule
	// excludedRules admit clients that are not desired any more, and are revoked as
	// soon as the load balancer has all its groups; staleRules at the end. usedGroups
	// are the names of the groups that were made for it.
	excludedRules, staleRules []groupRules
	usedGroups                []string
	created                   bool // a security group or target group of this sync
}

// ensureStack applies the desired stack. It creates before it deletes, and every
// step can be repeated.
func (r *reconciler) ensureStack(ctx context.Context) error {
	if err := r.readStack(ctx); err != nil {
		return err
	}
	instances, err := r.usableInstances(ctx)
	if err != nil {
		return err
	}
	current, err := r.selectStack(ctx, instances)
	// The targets follow the nodes although the Service's other changes are
	// refused.
	if refusal := (*v1alpha1.Refusal)(nil); errors.As(err, &refusal) {
		return errors.Join(r.syncRegistered(ctx, instances), r.restoreRules(ctx), refusal)
	}
	if err != nil {
		return err
	}
	// deleteSharedGroup must not delete the shared group between the lookup of its
	// ID and the creation of the load balancer that has it.
	r.sharedGroup.users.RLock()
	defer r.sharedGroup.users.RUnlock()
	groups, err := r.ensureSecurityGroups(ctx, current, instances)
	if err != nil {
		return err
	}
	// A narrower range takes effect also if a later step is refused.
	if err := r.excludeSources(ctx, current, groups); err != nil {
		return err
	}
	// The targets are registered before the listener exists, so that health checks
	// start with it (docs/adr/0010-aws-holds-the-state.md).
	if err := r.ensureTargetGroups(ctx, instances); err != nil {
		return err
	}
	b, err := r.ensureBalancer(ctx, current, groups)
	if err != nil {
		return err
	}
	if err := r.ensureListeners(ctx); err != nil {
		return err
	}
	if err := r.deleteSuperfluous(ctx, b); err != nil {
		return err
	}
	r.result.tags = r.observed.tags
	r.result.recordMissing(instances)
	r.reportBalancer(b)
	return nil
}

// selectStack decides what is created, changed and replaced, and refuses what cannot
// be: all that is known before the first write. It returns the existing load balancer
// to change, nil for a new one.
func (r *reconciler) selectStack(ctx context.Context, instances []instance) (current *elb.LoadBalancer, err error) {
	if refusal := r.refuseUnowned(); refusal != nil {
		return nil, refusal
	}
	// A load balancer is not created without any target. An existing one keeps its
	// last targets.
	if len(instances) == 0 && len(r.observed.balancers) == 0 {
		return nil, r.result.refuseTargets()
	}
	selected, refusal := selectBalancer(r.result.desired, r.existingBalancers())
	if refusal != nil {
		return nil, refusal
	}
	r.name, r.old = r.names.firstName(r.svc.UID), selected.old
	if selected.second {
		r.name = r.names.secondName(r.svc.UID)
	}
	if err := r.checkGroups(ctx, selected.current); err != nil {
		return nil, err
	}
	return selected.current, r.planPlacement(ctx, selected.current)
}

// deleteSuperfluous deletes what the desired stack does not have: listeners,
// the load balancer that was replaced, once the new one serves, target groups
// and security groups.
func (r *reconciler) deleteSuperfluous(ctx context.Context, b elb.LoadBalancer) error {
	// Listeners are first: AWS refuses to delete a target group that a listener
	// uses.
	if err := r.deleteListeners(ctx); err != nil {
		return err
	}
	if r.old != nil && r.hasTakenOver(b) {
		if err := r.deleteBalancer(ctx, *r.old, r.hasSetProtection(*r.old)); err != nil {
			return err
		}
		r.log.Info("load balancer replaced", "service", r.svc.Namespace+"/"+r.svc.Name,
			"old", aws.ToString(r.old.LoadBalancerName), "new", r.name)
		r.old = nil
	}
	desired := map[string]bool{}
	for _, l := range r.result.desired.Listeners {
		desired[r.groupName(l.Target)] = true
	}
	for name, g := range r.observed.groups {
		// The names of target groups depend on the load balancer, so those of the
		// old one are never among the desired. They serve until it is deleted.
		ofOld := r.old != nil && slices.Contains(g.LoadBalancerArns, aws.ToString(r.old.LoadBalancerArn))
		if desired[name] || ofOld {
			continue
		}
		if err := r.tolerateInUse(r.deleteTargetGroup(ctx, g)); err != nil {
			return err
		}
	}
	return r.deleteRulesAndGroups(ctx)
}

// tolerateInUse leaves the deletion of what AWS still uses to the next sync.
// AWS releases references some time after the object that had them is deleted.
func (r *reconciler) tolerateInUse(err error) error {
	if errors.Is(err, errInUse) {
		r.result.left = append(r.result.left, err.Error())
		return nil
	}
	return err
}
