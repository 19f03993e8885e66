package aws

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

type fakeVPC struct {
	id, cidr string
	gateway  string
}

func (f *fakeAWS) doEC2(input any) (any, error) {
	switch in := input.(type) {
	case *ec2.CreateVpcInput:
		return f.createVpc(in)
	case *ec2.CreateSubnetInput:
		return f.createSubnet(in)
	case *ec2.CreateInternetGatewayInput:
		return &ec2.CreateInternetGatewayOutput{InternetGateway: &ec2types.InternetGateway{InternetGatewayId: new(f.newID("igw-"))}}, nil
	case *ec2.AttachInternetGatewayInput:
		return f.attachInternetGateway(in)
	case *ec2.CreateRouteInput:
		return f.createRoute(in)
	case *ec2.AllocateAddressInput:
		id := f.newID("eipalloc-")
		f.addresses[id] = true
		return &ec2.AllocateAddressOutput{AllocationId: &id}, nil
	case *ec2.RunInstancesInput:
		return f.runInstances(in)
	case *ec2.TerminateInstancesInput:
		return f.terminateInstances(in)
	case *ec2.DescribeSubnetsInput:
		return f.describeSubnets(in)
	case *ec2.DescribeRouteTablesInput:
		return f.describeRouteTables(in)
	case *ec2.DescribeInstancesInput:
		return f.describeInstances(in)
	case *ec2.DescribeNetworkInterfacesInput:
		return f.describeInterfaces(in)
	case *ec2.DescribeSecurityGroupsInput:
		return f.describeSecurityGroups(in)
	case *ec2.CreateSecurityGroupInput:
		return f.createSecurityGroup(in)
	case *ec2.DeleteSecurityGroupInput:
		return f.deleteSecurityGroup(in)
	case *ec2.AuthorizeSecurityGroupIngressInput:
		return f.authorizeIngress(in)
	case *ec2.RevokeSecurityGroupIngressInput:
		return f.revokeIngress(in)
	case *ec2.CreateTagsInput:
		return &ec2.CreateTagsOutput{}, f.tag(in.Resources, in.Tags, false)
	case *ec2.DeleteTagsInput:
		return &ec2.DeleteTagsOutput{}, f.tag(in.Resources, in.Tags, true)
	}
	return nil, f.unknownAction(input)
}

func (f *fakeAWS) createVpc(in *ec2.CreateVpcInput) (any, error) {
	v := &fakeVPC{id: f.newID("vpc-"), cidr: *in.CidrBlock}
	f.vpcs = append(f.vpcs, v)
	f.routes = append(f.routes, &ec2types.RouteTable{
		RouteTableId: new(f.newID("rtb-")), VpcId: &v.id,
		Associations: []ec2types.RouteTableAssociation{{Main: new(true)}},
		Routes:       []ec2types.Route{{DestinationCidrBlock: in.CidrBlock, GatewayId: new("local"), State: ec2types.RouteStateActive}},
	})
	return &ec2.CreateVpcOutput{Vpc: &ec2types.Vpc{VpcId: &v.id, CidrBlock: &v.cidr}}, nil
}

func (f *fakeAWS) vpc(id string) *fakeVPC {
	for _, v := range f.vpcs {
		if v.id == id {
			return v
		}
	}
	return nil
}

func (f *fakeAWS) createSubnet(in *ec2.CreateSubnetInput) (any, error) {
	if f.vpc(*in.VpcId) == nil {
		return nil, newAWSError("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", *in.VpcId)
	}
	id := f.newID("subnet-")
	s := &ec2types.Subnet{
		SubnetId: &id, VpcId: in.VpcId, CidrBlock: in.CidrBlock, AvailabilityZone: in.AvailabilityZone,
		SubnetArn: new("arn:aws:ec2:" + f.region + ":" + f.account + ":subnet/" + id), OwnerId: &f.account,
		State: ec2types.SubnetStateAvailable, AvailableIpAddressCount: new(int32(251)),
	}
	if in.Ipv6CidrBlock != nil {
		s.Ipv6CidrBlockAssociationSet = []ec2types.SubnetIpv6CidrBlockAssociation{{
			Ipv6CidrBlock:      in.Ipv6CidrBlock,
			Ipv6CidrBlockState: &ec2types.SubnetCidrBlockState{State: ec2types.SubnetCidrBlockStateCodeAssociated},
		}}
	}
	for _, t := range in.TagSpecifications {
		s.Tags = append(s.Tags, t.Tags...)
	}
	f.subnets = append(f.subnets, s)
	return &ec2.CreateSubnetOutput{Subnet: s}, nil
}

