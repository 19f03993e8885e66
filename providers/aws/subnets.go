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

// subnetCache caches the subnets of the VPC.
type subnetCache struct {
	maxAge time.Duration
	flight singleflight.Group

	mu     sync.Mutex
	vpc    string
	all    []subnet
	listed time.Time
	routed bool // Public is set
}

// invalidate makes the next selection list the subnets again.
func (s *subnetCache) invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = time.Time{}
}

// findSubnets returns the subnets that an annotation names, otherwise it selects
// those of a new load balancer.
func (c *Cloud) findSubnets(ctx context.Context, vpc string, s stack) ([]subnet, error) {
	all, err := c.listSubnets(ctx, vpc, s.Scheme, len(s.Subnets) == 0)
	if err != nil {
		return nil, err
	}
	var selected []subnet
	var refusal *v1alpha1.Refusal
	if len(s.Subnets) > 0 {
		selected, refusal = namedSubnets(all, s.Subnets)
	} else {
		selected, refusal = selectSubnets(all, s.Scheme, c.options.Cluster)
	}
	if refusal != nil {
		c.subnets.invalidate() // a tag will be added
		return nil, refusal
	}
	return selected, nil
}

// listSubnets returns all subnets of the VPC, with Public if the selection
// depends on it.
func (c *Cloud) listSubnets(ctx context.Context, vpc string, scheme elb.LoadBalancerSchemeEnum, selects bool) ([]subnet, error) {
	s := &c.subnets
	for {
		s.mu.Lock()
		all, old, routed := s.all, time.Since(s.listed) > s.maxAge || s.vpc != vpc, s.routed
		s.mu.Unlock()
		routes := selects && needRoutes(all, scheme)
		if !old && (routed || !routes) {
			return all, nil
		}
		err := callOnce(ctx, &s.flight, fmt.Sprint(vpc, routes), func(ctx context.Context) error {
			all, err := c.describeSubnets(ctx, vpc)
			if err == nil && selects && needRoutes(all, scheme) {
				routed, err = true, c.describeRoutes(ctx, vpc, all)
			}
			if err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.vpc, s.all, s.listed, s.routed = vpc, all, time.Now(), routed
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
}

func (c *Cloud) describeSubnets(ctx context.Context, vpc string) (all []subnet, err error) {
	pages := ec2api.NewDescribeSubnetsPaginator(c.ec2, &ec2api.DescribeSubnetsInput{Filters: ec2Filter("vpc-id", vpc)})
	found, err := listAll(ctx, pages, func(p *ec2api.DescribeSubnetsOutput) []ec2.Subnet { return p.Subnets })
	for _, s := range found {
		// The name of a standard zone is its region and one letter; those of local
		// and wavelength zones are longer.
		zone, tags := aws.ToString(s.AvailabilityZone), tagMap(s.Tags)
		n := subnet{
			ID: aws.ToString(s.SubnetId), Name: tags[tagName], Zone: zone, Free: aws.ToInt32(s.AvailableIpAddressCount), Tags: tags,
			Remote: s.OutpostArn != nil || len(zone) > len(regionOf.FindString(zone))+1,
			IPv6: slices.ContainsFunc(s.Ipv6CidrBlockAssociationSet, func(x ec2.SubnetIpv6CidrBlockAssociation) bool {
				return x.Ipv6CidrBlockState == nil || x.Ipv6CidrBlockState.State == ec2.SubnetCidrBlockStateCodeAssociated
			}),
		}
		// A subnet with IPv6 only has no IPv4 CIDR.
		if p, err := netip.ParsePrefix(aws.ToString(s.CidrBlock)); err == nil {
			n.CIDR = p
		}
		all = append(all, n)
	}
	return all, err
}

// describeRoutes sets which subnets have a route to an internet gateway: in
// their own route table, otherwise in the VPC's main one.
func (c *Cloud) describeRoutes(ctx context.Context, vpc string, subnets []subnet) error {
	pages := ec2api.NewDescribeRouteTablesPaginator(c.ec2, &ec2api.DescribeRouteTablesInput{Filters: ec2Filter("vpc-id", vpc)})
	tables, err := listAll(ctx, pages, func(p *ec2api.DescribeRouteTablesOutput) []ec2.RouteTable { return p.RouteTables })
	if err != nil {
		return err
	}
	own, main := map[string]bool{}, false // whether the route table has the route
	for _, table := range tables {
		public := slices.ContainsFunc(table.Routes, func(r ec2.Route) bool { return strings.HasPrefix(aws.ToString(r.GatewayId), "igw-") })
		for _, x := range table.Associations {
			if aws.ToBool(x.Main) {
				main = public
			} else if id := aws.ToString(x.SubnetId); id != "" {
				own[id] = public
			}
		}
	}
	for i, s := range subnets {
		// A subnet without an association uses the main route table of the VPC
		// (EC2, "Subnet route tables").
		public, associated := own[s.ID]
		subnets[i].Public = public || !associated && main
	}
	return nil
}
