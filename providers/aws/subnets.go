package aws

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const subnetsAge = 10 * time.Minute

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