func (f *fakeAWS) subnet(id string) *ec2types.Subnet {
	for _, s := range f.subnets {
		if *s.SubnetId == id {
			return s
		}
	}
	return nil
}

func (f *fakeAWS) attachInternetGateway(in *ec2.AttachInternetGatewayInput) (any, error) {
	f.vpc(*in.VpcId).gateway = *in.InternetGatewayId
	return &ec2.AttachInternetGatewayOutput{}, nil
}

func (f *fakeAWS) createRoute(in *ec2.CreateRouteInput) (any, error) {
	for _, r := range f.routes {
		if *r.RouteTableId == *in.RouteTableId {
			r.Routes = append(r.Routes, ec2types.Route{
				DestinationCidrBlock: in.DestinationCidrBlock, GatewayId: in.GatewayId, State: ec2types.RouteStateActive,
			})
		}
	}
	return &ec2.CreateRouteOutput{Return: new(true)}, nil
}

func (f *fakeAWS) runInstances(in *ec2.RunInstancesInput) (any, error) {
	s := f.subnet(*in.SubnetId)
	if s == nil {
		return nil, newAWSError("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", *in.SubnetId)
	}
	i := &ec2types.Instance{
		InstanceId: new(f.newID("i-")), SubnetId: in.SubnetId, VpcId: s.VpcId,
		State:     &ec2types.InstanceState{Name: ec2types.InstanceStateNameRunning, Code: new(int32(16))},
		Placement: &ec2types.Placement{AvailabilityZone: s.AvailabilityZone},
	}
	for _, id := range in.SecurityGroupIds {
		i.SecurityGroups = append(i.SecurityGroups, ec2types.GroupIdentifier{GroupId: new(id)})
	}
	f.instances = append(f.instances, i)
	return &ec2.RunInstancesOutput{Instances: []ec2types.Instance{*i}}, nil
}

// terminateInstances: a terminated instance is described for about an hour,
// without a network, and cannot be a target.
func (f *fakeAWS) terminateInstances(in *ec2.TerminateInstancesInput) (any, error) {
	for _, i := range f.instances {
		if slices.Contains(in.InstanceIds, *i.InstanceId) {
			i.State = &ec2types.InstanceState{Name: ec2types.InstanceStateNameTerminated, Code: new(int32(48))}
			i.VpcId, i.SubnetId, i.SecurityGroups = nil, nil, nil
		}
	}
	for _, g := range f.targets {
		g.drain(f.draining, func(t *fakeTarget) bool { return slices.Contains(in.InstanceIds, t.id) })
	}
	return &ec2.TerminateInstancesOutput{}, nil
}

func (f *fakeAWS) instance(id string) *ec2types.Instance {
	for _, i := range f.instances {
		if *i.InstanceId == id {
			return i
		}
	}
	return nil
}

