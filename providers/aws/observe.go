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

// state is what AWS has for a Service. All of it is ours.
type state struct {
	balancers []elb.LoadBalancer
	groups    map[string]elb.TargetGroup   // by name
	listeners map[string]elb.Listener      // by ARN, of all balancers
	tags      map[string]map[string]string // by ARN
	security  []ec2.SecurityGroup          // our own, of this Service
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

// find is read, for deletion: what is not ours is left out, and is no reason
// to stop.
func (w *work) find(ctx context.Context) error {
	err := w.findOnce(ctx)
	if isCode(err, gone...) {
		w.inventory.forget()
		err = w.findOnce(ctx)
	}
	return err
}

func (w *work) findOnce(ctx context.Context) error {
	mine := w.of(w.svc.UID)
	balancers, err := w.listBalancers(ctx, w.conn, mine)
	if err != nil {
		return err
	}
	groups, err := w.listGroups(ctx, w.conn, mine)
	if err != nil {
		return err
	}
	var arns []string
	for _, b := range balancers {
		arns = append(arns, aws.ToString(b.LoadBalancerArn))
	}
	for _, g := range groups {
		arns = append(arns, aws.ToString(g.TargetGroupArn))
	}
	if w.have.tags, err = w.tagsOf(ctx, w.conn, arns); err != nil {
		return err
	}
	w.have.balancers, w.have.groups = nil, map[string]elb.TargetGroup{}
	for _, b := range balancers {
		if w.owns(aws.ToString(b.LoadBalancerArn)) {
			w.have.balancers = append(w.have.balancers, b)
		}
	}
	for _, g := range groups {
		if w.owns(aws.ToString(g.TargetGroupArn)) {
			w.have.groups[aws.ToString(g.TargetGroupName)] = g
		}
	}
	w.have.security, err = w.ownSecurity(ctx)
	return err
}
