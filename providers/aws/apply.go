package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
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

// state is what AWS has for a Service. All of it is ours.
type state struct {
	balancers []elb.LoadBalancer
	groups    map[string]elb.TargetGroup   // by name
	listeners map[string]elb.Listener      // by ARN, of all balancers
	tags      map[string]map[string]string // by ARN
	security  []ec2.SecurityGroup          // our own, of this Service
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

// candidates are the balancers that there are.
func (w *work) candidates() (all []candidate) {
	for i := range w.have.balancers {
		b := &w.have.balancers[i]
		all = append(all, candidate{
			b, recorded(w.have.tags[aws.ToString(b.LoadBalancerArn)], tagAddresses),
			aws.ToString(b.LoadBalancerName) == w.names.second(w.svc.UID),
		})
	}
	return all
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

// read finds everything of the Service's, whether or not its balancer exists,
// and refuses to go on if something with our names is not ours.
//
// What was deleted by hand may still be in the inventory; then it looks again.
func (w *work) read(ctx context.Context) error {
	err := w.readOnce(ctx)
	if isCode(err, gone...) {
		w.inventory.forget()
		err = w.readOnce(ctx)
	}
	return err
}

// gone are the codes for what does not exist.
var gone = []string{"LoadBalancerNotFound", "TargetGroupNotFound", "ListenerNotFound"}

func (w *work) readOnce(ctx context.Context) (err error) {
	mine := w.of(w.svc.UID)
	if w.have.balancers, err = w.listBalancers(ctx, w.conn, mine); err != nil {
		return err
	}
	slices.SortFunc(w.have.balancers, func(a, b elb.LoadBalancer) int {
		return strings.Compare(aws.ToString(a.LoadBalancerName), aws.ToString(b.LoadBalancerName))
	})
	groups, err := w.listGroups(ctx, w.conn, mine)
	if err != nil {
		return err
	}
	w.have.groups, w.have.listeners = map[string]elb.TargetGroup{}, map[string]elb.Listener{}
	var arns []string
	for _, g := range groups {
		w.have.groups[aws.ToString(g.TargetGroupName)] = g
		arns = append(arns, aws.ToString(g.TargetGroupArn))
	}
	for _, b := range w.have.balancers {
		listeners, err := w.listenersOf(ctx, aws.ToString(b.LoadBalancerArn))
		if err != nil {
			return err
		}
		arns = append(arns, aws.ToString(b.LoadBalancerArn))
		for _, l := range listeners {
			w.have.listeners[aws.ToString(l.ListenerArn)] = l
			arns = append(arns, aws.ToString(l.ListenerArn))
		}
	}
	if len(arns) == 0 {
		return nil
	}
	if err := w.readTags(ctx, arns); err != nil {
		return err
	}
	for _, b := range w.have.balancers {
		if !w.owns(aws.ToString(b.LoadBalancerArn)) {
			return taken("load balancer", aws.ToString(b.LoadBalancerName))
		}
	}
	for name, g := range w.have.groups {
		if !w.owns(aws.ToString(g.TargetGroupArn)) {
			return taken("target group", name)
		}
	}
	w.have.security, err = w.ownSecurity(ctx)
	return err
}

// readTags asks for the tags. At a light look that is only those of the
// balancers, and of what was not there before.
func (w *work) readTags(ctx context.Context, arns []string) (err error) {
	known := map[string]map[string]string{}
	if w.light {
		arns = slices.DeleteFunc(arns, func(arn string) bool {
			tags, ok := w.before[arn]
			ok = ok && !slices.ContainsFunc(w.have.balancers, func(b elb.LoadBalancer) bool { return aws.ToString(b.LoadBalancerArn) == arn })
			if ok {
				known[arn] = tags
			}
			return ok
		})
	}
	if w.have.tags, err = w.tagsOf(ctx, w.conn, arns); err != nil {
		return err
	}
	maps.Copy(w.have.tags, known)
	return nil
}

// owns reports whether the tags say that an object is this Service's.
func (w *work) owns(arn string) bool {
	tags := w.have.tags[arn]
	return tags[tagCluster] == w.options.Cluster && tags[tagUID] == string(w.svc.UID)
}

func (w *work) listenersOf(ctx context.Context, arn string) (all []elb.Listener, err error) {
	pages := elbapi.NewDescribeListenersPaginator(w.conn.elb, &elbapi.DescribeListenersInput{LoadBalancerArn: aws.String(arn)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		all = append(all, page.Listeners...)
	}
	return all, nil
}

// perTags is how many objects DescribeTags takes.
const perTags = 20

func (c *Cloud) tagsOf(ctx context.Context, a *conn, arns []string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for part := range slices.Chunk(arns, perTags) {
		var out *elbapi.DescribeTagsOutput
		err := patient(ctx, "ListenerNotFound", func() (err error) {
			out, err = call(ctx, a.elb.DescribeTags, &elbapi.DescribeTagsInput{ResourceArns: part})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, d := range out.TagDescriptions {
			tags := map[string]string{}
			for _, t := range d.Tags {
				tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
			}
			all[aws.ToString(d.ResourceArn)] = tags
		}
	}
	return all, nil
}

// report is what the memory keeps for the Service's status and condition.
// While a balancer is replaced the old one's name is shown until the new one
// answers.
func (w *work) report(b elb.LoadBalancer) {
	m := w.memory
	m.status, m.base, m.stage = statusOf(b), w.base(b), ""
	m.report = providers.Report{Ready: true, Reason: v1alpha1.Assigned}
	switch state := stateOf(b); {
	case w.old != nil && !answers(b):
		m.unfinished, m.stage = true, fmt.Sprintf("; it replaces %s as soon as AWS has finished it", aws.ToString(w.old.LoadBalancerName))
		m.report.Reason, m.status = v1alpha1.Provisioning, statusOf(*w.old)
	case w.old != nil:
		m.unfinished, m.stage = true, fmt.Sprintf("; it replaces %s, which stays for some minutes, until clients know the new name and a target is healthy", aws.ToString(w.old.LoadBalancerName))
	case state == elb.LoadBalancerStateEnumActive:
	case state == elb.LoadBalancerStateEnumActiveImpaired:
		m.stage = "; AWS lacks resources to scale it up (active_impaired)"
	case state == elb.LoadBalancerStateEnumProvisioning:
		m.report = providers.Report{Reason: v1alpha1.Provisioning, Again: w.again}
		m.stage = "; AWS is still making it, which takes one to three minutes"
	default:
		m.report = providers.Report{Reason: v1alpha1.CloudFailed, Again: w.again}
		m.stage = fmt.Sprintf("; its state is %s: %s", state, aws.ToString(b.State.Reason))
	}
	if m.unfinished || len(m.lost) > 0 {
		m.report.Again = w.again
	}
	m.say()
}

func (w *work) base(b elb.LoadBalancer) string {
	scheme := string(b.Scheme)
	if scheme == "" {
		scheme = string(w.want.Scheme)
	}
	return fmt.Sprintf("%s Network Load Balancer %s in %s", scheme, aws.ToString(b.LoadBalancerName), w.conn.region)
}
