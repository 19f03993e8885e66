package aws

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/singleflight"
)

const (
	maxUnusableAge   = time.Minute // a new instance may not be known everywhere yet
	instancesPerCall = 100
)

// instance has the properties of an instance on which targets depend.
type instance struct {
	ID, Zone, VPC string
	Groups        []string
	State         ec2.InstanceStateName // "" if there is no such instance
	Usable        bool                  // running, or about to
	seen          time.Time
}

// instanceCache caches instances, and which do not exist.
type instanceCache struct {
	maxAge time.Duration // of usable instances
	flight singleflight.Group

	mu   sync.Mutex
	byID map[string]instance
}

// invalidate makes the next sync read the instances again.
func (c *instanceCache) invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The entries stay: a sync that has just read some of them must find them.
	for id, i := range c.byID {
		i.seen = time.Time{}
		c.byID[id] = i
	}
}

// lookUpInstances returns the instances of the targets, in their order. Those that
// were not found have no state: one bad node must not affect the others.
func (c *Cloud) lookUpInstances(ctx context.Context, targets []nodeTarget) (found []instance, err error) {
	cache := &c.instances
	// Syncs that need the same instances at the same time share one call, by the
	// list of IDs.
	for ids := range slices.Chunk(cache.outdatedIDs(targets), instancesPerCall) {
		err := callOnce(ctx, &cache.flight, strings.Join(ids, " "), func(ctx context.Context) error {
			found, err := c.describeInstances(ctx, ids)
			if err == nil {
				cache.store(ids, found)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	cache.mu.Lock()
	defer cache.mu.Unlock()
	for _, t := range targets {
		i := cache.byID[t.Instance]
		i.ID = t.Instance
		found = append(found, i)
	}
	return found, nil
}

// outdatedIDs returns the instances that must be read.
func (c *instanceCache) outdatedIDs(targets []nodeTarget) (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range targets {
		i, ok := c.byID[t.Instance]
		age := c.maxAge
		if !i.Usable {
			age = min(age, maxUnusableAge)
		}
		if !ok || time.Since(i.seen) > age {
			ids = append(ids, t.Instance)
		}
	}
	return ids
}

// store caches the result of a call for these instances.
func (c *instanceCache) store(ids []string, found map[string]instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		// Instances that were not found are stored as well: otherwise each sync
		// would look them up again.
		i := found[id]
		i.seen = time.Now()
		c.byID = put(c.byID, id, i)
	}
}

// describeInstances uses a filter: an unknown ID in InstanceIds would fail the
// call for all.
func (c *Cloud) describeInstances(ctx context.Context, ids []string) (map[string]instance, error) {
	pages := ec2api.NewDescribeInstancesPaginator(c.ec2, &ec2api.DescribeInstancesInput{Filters: ec2Filter("instance-id", ids...)})
	reservations, err := listAll(ctx, pages, func(p *ec2api.DescribeInstancesOutput) []ec2.Reservation { return p.Reservations })
	found := map[string]instance{}
	for _, r := range reservations {
		for _, i := range r.Instances {
			known := instance{ID: aws.ToString(i.InstanceId), VPC: aws.ToString(i.VpcId)}
			// AWS describes terminated instances for about an hour; they cannot be
			// targets.
			known.State = ec2.InstanceStateNameRunning
			if i.State != nil {
				known.State = i.State.Name
			}
			known.Usable = known.State == ec2.InstanceStateNameRunning || known.State == ec2.InstanceStateNamePending
			if i.Placement != nil {
				known.Zone = aws.ToString(i.Placement.AvailabilityZone)
			}
			for _, g := range i.SecurityGroups {
				known.Groups = append(known.Groups, aws.ToString(g.GroupId))
			}
			found[known.ID] = known
		}
	}
	return found, err
}
