package aws

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

const (
	targetsPerCall = 200
	// refusalPeriod is how long an instance that AWS has refused is not registered.
	refusalPeriod = 5 * time.Minute
)

// readRegistered sets the registered targets of the result to what exists. If there
// is no result, because this process has not synced the load balancer yet, it makes
// one.
func (r *reconciler) readRegistered(ctx context.Context) (exists bool, err error) {
	if err := r.readStack(ctx); err != nil {
		return false, err
	}
	// A load balancer that has lost its tags serves with target groups that have
	// theirs.
	if len(r.observed.balancers) == 0 && (len(r.observed.unowned) == 0 || len(r.observed.groups) == 0) {
		return false, nil
	}
	if r.result == nil {
		// Problems of annotations are not reported here: they must not keep the targets
		// from following the nodes.
		o, _ := parseAnnotations(r.svc)
		r.result = &lastSync{
			desired: stack{NodeLabels: o.NodeLabels, Backend: o.Backend, Attributes: o.Attributes},
			report:  providers.Report{Ready: true, Reason: v1alpha1.Assigned},
		}
		if len(r.observed.balancers) > 0 {
			b := r.observed.balancers[0]
			r.result.status, r.result.subject, r.result.zones = statusOf(b), r.describeBalancer(b), zonesOf(b)
		}
	}
	r.result.groups = nil
	for _, g := range r.observed.groups {
		registered, err := r.readTargets(ctx, g)
		if err != nil {
			return false, err
		}
		r.result.groups = append(r.result.groups, registered)
	}
	return true, nil
}

// updateTargets registers and deregisters what differs from the last sync. A
// failure invalidates it.
func (r *reconciler) updateTargets(ctx context.Context) (err error) {
	// After a failure it is not known which registrations took effect.
	defer func() {
		if err != nil {
			r.invalidateSync(r.svc.UID)
		}
	}()
	instances, err := r.usableInstances(ctx)
	if err != nil {
		return err
	}
	l := r.result
	// Without a usable instance the last targets stay.
	if len(instances) > 0 {
		if err := r.replaceTargets(ctx, instances); err != nil {
			return err
		}
	}
	l.recordMissing(instances)
	l.composeMessage()
	// An instance that AWS does not know yet, or has refused, is tried again
	// although the cluster does not change.
	if len(l.missing) > 0 {
		l.report.RequeueAfter = r.pollInterval
	} else if l.report.Ready && !l.incomplete && len(l.left) == 0 {
		l.report.RequeueAfter = 0
	}
	return nil
}

// replaceTargets makes the instances the targets of all target groups.
func (r *reconciler) replaceTargets(ctx context.Context, instances []instance) error {
	l := r.result
	// New nodes may have security groups that do not admit the shared one yet.
	if l.desired.Backend {
		r.sharedGroup.users.RLock()
		defer r.sharedGroup.users.RUnlock()
		if _, err := r.ensureSharedGroup(ctx, l.vpc, instances); err != nil {
			return err
		}
	}
	limit := l.targetLimit()
	ids := limit.instanceIDs(instances)
	var failures []error
	for i := range l.groups {
		// A failure for one port must not keep the other ports from their targets.
		failures = append(failures, r.setTargets(ctx, &l.groups[i], ids, limit))
	}
	return errors.Join(failures...)
}

// syncRegistered updates the targets of a load balancer although its other desired
// changes are refused.
func (r *reconciler) syncRegistered(ctx context.Context, instances []instance) error {
	if len(instances) == 0 {
		return nil
	}
	limit := r.result.desired.targetLimit(len(r.observed.groups))
	ids := limit.instanceIDs(instances)
	for _, g := range r.observed.groups {
		registered, err := r.readTargets(ctx, g)
		if err != nil {
			return err
		}
		if err := r.setTargets(ctx, &registered, ids, limit); err != nil {
			return err
		}
	}
	return nil
}

// usableInstances returns the instances of the desired targets that are in the
// load balancer's VPC and that AWS has not refused. The result has the causes for the
// others.
func (r *reconciler) usableInstances(ctx context.Context) ([]instance, error) {
	all, err := r.lookUpInstances(ctx, r.result.targets)
	if err != nil {
		return nil, err
	}
	l := r.result
	// The VPC of a load balancer cannot be changed: an existing one stays in its
	// VPC, whatever the flag or the nodes are.
	// Without the flag, a new load balancer is created where most of the nodes are.
	if l.vpc = cmp.Or(r.observed.vpc(), l.vpc, r.options.VPC); l.vpc == "" {
		l.vpc = mostCommonVPC(all)
	}
	// After the period the instance is registered again: the cause may be over.
	for id, until := range l.refused {
		if time.Now().After(until) {
			delete(l.refused, id)
		}
	}
	l.unusable = nil
	// AWS accepts instances of the target group's VPC only.
	return slices.DeleteFunc(all, func(i instance) bool {
		cause := i.unusableCause(l.vpc)
		if cause != "" {
			l.unusable = put(l.unusable, i.ID, cause)
		}
		return cause != "" || !l.refused[i.ID].IsZero()
	}), nil
}

