package aws

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

const (
	perRegister = 200 // targets of a call
	badAge      = 5 * time.Minute
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

// targetsOf asks which instances are registered.
func (w *work) targetsOf(ctx context.Context, g elb.TargetGroup) (attached, error) {
	a := attached{arn: aws.ToString(g.TargetGroupArn)}
	out, err := call(ctx, w.conn.elb.DescribeTargetHealth, &elbapi.DescribeTargetHealthInput{TargetGroupArn: g.TargetGroupArn})
	if err != nil {
		return a, err
	}
	for _, d := range out.TargetHealthDescriptions {
		if d.Target == nil || d.TargetHealth != nil && d.TargetHealth.State == elb.TargetHealthStateEnumDraining {
			continue
		}
		w.healthy = w.healthy || d.TargetHealth != nil && d.TargetHealth.State == elb.TargetHealthStateEnumHealthy
		a.instances = append(a.instances, aws.ToString(d.Target.Id))
	}
	slices.Sort(a.instances)
	return a, nil
}

// setTargets makes the instances the targets. Where AWS has refused all that are
// wanted, the old ones stay: they are better than none.
func (w *work) setTargets(ctx context.Context, a *attached, ids []string) error {
	first, remove, rest := moves(a.instances, ids, w.memory.most)
	if err := w.registerAll(ctx, a, first); err != nil {
		return err
	}
	if !slices.ContainsFunc(a.instances, func(id string) bool { return slices.Contains(ids, id) }) {
		return nil
	}
	if err := w.deregister(ctx, a, remove); err != nil {
		return err
	}
	return w.registerAll(ctx, a, rest)
}

func (w *work) registerAll(ctx context.Context, a *attached, ids []string) error {
	for part := range slices.Chunk(ids, perRegister) {
		if err := w.register(ctx, a, part); err != nil {
			return err
		}
	}
	return nil
}

var anyInstance = regexp.MustCompile(`i-[0-9a-f]{8,17}`)

// register registers all that AWS accepts. It refuses a call for one bad
// target; that one is left out then: the one that the message names, else it is
// looked for by halves.
func (w *work) register(ctx context.Context, a *attached, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := call(ctx, w.conn.elb.RegisterTargets, &elbapi.RegisterTargetsInput{TargetGroupArn: aws.String(a.arn), Targets: descriptions(ids)})
	if err == nil {
		a.instances = append(a.instances, ids...)
		slices.Sort(a.instances)
		return nil
	}
	if !isCode(err, "InvalidTarget") {
		return err
	}
	named := slices.DeleteFunc(anyInstance.FindAllString(err.Error(), -1), func(id string) bool { return !slices.Contains(ids, id) })
	if len(ids) == 1 {
		named = ids
	}
	if len(named) == 0 {
		half := len(ids) / 2
		return errors.Join(w.register(ctx, a, ids[:half]), w.register(ctx, a, ids[half:]))
	}
	for _, id := range named {
		w.memory.bad = put(w.memory.bad, id, time.Now().Add(badAge))
	}
	w.log.Warn("targets refused", "service", w.svc.Namespace+"/"+w.svc.Name, "instances", named, "error", err)
	return w.register(ctx, a, slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(named, id) }))
}

func (w *work) deregister(ctx context.Context, a *attached, ids []string) error {
	for part := range slices.Chunk(ids, perRegister) {
		_, err := call(ctx, w.conn.elb.DeregisterTargets, &elbapi.DeregisterTargetsInput{TargetGroupArn: aws.String(a.arn), Targets: descriptions(part)})
		if err != nil && !isCode(err, "InvalidTarget") { // which is no target any more
			return err
		}
		a.instances = slices.DeleteFunc(a.instances, func(id string) bool { return slices.Contains(part, id) })
	}
	return nil
}

func descriptions(ids []string) (all []elb.TargetDescription) {
	for _, id := range ids {
		all = append(all, elb.TargetDescription{Id: aws.String(id)})
	}
	return all
}

// tags are those of an object of the Service's.
func (w *work) tags(what string, records ...map[string]string) map[string]string {
	name := w.svc.Namespace + "/" + w.svc.Name
	if what != "" {
		name += " " + what
	}
	return allTags(ownTags(w.options.Cluster, w.svc), w.want.Tags, name, records...)
}

// retag changes an object's tags. What goes goes first: the record of the
// user's tags, which is needed to know them, is overwritten last.
func (w *work) retag(ctx context.Context, arn string, have, want map[string]string) error {
	add, remove := diffTags(have, want)
	if len(remove) > 0 {
		if _, err := call(ctx, w.conn.elb.RemoveTags, &elbapi.RemoveTagsInput{ResourceArns: []string{arn}, TagKeys: remove}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		if _, err := call(ctx, w.conn.elb.AddTags, &elbapi.AddTagsInput{ResourceArns: []string{arn}, Tags: elbTagList(add)}); err != nil {
			return err
		}
	}
	after := merged(have, add)
	maps.DeleteFunc(after, func(k, _ string) bool { return slices.Contains(remove, k) })
	w.have.tags = put(w.have.tags, arn, after)
	return nil
}

func elbTagList(tags map[string]string) (all []elb.Tag) {
	for k, v := range tags {
		all = append(all, elb.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	return all
}
