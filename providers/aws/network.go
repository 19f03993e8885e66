package aws

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
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
	mu        sync.Mutex
	instances map[string]instance
	vpc       string
	subnets   []subnet
	subnetsAt time.Time
	routed    bool // subnets have Public
}

// lookUp finds the instances, asking AWS about those that it does not know.
// Those that AWS does not know, or that have ended, are left out: one bad node
// must not cost the others their place.
func (c *Cloud) lookUp(ctx context.Context, a *conn, targets []target) (found []instance, err error) {
	n := &c.network
	n.mu.Lock()
	defer n.mu.Unlock()
	var unknown []string
	for _, t := range targets {
		i, ok := n.instances[t.Instance]
		age := instancesAge
		if !i.Usable {
			age = unusableAge
		}
		if !ok || time.Since(i.seen) > age {
			unknown = append(unknown, t.Instance)
		}
	}
	for ids := range slices.Chunk(unknown, perCall) {
		if err := c.describeInstances(ctx, a, ids); err != nil {
			return nil, err
		}
	}
	for _, t := range targets {
		if i := n.instances[t.Instance]; i.Usable {
			found = append(found, i)
		}
	}
	return found, nil
}

// describeInstances asks with a filter: an unknown ID in InstanceIds would fail
// the call for all.
func (c *Cloud) describeInstances(ctx context.Context, a *conn, ids []string) error {
	n := &c.network
	for _, id := range ids {
		n.instances = put(n.instances, id, instance{ID: id, seen: time.Now()})
	}
	pages := ec2api.NewDescribeInstancesPaginator(a.ec2, &ec2api.DescribeInstancesInput{Filters: filter("instance-id", ids...)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			for _, id := range ids {
				delete(n.instances, id)
			}
			return explain(err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				known := instance{ID: aws.ToString(i.InstanceId), VPC: aws.ToString(i.VpcId), seen: time.Now()}
				known.Usable = i.State == nil || i.State.Name == ec2.InstanceStateNameRunning || i.State.Name == ec2.InstanceStateNamePending
				if i.Placement != nil {
					known.Zone = aws.ToString(i.Placement.AvailabilityZone)
				}
				for _, g := range i.SecurityGroups {
					known.Groups = append(known.Groups, aws.ToString(g.GroupId))
				}
				n.instances[known.ID] = known
			}
		}
	}
	return nil
}

func filter(name string, values ...string) []ec2.Filter {
	return []ec2.Filter{{Name: aws.String(name), Values: values}}
}

// vpcOf is the flag's, the instances' or the metadata's.
func (c *Cloud) vpcOf(ctx context.Context, a *conn, instances []instance) (string, error) {
	if c.options.VPC != "" {
		return c.options.VPC, nil
	}
	n := &c.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.vpc == "" && len(instances) > 0 {
		n.vpc = instances[0].VPC
	}
	if n.vpc == "" {
		n.vpc = metadataVPC(ctx, a)
	}
	if n.vpc == "" {
		return "", &providers.Refusal{Reason: v1alpha1.CloudNotConfigured, Message: "the VPC is not known: no node is an instance that AWS knows, and there is no instance metadata; give the controller --aws-vpc-id"}
	}
	return n.vpc, nil
}

func metadataVPC(ctx context.Context, a *conn) string {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	mac, err := metadata(ctx, a, "mac")
	if err != nil {
		return ""
	}
	vpc, err := metadata(ctx, a, "network/interfaces/macs/"+mac+"/vpc-id")
	if err != nil {
		return ""
	}
	return vpc
}

func metadata(ctx context.Context, a *conn, path string) (string, error) {
	out, err := a.imds.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	if err != nil {
		return "", explain(err)
	}
	defer out.Content.Close()
	text := make([]byte, 256)
	n, _ := out.Content.Read(text)
	return string(text[:n]), nil
}

// subnetsFor chooses the subnets of a new balancer, or those that an
// annotation names.
func (c *Cloud) subnetsFor(ctx context.Context, a *conn, vpc string, s stack) ([]subnet, error) {
	all, err := c.allSubnets(ctx, a, vpc, s.Scheme, len(s.Subnets) == 0)
	if err != nil {
		return nil, err
	}
	var chosen []subnet
	var refusal *providers.Refusal
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
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.subnetsAt) > subnetsAge {
		all, err := describeSubnets(ctx, a, vpc)
		if err != nil {
			return nil, err
		}
		n.subnets, n.subnetsAt, n.routed = all, time.Now(), false
	}
	if choose && !n.routed && needRoutes(n.subnets, scheme) {
		if err := describeRoutes(ctx, a, vpc, n.subnets); err != nil {
			return nil, err
		}
		n.routed = true
	}
	return n.subnets, nil
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
