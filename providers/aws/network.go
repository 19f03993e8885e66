package aws

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"golang.org/x/sync/singleflight"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const (
	subnetsAge   = 10 * time.Minute
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

func filter(name string, values ...string) []ec2.Filter {
	return []ec2.Filter{{Name: aws.String(name), Values: values}}
}

// subnetsFor chooses the subnets of a new balancer, or those that an
// annotation names.
func (c *Cloud) subnetsFor(ctx context.Context, a *conn, vpc string, s stack) ([]subnet, error) {
	all, err := c.allSubnets(ctx, a, vpc, s.Scheme, len(s.Subnets) == 0)
	if err != nil {
		return nil, err
	}
	var chosen []subnet
	var refusal *v1alpha1.Refusal
	if len(s.Subnets) > 0 {
		chosen, refusal = namedSubnets(all, s.Subnets)
	} else {
		chosen, refusal = chooseSubnets(all, s.Scheme, c.options.Cluster)
	}
	if refusal != nil {
		c.forgetSubnets() // somebody will add a tag
		return nil, refusal
	}
	return chosen, nil
}

func (c *Cloud) forgetSubnets() {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	c.network.subnetsAt = time.Time{}
}

func (c *Cloud) allSubnets(ctx context.Context, a *conn, vpc string, scheme elb.LoadBalancerSchemeEnum, choose bool) ([]subnet, error) {
	n := &c.network
	for {
		n.mu.Lock()
		all, old, routed := n.subnets, time.Since(n.subnetsAt) > subnetsAge, n.routed
		n.mu.Unlock()
		routes := choose && needRoutes(all, scheme)
		if !old && (routed || !routes) {
			return all, nil
		}
		err := once(ctx, &n.flight, fmt.Sprint("subnets ", routes), func(ctx context.Context) error {
			all, err := describeSubnets(ctx, a, vpc)
			if err == nil && choose && needRoutes(all, scheme) {
				routed, err = true, describeRoutes(ctx, a, vpc, all)
			}
			if err != nil {
				return err
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			n.subnets, n.subnetsAt, n.routed = all, time.Now(), routed
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
}

func describeSubnets(ctx context.Context, a *conn, vpc string) (all []subnet, err error) {
	pages := ec2api.NewDescribeSubnetsPaginator(a.ec2, &ec2api.DescribeSubnetsInput{Filters: filter("vpc-id", vpc)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		for _, s := range page.Subnets {
			tags := tagsOf(s.Tags)
			// A standard zone is its region and one letter; local and wavelength
			// zones are longer.
			zone := aws.ToString(s.AvailabilityZone)
			known := subnet{
				ID: aws.ToString(s.SubnetId), Name: tags[tagName], Zone: zone, Free: aws.ToInt32(s.AvailableIpAddressCount), Tags: tags,
				Remote: s.OutpostArn != nil || len(zone) > len(regionOf.FindString(zone))+1,
			}
			if p, err := netip.ParsePrefix(aws.ToString(s.CidrBlock)); err == nil {
				known.CIDR = p
			}
			known.IPv6 = slices.ContainsFunc(s.Ipv6CidrBlockAssociationSet, func(x ec2.SubnetIpv6CidrBlockAssociation) bool {
				return x.Ipv6CidrBlockState == nil || x.Ipv6CidrBlockState.State == ec2.SubnetCidrBlockStateCodeAssociated
			})
			all = append(all, known)
		}
	}
	return all, nil
}

// describeRoutes finds out which subnets lead to the internet: by their own
// route table, else by the VPC's main one.
func describeRoutes(ctx context.Context, a *conn, vpc string, subnets []subnet) error {
	public, main := map[string]bool{}, false
	pages := ec2api.NewDescribeRouteTablesPaginator(a.ec2, &ec2api.DescribeRouteTablesInput{Filters: filter("vpc-id", vpc)})
	own := map[string]bool{}
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return explain(err)
		}
		for _, table := range page.RouteTables {
			leads := slices.ContainsFunc(table.Routes, func(r ec2.Route) bool {
				id := aws.ToString(r.GatewayId)
				return len(id) > 4 && id[:4] == "igw-"
			})
			for _, x := range table.Associations {
				if aws.ToBool(x.Main) {
					main = leads
				} else if id := aws.ToString(x.SubnetId); id != "" {
					own[id], public[id] = true, leads
				}
			}
		}
	}
	for i, s := range subnets {
		subnets[i].Public = public[s.ID] || !own[s.ID] && main
	}
	return nil
}

func tagsOf(tags []ec2.Tag) map[string]string {
	all := make(map[string]string, len(tags))
	for _, t := range tags {
		all[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return all
}
