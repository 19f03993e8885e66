package aws

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// observedStack is what AWS has of one Service, or of several.
type observedStack struct {
	balancers []elb.LoadBalancer         // by name, in order
	groups    map[string]elb.TargetGroup // by name
	listeners map[string]elb.Listener    // by ARN, of all load balancers
	// tags of the above, by ARN.
	tags     map[string]map[string]string
	security []ec2.SecurityGroup // except the shared one
	unowned  []unownedObject     // with names of the Service, which are not among the above
	healthy  bool                // a target of a desired target group is
}

// vpc returns the VPC of the load balancer, or of its target groups if it has lost its
// tags, "" without both.
func (o *observedStack) vpc() string {
	for _, b := range o.balancers {
		return aws.ToString(b.VpcId)
	}
	for _, g := range o.groups {
		if len(o.unowned) > 0 {
			return aws.ToString(g.VpcId)
		}
	}
	return ""
}

// listStack lists the load balancers and target groups with matching names.
func (c *Cloud) listStack(ctx context.Context, match func(name string) bool) (o observedStack, err error) {
	if o.balancers, err = c.loadBalancers.match(ctx, match); err != nil {
		return o, err
	}
	slices.SortFunc(o.balancers, func(a, b elb.LoadBalancer) int {
		return strings.Compare(aws.ToString(a.LoadBalancerName), aws.ToString(b.LoadBalancerName))
	})
	// Target groups are found by name, not through the load balancer, so that those
	// of a deleted one are found as well.
	groups, err := c.targetGroups.match(ctx, match)
	o.groups, o.listeners = map[string]elb.TargetGroup{}, map[string]elb.Listener{}
	for _, g := range groups {
		o.groups[aws.ToString(g.TargetGroupName)] = g
	}
	return o, err
}

// taggedARNs returns the ARN of everything that has tags of Elastic Load Balancing.
func (o *observedStack) taggedARNs() []string {
	arns := slices.Collect(maps.Keys(o.listeners))
	for _, g := range o.groups {
		arns = append(arns, aws.ToString(g.TargetGroupArn))
	}
	for _, b := range o.balancers {
		arns = append(arns, aws.ToString(b.LoadBalancerArn))
	}
	return arns
}

// keepTagged keeps only the load balancers and target groups with matching tags.
func (o *observedStack) keepTagged(match func(tags map[string]string) bool) {
	o.balancers = slices.DeleteFunc(o.balancers, func(b elb.LoadBalancer) bool { return !match(o.tags[aws.ToString(b.LoadBalancerArn)]) })
	maps.DeleteFunc(o.groups, func(_ string, g elb.TargetGroup) bool { return !match(o.tags[aws.ToString(g.TargetGroupArn)]) })
}

// readStack finds all objects of the Service, whether or not its load balancer
// exists. Objects that have one of its names but not its tags are separate
// (observedStack.unowned).
func (r *reconciler) readStack(ctx context.Context) (err error) {
	if r.observed, err = r.listStack(ctx, r.names.ofService(r.svc.UID)); err != nil {
		return err
	}
	o := &r.observed
	// Deletion does not read listeners, which are deleted with the load balancer.
	if r.mode == syncDeletion {
		if o.tags, err = r.describeTags(ctx, o.taggedARNs()); err != nil {
			return err
		}
		r.separateUnowned()
		return r.readSecurityGroups(ctx)
	}
	for _, b := range o.balancers {
		if err := r.readListeners(ctx, b); err != nil {
			return err
		}
	}
	// Usually nothing exists. Security groups that a process left that has ended are
	// found by name when they are created (createOwnGroup).
	if len(o.balancers)+len(o.groups) == 0 && !r.isUnfinished(r.svc.UID) {
		return nil
	}
	if err := r.readTags(ctx); err != nil {
		return err
	}
	r.separateUnowned()
	return r.readSecurityGroups(ctx)
}

// readTags reads the tags. In the mode syncDrift these are only those of load
// balancers, and of what the last sync did not know.
func (r *reconciler) readTags(ctx context.Context) (err error) {
	known := map[string]map[string]string{}
	arns := r.observed.taggedARNs()
	if r.mode == syncDrift {
		arns = slices.DeleteFunc(arns, func(arn string) bool {
			isBalancer := func(b elb.LoadBalancer) bool { return aws.ToString(b.LoadBalancerArn) == arn }
			tags, ok := r.knownTags[arn]
			if !ok || slices.ContainsFunc(r.observed.balancers, isBalancer) {
				return false
			}
			known[arn] = tags
			return true
		})
	}
	if r.observed.tags, err = r.describeTags(ctx, arns); err != nil {
		return err
	}
	maps.Copy(r.observed.tags, known)
	return nil
}

// readListeners adds the listeners of a load balancer to the observed stack. They
// are not cached: a call lists those of one load balancer only.
func (r *reconciler) readListeners(ctx context.Context, b elb.LoadBalancer) error {
	pages := elbapi.NewDescribeListenersPaginator(r.elb, &elbapi.DescribeListenersInput{LoadBalancerArn: b.LoadBalancerArn})
	all, err := listAll(ctx, pages, func(p *elbapi.DescribeListenersOutput) []elb.Listener { return p.Listeners })
	for _, l := range all {
		r.observed.listeners[aws.ToString(l.ListenerArn)] = l
	}
	return err
}
