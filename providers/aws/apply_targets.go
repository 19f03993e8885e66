package aws

import (
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
	perRegister = 200 // targets of a call
	badAge      = 5 * time.Minute
)

// usable are the chosen nodes' instances, in the balancer's VPC, that AWS has
// not refused.
func (w *work) usable(ctx context.Context) (used []instance, err error) {
	all, err := w.lookUp(ctx, w.conn, w.memory.chosen)
	if err != nil {
		return nil, err
	}
	m := w.memory
	if len(w.have.balancers) > 0 {
		m.vpc = aws.ToString(w.have.balancers[0].VpcId)
	}
	if m.vpc = cmpOr(m.vpc, w.options.VPC); m.vpc == "" {
		m.vpc = mostCommonVPC(all)
	}
	for id, until := range m.bad {
		if time.Now().After(until) {
			delete(m.bad, id)
		}
	}
	return slices.DeleteFunc(all, func(i instance) bool { return i.VPC != m.vpc || !m.bad[i.ID].IsZero() }), nil
}

// update registers and deregisters what differs from the memory.
func (w *work) update(ctx context.Context) error {
	instances, err := w.usable(ctx)
	if err != nil {
		return err
	}
	if len(instances) > 0 {
		if err := w.move(ctx, instances); err != nil {
			return err
		}
	}
	w.memory.tell(instances)
	if len(w.memory.lost) > 0 {
		w.memory.report.Again = w.again
	} else if w.memory.report.Ready && !w.memory.unfinished {
		w.memory.report.Again = 0
	}
	return nil
}

// move makes the instances the targets of all target groups.
func (w *work) move(ctx context.Context, instances []instance) error {
	if w.memory.backend {
		w.shared.users.RLock()
		defer w.shared.users.RUnlock()
		if _, err := w.ensureShared(ctx, w.conn, w.memory.vpc, instances); err != nil {
			return err
		}
	}
	ids := w.place(instances)
	var failures []error
	for i := range w.memory.groups {
		failures = append(failures, w.setTargets(ctx, &w.memory.groups[i], ids))
	}
	return errors.Join(failures...)
}

// place is which instances become targets, given the balancer's limits.
func (w *work) place(instances []instance) (ids []string) {
	for _, i := range spread(instances, w.memory.most, w.memory.cross) {
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	return ids
}

// recall makes a memory of what exists, to update the targets of a balancer
// that this process has not made. exists is false if there is none.
func (w *work) recall(ctx context.Context) (exists bool, err error) {
	w.memory = &memory{report: providers.Report{Ready: true, Reason: v1alpha1.Assigned}}
	if err := w.read(ctx); err != nil || len(w.have.balancers) == 0 {
		return false, err
	}
	o, _ := parseOptions(w.svc)
	b := w.have.balancers[0]
	w.want.Attributes = o.Attributes
	w.memory.labels, w.memory.status = o.NodeLabels, statusOf(b)
	w.memory.most, w.memory.cross = w.room(max(len(w.have.groups), 1))
	w.memory.backend, w.memory.base, w.memory.vpc = o.Backend, w.base(b), aws.ToString(b.VpcId)
	for _, g := range w.have.groups {
		a, err := w.targetsOf(ctx, g)
		if err != nil {
			return false, err
		}
		w.memory.groups = append(w.memory.groups, a)
	}
	return true, nil
}

// follow keeps the targets of a balancer that is otherwise left as it is.
func (w *work) follow(ctx context.Context, instances []instance) error {
	if len(instances) == 0 {
		return nil
	}
	w.memory.most, w.memory.cross = w.room(max(len(w.have.groups), 1))
	for _, g := range w.have.groups {
		a, err := w.targetsOf(ctx, g)
		if err != nil {
			return err
		}
		if err := w.setTargets(ctx, &a, w.place(instances)); err != nil {
			return err
		}
	}
	return nil
}

// room is how many targets a balancer can have with so many target groups.
func (w *work) room(groups int) (most int, cross bool) {
	return maxTargets / groups, w.want.Attributes[attrCrossZone] == "true"
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
