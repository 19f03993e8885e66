package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// work is one look at one Service's balancer.
type work struct {
	*Cloud
	conn   *conn
	svc    *corev1.Service
	want   stack
	memory *memory

	have state
	name string // the balancer's
	arn  string
	// old is the balancer that this one replaces.
	old *elb.LoadBalancer
	// deep: attributes are compared with AWS, not just with what is recorded.
	deep bool
	// light: nothing is asked for, so only what drifts is looked at.
	light  bool
	before map[string]map[string]string // tags at the last look
	// stale are rules that go when the balancer has all its groups, and needed
	// are the names of those that it has of its own.
	stale  []staleRules
	needed []string
	// healthy: a target of the wanted balancer is.
	healthy bool
}

// ensure makes the balancer what it shall be: new things before the old ones
// go, and every step again what it was when it is done twice.
func (w *work) ensure(ctx context.Context) error {
	if err := w.read(ctx); err != nil {
		return err
	}
	instances, err := w.usable(ctx)
	if err != nil {
		return err
	}
	if len(instances) == 0 && len(w.have.balancers) == 0 {
		return &v1alpha1.Refusal{Reason: v1alpha1.NoTargets, Message: fmt.Sprintf("none of %s is an instance that AWS knows", plural(len(w.memory.chosen), "node"))}
	}
	first, second := w.names.service(w.svc.UID), w.names.second(w.svc.UID)
	choice, refusal := pick(w.want, w.candidates())
	if refusal != nil {
		return errors.Join(w.follow(ctx, instances), refusal)
	}
	if w.name, w.old = first, choice.old; choice.second {
		w.name = second
	}
	w.shared.users.RLock()
	defer w.shared.users.RUnlock()
	groups, err := w.ensureSecurity(ctx, instances)
	if err != nil {
		return err
	}
	if err := w.ensureGroups(ctx, instances); err != nil {
		return err
	}
	b, err := w.ensureBalancer(ctx, choice.current, groups)
	if err != nil {
		return err
	}
	if err := w.ensureListeners(ctx); err != nil {
		return err
	}
	if err := w.tidy(ctx, b); err != nil {
		return err
	}
	w.memory.tags = w.have.tags
	w.memory.tell(instances)
	w.report(b)
	return nil
}

// tidy removes what is not wanted any more: listeners, the balancer that was
// replaced once the new one answers, target groups, security groups.
func (w *work) tidy(ctx context.Context, b elb.LoadBalancer) error {
	if err := w.deleteListeners(ctx); err != nil {
		return err
	}
	if w.old != nil && w.takenOver(b) {
		if err := w.deleteBalancer(ctx, w.conn, *w.old, false); err != nil {
			return err
		}
		w.log.Info("balancer replaced", "service", w.svc.Namespace+"/"+w.svc.Name, "old", aws.ToString(w.old.LoadBalancerName), "new", w.name)
		w.old = nil
	}
	wanted := map[string]bool{}
	for _, l := range w.want.Listeners {
		wanted[w.groupName(l.Target)] = true
	}
	for name, g := range w.have.groups {
		ofOld := w.old != nil && slices.Contains(g.LoadBalancerArns, aws.ToString(w.old.LoadBalancerArn))
		if wanted[name] || ofOld {
			continue
		}
		if err := w.later(w.deleteTargetGroup(ctx, w.conn, g)); err != nil {
			return err
		}
	}
	return w.tidySecurity(ctx)
}

// later leaves what AWS has not let go of to another look.
func (w *work) later(err error) error {
	if errors.Is(err, errInUse) {
		w.memory.unfinished = true
		return nil
	}
	return err
}
