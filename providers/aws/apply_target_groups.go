package aws

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// groupName returns the name of a target group of the desired load balancer.
func (r *reconciler) groupName(t targetGroup) string {
	return r.names.targetGroup(r.svc.UID, r.name, t)
}

// ensureTargetGroups creates or changes the target groups and their targets.
// What is registered before the listener exists becomes healthy sooner.
func (r *reconciler) ensureTargetGroups(ctx context.Context, instances []instance) error {
	desired := r.result.desired
	// Each listener has a target group of its own, and a node counts once for each
	// of them against the load balancer's quota.
	limit := desired.targetLimit(len(desired.Listeners))
	ids := limit.instanceIDs(instances)
	for _, l := range desired.Listeners {
		registered, err := r.ensureTargetGroup(ctx, l)
		if err != nil {
			return err
		}
		if len(ids) > 0 { // otherwise the last targets stay
			if err := r.setTargets(ctx, &registered, ids, limit); err != nil {
				return err
			}
		}
		r.result.groups = append(r.result.groups, registered)
	}
	return nil
}

// ensureTargetGroup creates the target group of a listener or changes it in place,
// and returns its ARN with the registered instances. The protocol, the port and the
// address type are part of its name: another value of them means another target
// group.
func (r *reconciler) ensureTargetGroup(ctx context.Context, l listener) (registered targetRegistration, err error) {
	t, name := l.Target, r.groupName(l.Target)
	g, exists := r.observed.groups[name]
	tags := r.observed.tags[aws.ToString(g.TargetGroupArn)]
	if !exists {
		tags = r.desiredTags(l.name())
		if g, err = r.createTargetGroup(ctx, name, t, tags); err != nil {
			return registered, err
		}
		r.observed.groups[name] = g
		registered.arn = aws.ToString(g.TargetGroupArn)
	} else {
		// Registrations are always read: they may have been changed by hand, and
		// the health of targets decides when a replaced load balancer is deleted.
		if registered, err = r.readTargets(ctx, g); err != nil {
			return registered, err
		}
		if healthDiffers(t.Health, g) {
			if err := r.changeHealthCheck(ctx, registered.arn, t.Health); err != nil {
				return registered, err
			}
		}
	}
	if err := r.ensureAttributes(ctx, r.targetGroupAttributes(registered.arn, t.Protocol), t.Attributes, tags); err != nil {
		return registered, err
	}
	return registered, r.updateTags(ctx, registered.arn, tags, r.desiredTags(l.name(), recordAttributes(t.Attributes)))
}

// createTargetGroup creates the target group without targets. The port is the node
// port, which all instances have in common.
func (r *reconciler) createTargetGroup(ctx context.Context, name string, t targetGroup, tags map[string]string) (elb.TargetGroup, error) {
	in := &elbapi.CreateTargetGroupInput{
		Name: aws.String(name), Protocol: t.Protocol, Port: aws.Int32(t.Port), VpcId: aws.String(r.result.vpc),
		TargetType: elb.TargetTypeEnumInstance, IpAddressType: t.Family, Tags: elbTagList(tags),
		HealthCheckEnabled:  aws.Bool(true),
		HealthCheckProtocol: elb.ProtocolEnum(t.Health.Protocol), HealthCheckPort: aws.String(t.Health.Port),
		HealthCheckIntervalSeconds: aws.Int32(t.Health.Interval), HealthCheckTimeoutSeconds: aws.Int32(t.Health.Timeout),
		HealthyThresholdCount: aws.Int32(t.Health.Healthy), UnhealthyThresholdCount: aws.Int32(t.Health.Unhealthy),
	}
	// Only HTTP and HTTPS checks have a path and codes (CreateTargetGroup,
	// HealthCheckPath and Matcher).
	if t.Health.Path != "" {
		in.HealthCheckPath, in.Matcher = aws.String(t.Health.Path), &elb.Matcher{HttpCode: aws.String(t.Health.Codes)}
	}
	out, err := callAPI(ctx, r.elb.CreateTargetGroup, in)
	if err != nil {
		return elb.TargetGroup{}, err
	}
	if len(out.TargetGroups) == 0 {
		return elb.TargetGroup{}, errors.New("CreateTargetGroup: response without a target group")
	}
	r.targetGroups.put(out.TargetGroups[0])
	return out.TargetGroups[0], nil
}

// changeHealthCheck sets all fields of the health check, also those that are equal.
func (r *reconciler) changeHealthCheck(ctx context.Context, arn string, h health) error {
	in := &elbapi.ModifyTargetGroupInput{
		TargetGroupArn: aws.String(arn), HealthCheckProtocol: elb.ProtocolEnum(h.Protocol), HealthCheckPort: aws.String(h.Port),
		HealthCheckIntervalSeconds: aws.Int32(h.Interval), HealthCheckTimeoutSeconds: aws.Int32(h.Timeout),
		HealthyThresholdCount: aws.Int32(h.Healthy), UnhealthyThresholdCount: aws.Int32(h.Unhealthy),
	}
	if h.Path != "" {
		in.HealthCheckPath, in.Matcher = aws.String(h.Path), &elb.Matcher{HttpCode: aws.String(h.Codes)}
	}
	out, err := callAPI(ctx, r.elb.ModifyTargetGroup, in)
	if err != nil {
		return err
	}
	for _, g := range out.TargetGroups {
		r.targetGroups.put(g)
	}
	return nil
}
