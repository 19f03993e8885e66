package aws

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"k8s.io/apimachinery/pkg/types"
)

// orphanAge is how long an object must have been without its Service before it
// is deleted: a cache may be late, and a Service be restored.
const orphanAge = time.Hour

// Sweep looks for balancers, target groups and security groups of the cluster
// whose Service does not exist, by the Services' UIDs. It counts them in the
// metric fairlead_aws_orphans, and deletes those that have been orphans for an
// hour if Options.DeleteOrphans is set.
func (c *Cloud) Sweep(ctx context.Context, live map[types.UID]bool) error {
	a, err := c.connect(ctx)
	if err != nil {
		return err
	}
	found, err := c.orphans(ctx, a, live)
	if err != nil {
		return err
	}
	count := map[string]int{"load-balancer": len(found.balancers), "target-group": len(found.groups), "security-group": len(found.security)}
	for kind, n := range count {
		orphans.WithLabelValues(kind).Set(float64(n))
	}
	now := time.Now()
	since := map[string]time.Time{}
	old := func(id string) bool {
		first, known := c.sweep[id]
		if !known {
			first = now
			c.log.Warn("orphan found", "object", id, "deletes", c.options.DeleteOrphans)
		}
		since[id] = first
		return c.options.DeleteOrphans && now.Sub(first) >= orphanAge
	}
	defer func() { c.sweep = since }()
	var failures []error
	for _, b := range found.balancers {
		if old(aws.ToString(b.LoadBalancerArn)) {
			failures = append(failures, c.deleteBalancer(ctx, a, b, false))
		}
	}
	for _, g := range found.groups {
		if old(aws.ToString(g.TargetGroupArn)) {
			failures = append(failures, c.deleteTargetGroup(ctx, a, g))
		}
	}
	for _, g := range found.security {
		if id := aws.ToString(g.GroupId); old(id) {
			failures = append(failures, c.deleteGroup(ctx, a, id))
		}
	}
	if len(failures) > 0 {
		failures = append(failures, c.deleteShared(ctx, a))
	}
	return errors.Join(failures...)
}

// orphans are the cluster's objects that belong to none of the Services.
func (c *Cloud) orphans(ctx context.Context, a *conn, live map[types.UID]bool) (found state, err error) {
	all := func(string) bool { return true }
	balancers, err := c.listBalancers(ctx, a, all)
	if err != nil {
		return found, err
	}
	groups, err := c.listGroups(ctx, a, all)
	if err != nil {
		return found, err
	}
	var arns []string
	for _, b := range balancers {
		arns = append(arns, aws.ToString(b.LoadBalancerArn))
	}
	for _, g := range groups {
		arns = append(arns, aws.ToString(g.TargetGroupArn))
	}
	tags, err := c.tagsOf(ctx, a, arns)
	if err != nil {
		if isCode(err, gone...) {
			c.inventory.forget()
		}
		return found, err
	}
	orphan := func(tags map[string]string) bool {
		uid := types.UID(tags[tagUID])
		return tags[tagCluster] == c.options.Cluster && uid != "" && !live[uid]
	}
	for _, b := range balancers {
		if orphan(tags[aws.ToString(b.LoadBalancerArn)]) {
			found.balancers = append(found.balancers, b)
		}
	}
	found.groups = map[string]elb.TargetGroup{}
	for _, g := range groups {
		if orphan(tags[aws.ToString(g.TargetGroupArn)]) {
			found.groups[aws.ToString(g.TargetGroupName)] = g
		}
	}
	security, err := c.securityGroups(ctx, a, []ec2.Filter{{Name: aws.String("tag:" + tagCluster), Values: []string{c.options.Cluster}}})
	if err != nil {
		return found, err
	}
	for _, g := range security {
		if orphan(tagsOf(g.Tags)) {
			found.security = append(found.security, g)
		}
	}
	return found, nil
}