func (f *fakeAWS) describeSubnets(in *ec2.DescribeSubnetsInput) (any, error) {
	for _, id := range in.SubnetIds {
		if f.subnet(id) == nil {
			return nil, newAWSError("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
		}
	}
	var found []ec2types.Subnet
	for _, s := range f.subnets {
		fits, err := matchesFilters(in.Filters, s.Tags, map[string][]string{
			"vpc-id": {*s.VpcId}, "subnet-id": {*s.SubnetId}, "availability-zone": {*s.AvailabilityZone}, "state": {string(s.State)},
		})
		if err != nil {
			return nil, err
		}
		if fits && (len(in.SubnetIds) == 0 || slices.Contains(in.SubnetIds, *s.SubnetId)) {
			found = append(found, *s)
		}
	}
	found, next, err := pageOf(f, found, in.MaxResults, in.NextToken)
	return &ec2.DescribeSubnetsOutput{Subnets: found, NextToken: next}, err
}

func (f *fakeAWS) describeRouteTables(in *ec2.DescribeRouteTablesInput) (any, error) {
	var found []ec2types.RouteTable
	for _, r := range f.routes {
		fits, err := matchesFilters(in.Filters, r.Tags, map[string][]string{"vpc-id": {*r.VpcId}, "route-table-id": {*r.RouteTableId}})
		if err != nil {
			return nil, err
		}
		if fits {
			found = append(found, *r)
		}
	}
	found, next, err := pageOf(f, found, in.MaxResults, in.NextToken)
	return &ec2.DescribeRouteTablesOutput{RouteTables: found, NextToken: next}, err
}

func (f *fakeAWS) describeInstances(in *ec2.DescribeInstancesInput) (any, error) {
	for _, id := range in.InstanceIds {
		if f.instance(id) == nil {
			return nil, newAWSError("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
	}
	var found []ec2types.Reservation
	for _, i := range f.instances {
		values := map[string][]string{"instance-id": {*i.InstanceId}, "instance-state-name": {string(i.State.Name)}, "vpc-id": nil}
		if i.VpcId != nil {
			values["vpc-id"] = []string{*i.VpcId}
		}
		fits, err := matchesFilters(in.Filters, i.Tags, values)
		if err != nil {
			return nil, err
		}
		if fits && (len(in.InstanceIds) == 0 || slices.Contains(in.InstanceIds, *i.InstanceId)) {
			found = append(found, ec2types.Reservation{Instances: []ec2types.Instance{*i}})
		}
	}
	found, next, err := pageOf(f, found, in.MaxResults, in.NextToken)
	return &ec2.DescribeInstancesOutput{Reservations: found, NextToken: next}, err
}

// tag adds or removes tags of EC2 objects.
func (f *fakeAWS) tag(resources []string, tags []ec2types.Tag, remove bool) error {
	for _, id := range resources {
		var list *[]ec2types.Tag
		if s := f.subnet(id); s != nil {
			list = &s.Tags
		} else if i := f.instance(id); i != nil {
			list = &i.Tags
		} else if g := f.group(id); g != nil {
			list = &g.tags
		} else {
			return newAWSError("InvalidID", "The ID '%s' is not valid", id)
		}
		for _, t := range tags {
			*list = slices.DeleteFunc(*list, func(have ec2types.Tag) bool {
				return *have.Key == *t.Key && (!remove || t.Value == nil || *t.Value == *have.Value)
			})
			if !remove {
				*list = append(*list, t)
			}
		}
		if len(*list) > f.quota.tags {
			return newAWSError("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
		}
	}
	return nil
}

// matchesFilters reports whether every filter has a matching value; * and ? are
// wildcards. values are by the names of the supported filters.
func matchesFilters(filters []ec2types.Filter, tags []ec2types.Tag, values map[string][]string) (bool, error) {
	all := maps.Clone(values)
	all["tag-key"] = nil
	for _, t := range tags {
		all["tag:"+*t.Key] = []string{*t.Value}
		all["tag-key"] = append(all["tag-key"], *t.Key)
	}
	for _, filter := range filters {
		have, known := all[*filter.Name]
		if !known && !strings.HasPrefix(*filter.Name, "tag:") {
			return false, newAWSError("InvalidParameterValue", "The filter '%s' is invalid", *filter.Name)
		}
		if len(filter.Values) > 200 {
			return false, newAWSError("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
		}
		if !slices.ContainsFunc(have, func(value string) bool {
			return slices.ContainsFunc(filter.Values, func(pattern string) bool { return glob(pattern, value) })
		}) {
			return false, nil
		}
	}
	return true, nil
}

func glob(pattern, value string) bool {
	expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile("^" + expression + "$").MatchString(value)
}
