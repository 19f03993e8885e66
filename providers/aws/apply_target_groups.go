package aws

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// groupName is the name of a target group of the balancer that is wanted.
func (w *work) groupName(t targetGroup) string { return w.names.targetGroup(w.svc.UID, w.name, t) }

// ensureGroups makes the target groups, with their targets: whoever is
// registered before the listener is there is healthy sooner.
func (w *work) ensureGroups(ctx context.Context, instances []instance) error {
	w.memory.most, w.memory.cross = w.room(max(len(w.want.Listeners), 1))
	ids := w.place(instances)
	for _, l := range w.want.Listeners {
		a, err := w.ensureGroup(ctx, l)
		if err != nil {
			return err
		}
		if len(ids) > 0 { // else the last targets stay
			if err := w.setTargets(ctx, &a, ids); err != nil {
				return err
			}
		}
		w.memory.groups = append(w.memory.groups, a)
	}
	return nil
}

func (w *work) ensureGroup(ctx context.Context, l listener) (a attached, err error) {
	t, name := l.Target, w.groupName(l.Target)
	have, exists := w.have.groups[name]
	tags := w.have.tags[aws.ToString(have.TargetGroupArn)]
	if !exists {
		tags = w.tags(l.name())
		if have, err = w.createTargetGroup(ctx, name, t, tags); err != nil {
			return a, err
		}
		w.have.groups[name] = have
		a.arn = aws.ToString(have.TargetGroupArn)
	} else {
		if a, err = w.targetsOf(ctx, have); err != nil {
			return a, err
		}
		if healthDiffers(t.Health, have) {
			if err := w.modifyHealth(ctx, a.arn, t.Health); err != nil {
				return a, err
			}
		}
	}
	if err := w.ensureAttributes(ctx, ofGroup(w.conn, a.arn, t.Protocol), t.Attributes, tags); err != nil {
		return a, err
	}
	return a, w.retag(ctx, a.arn, tags, w.tags(l.name(), record(tagAttributes, attributeRecord(t.Attributes))))
}

func (w *work) createTargetGroup(ctx context.Context, name string, t targetGroup, tags map[string]string) (elb.TargetGroup, error) {
	in := &elbapi.CreateTargetGroupInput{
		Name: aws.String(name), Protocol: t.Protocol, Port: aws.Int32(t.Port), VpcId: aws.String(w.memory.vpc),
		TargetType: elb.TargetTypeEnumInstance, IpAddressType: t.Family, Tags: elbTagList(tags),
		HealthCheckEnabled: aws.Bool(true), HealthCheckProtocol: elb.ProtocolEnum(t.Health.Protocol), HealthCheckPort: aws.String(t.Health.Port),
		HealthCheckIntervalSeconds: aws.Int32(t.Health.Interval), HealthCheckTimeoutSeconds: aws.Int32(t.Health.Timeout),
		HealthyThresholdCount: aws.Int32(t.Health.Healthy), UnhealthyThresholdCount: aws.Int32(t.Health.Unhealthy),
	}
	if t.Health.Path != "" {
		in.HealthCheckPath, in.Matcher = aws.String(t.Health.Path), &elb.Matcher{HttpCode: aws.String(t.Health.Codes)}
	}
	out, err := call(ctx, w.conn.elb.CreateTargetGroup, in)
	if err != nil {
		return elb.TargetGroup{}, err
	}
	if len(out.TargetGroups) == 0 {
		return elb.TargetGroup{}, errors.New("CreateTargetGroup: the answer has no target group")
	}
	w.inventory.putGroup(out.TargetGroups[0])
	return out.TargetGroups[0], nil
}

func (w *work) modifyHealth(ctx context.Context, arn string, h health) error {
	in := &elbapi.ModifyTargetGroupInput{
		TargetGroupArn: aws.String(arn), HealthCheckProtocol: elb.ProtocolEnum(h.Protocol), HealthCheckPort: aws.String(h.Port),
		HealthCheckIntervalSeconds: aws.Int32(h.Interval), HealthCheckTimeoutSeconds: aws.Int32(h.Timeout),
		HealthyThresholdCount: aws.Int32(h.Healthy), UnhealthyThresholdCount: aws.Int32(h.Unhealthy),
	}
	if h.Path != "" {
		in.HealthCheckPath, in.Matcher = aws.String(h.Path), &elb.Matcher{HttpCode: aws.String(h.Codes)}
	}
	out, err := call(ctx, w.conn.elb.ModifyTargetGroup, in)
	if err != nil {
		return err
	}
	for _, g := range out.TargetGroups {
		w.inventory.putGroup(g)
	}
	return nil
}
