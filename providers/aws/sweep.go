package aws

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"k8s.io/apimachinery/pkg/types"
)

// orphanAge is how long an object must be orphaned before it is deleted: a
// cache may be late, and a Service may be restored.
const orphanAge = time.Hour

// SweepOrphans looks for load balancers, target groups and security groups of the
// cluster with the UID of a Service that does not exist. It counts them in the
// metric fairlead_aws_orphans, and deletes those that have been orphans for an
// hour if Options.DeleteOrphans is set.
func (c *Cloud) SweepOrphans(ctx context.Context, live map[types.UID]bool) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	found, err := c.findOrphans(ctx, live)
	if err != nil {
		return err
	}
	// The metric counts orphans from the first search on, also those that are not
	// deleted yet.
	orphans.WithLabelValues("load-balancer").Set(float64(len(found.balancers)))
	orphans.WithLabelValues("target-group").Set(float64(len(found.groups)))
	orphans.WithLabelValues("security-group").Set(float64(len(found.security)))
	now := time.Now()
	since := map[string]time.Time{}
	expired := func(id string) bool {
		first, known := c.orphanedSince[id]
		if !known {
			first = now
			c.log.Warn("orphan found", "object", id, "deletes", c.options.DeleteOrphans)
		}
		// Objects that are not orphans any more are missing from the new map, so
		// that their time begins again.
		since[id] = first
		return c.options.DeleteOrphans && now.Sub(first) >= orphanAge
	}
	defer func() { c.orphanedSince = since }()
	var results []error
	for _, b := range found.balancers {
		if expired(aws.ToString(b.LoadBalancerArn)) {
			results = append(results, c.deleteBalancer(ctx, b, false))
		}
	}
	for _, g := range found.groups {
		if expired(aws.ToString(g.TargetGroupArn)) {
			results = append(results, c.deleteTargetGroup(ctx, g))
		}
	}
	for _, g := range found.security {
		if id := aws.ToString(g.GroupId); expired(id) {
			results = append(results, c.deleteSecurityGroup(ctx, id))
		}
	}
	// The deleted load balancer may have been the last one.
	if len(results) > 0 {
		results = append(results, c.deleteSharedGroup(ctx))
	}
	return errors.Join(results...)
}

// findOrphans returns the cluster's objects that belong to none of the Services.
func (c *Cloud) findOrphans(ctx context.Context, live map[types.UID]bool) (found observedStack, err error) {
	if found, err = c.listStack(ctx, func(string) bool { return true }); err != nil {
		return found, err
	}
	if found.tags, err = c.describeTags(ctx, found.taggedARNs()); err != nil {
		// An object of the cached list was deleted meanwhile; the next search lists
		// again.
		if isCode(err, notFoundCodes...) {
			c.invalidateLists()
		}
		return found, err
	}
	orphaned := func(tags map[string]string) bool {
		uid := types.UID(tags[tagUID])
		// The shared group has the tag of the cluster, but not of a Service, and is
		// never an orphan.
		return tags[tagCluster] == c.options.Cluster && uid != "" && !live[uid]
	}
	found.keepTagged(orphaned)
	found.security, err = c.listSecurityGroups(ctx, ec2Filter("tag:"+tagCluster, c.options.Cluster))
	found.security = slices.DeleteFunc(found.security, func(g ec2.SecurityGroup) bool { return !orphaned(tagMap(g.Tags)) })
	return found, err
}
