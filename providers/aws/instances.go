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
	instancesAge = time.Hour
	unusableAge  = time.Minute // a new instance may not be known everywhere yet
	perCall      = 100         // instances
)

// instance is what matters of one.
type instance struct {
	ID, Zone, VPC string
	Groups        []string
	Usable        bool // running, or about to
	seen          time.Time
}

// network remembers what rarely changes.
type network struct {
	flight singleflight.Group

	mu        sync.Mutex
	instances map[string]instance
	subnets   []subnet
	subnetsAt time.Time
	routed    bool // subnets have Public
}

// lookUp finds the instances, asking AWS about those that it does not know.
// Those that AWS does not know, or that have ended, are left out: one bad node
// must not cost the others their place.
func (c *Cloud) lookUp(ctx context.Context, a *conn, targets []target) (found []instance, err error) {
	n := &c.network
	unknown := n.unknown(targets)
	for ids := range slices.Chunk(unknown, perCall) {
		err := once(ctx, &n.flight, "instances "+strings.Join(ids, " "), func(ctx context.Context) error {
			found, err := describeInstances(ctx, a, ids)
			if err == nil {
				n.learn(ids, found)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range targets {
		if i := n.instances[t.Instance]; i.Usable {
			found = append(found, i)
		}
	}
	return found, nil
}

// unknown are the instances that nothing recent is known of.
func (n *network) unknown(targets []target) (ids []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range targets {
		i, ok := n.instances[t.Instance]
		age := instancesAge
		if !i.Usable {
			age = unusableAge
		}
		if !ok || time.Since(i.seen) > age {
			ids = append(ids, t.Instance)
		}
	}
	return ids
}

// learn remembers what AWS said about the instances that it was asked about.
func (n *network) learn(ids []string, found map[string]instance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		i := found[id]
		i.seen = time.Now()
		n.instances = put(n.instances, id, i)
	}
}

// describeInstances asks with a filter: an unknown ID in InstanceIds would fail
// the call for all.
func describeInstances(ctx context.Context, a *conn, ids []string) (map[string]instance, error) {
	found := map[string]instance{}
	pages := ec2api.NewDescribeInstancesPaginator(a.ec2, &ec2api.DescribeInstancesInput{Filters: filter("instance-id", ids...)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				known := instance{ID: aws.ToString(i.InstanceId), VPC: aws.ToString(i.VpcId)}
				known.Usable = i.State == nil || i.State.Name == ec2.InstanceStateNameRunning || i.State.Name == ec2.InstanceStateNamePending
				if i.Placement != nil {
					known.Zone = aws.ToString(i.Placement.AvailabilityZone)
				}
				for _, g := range i.SecurityGroups {
					known.Groups = append(known.Groups, aws.ToString(g.GroupId))
				}
				found[known.ID] = known
			}
		}
	}
	return found, nil
}