// readTargets reads which instances are registered with the port of the target
// group, and which other targets are.
func (r *reconciler) readTargets(ctx context.Context, g elb.TargetGroup) (targetRegistration, error) {
	registered := targetRegistration{arn: aws.ToString(g.TargetGroupArn)}
	out, err := callAPI(ctx, r.elb.DescribeTargetHealth, &elbapi.DescribeTargetHealthInput{TargetGroupArn: g.TargetGroupArn})
	if err != nil {
		return registered, err
	}
	for _, d := range out.TargetHealthDescriptions {
		// A draining target has been deregistered, so that it is registered again
		// if it is desired.
		if d.Target == nil || d.TargetHealth != nil && d.TargetHealth.State == elb.TargetHealthStateEnumDraining {
			continue
		}
		// Fairlead registers instances without a port, which is the target group's.
		if d.Target.Port != nil && aws.ToInt32(d.Target.Port) != aws.ToInt32(g.Port) {
			registered.foreign = append(registered.foreign, *d.Target)
			continue
		}
		r.observed.healthy = r.observed.healthy || d.TargetHealth != nil && d.TargetHealth.State == elb.TargetHealthStateEnumHealthy
		registered.instances = append(registered.instances, aws.ToString(d.Target.Id))
	}
	slices.Sort(registered.instances)
	return registered, nil
}

// setTargets makes the instances the targets. Where AWS has refused all of
// them, the registered ones stay: they are better than none.
func (r *reconciler) setTargets(ctx context.Context, registered *targetRegistration, ids []string, limit targetLimit) error {
	first, remove, rest := planMoves(registered.instances, ids, limit.instances)
	// New targets are first, as far as the quota allows, so that the number of
	// targets does not drop in between.
	if err := r.registerTargets(ctx, registered, first); err != nil {
		return err
	}
	// None of the desired targets is registered: deregistering the others would
	// leave the port without any.
	if !slices.ContainsFunc(registered.instances, func(id string) bool { return slices.Contains(ids, id) }) {
		return nil
	}
	if err := r.deregisterTargets(ctx, registered, remove); err != nil {
		return err
	}
	return r.registerTargets(ctx, registered, rest)
}

// registerTargets registers the instances, in calls of limited size. Those that AWS
// refuses are left out, and recorded in the result.
func (r *reconciler) registerTargets(ctx context.Context, registered *targetRegistration, ids []string) error {
	for part := range slices.Chunk(ids, targetsPerCall) {
		if err := r.registerAccepted(ctx, registered, part); err != nil {
			return err
		}
	}
	return nil
}

var anyInstance = regexp.MustCompile(`i-[0-9a-f]{8,17}`)

// registerAccepted registers all instances that AWS accepts. AWS refuses a call
// for one invalid target, which is then left out: the one that the message
// names, otherwise it is searched for by bisection.
func (r *reconciler) registerAccepted(ctx context.Context, registered *targetRegistration, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := callAPI(ctx, r.elb.RegisterTargets, &elbapi.RegisterTargetsInput{
		TargetGroupArn: aws.String(registered.arn), Targets: targetDescriptions(ids),
	})
	if err == nil {
		registered.instances = append(registered.instances, ids...)
		slices.Sort(registered.instances)
		return nil
	}
	if !isCode(err, "InvalidTarget") {
		return err
	}
	// The message may name instances that were not part of the call; leaving these
	// out would not help.
	named := slices.DeleteFunc(anyInstance.FindAllString(err.Error(), -1), func(id string) bool { return !slices.Contains(ids, id) })
	// The bisection ends here: the only instance of the call is the invalid one.
	if len(ids) == 1 {
		named = ids
	}
	if len(named) == 0 {
		half := len(ids) / 2
		return errors.Join(r.registerAccepted(ctx, registered, ids[:half]), r.registerAccepted(ctx, registered, ids[half:]))
	}
	for _, id := range named {
		r.result.refused = put(r.result.refused, id, time.Now().Add(refusalPeriod))
	}
	// The refusal is also part of the report, because it is the cluster's situation
	// and not a failure of the sync.
	r.log.Warn("targets refused", "service", r.svc.Namespace+"/"+r.svc.Name, "instances", named, "error", err)
	return r.registerAccepted(ctx, registered, subtract(ids, named))
}

// deregisterTargets deregisters the instances. AWS drains their connections for the
// time of the attribute deregistration_delay.timeout_seconds.
// Targets with a port other than the target group's are deregistered as well.
func (r *reconciler) deregisterTargets(ctx context.Context, registered *targetRegistration, ids []string) error {
	for part := range slices.Chunk(append(targetDescriptions(ids), registered.foreign...), targetsPerCall) {
		_, err := callAPI(ctx, r.elb.DeregisterTargets, &elbapi.DeregisterTargetsInput{
			TargetGroupArn: aws.String(registered.arn), Targets: part,
		})
		if err != nil && !isCode(err, "InvalidTarget") { // which is not registered any more
			return err
		}
		registered.instances = slices.DeleteFunc(registered.instances, func(id string) bool {
			return slices.ContainsFunc(part, func(t elb.TargetDescription) bool { return t.Port == nil && aws.ToString(t.Id) == id })
		})
	}
	registered.foreign = nil
	return nil
}

func targetDescriptions(ids []string) (all []elb.TargetDescription) {
	for _, id := range ids {
		all = append(all, elb.TargetDescription{Id: aws.String(id)})
	}
	return all
}
