package aws

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// fakeBalancer is a Network Load Balancer.
type fakeBalancer struct {
	elbtypes.LoadBalancer
	settings     string // fingerprint of the settings at creation, "" after a change
	withGroups   bool   // had security groups at creation
	attributes   map[string]string
	tags         map[string]string
	provisioning int
}

func (f *fakeAWS) doELB(input any) (any, error) {
	switch in := input.(type) {
	case *elb.CreateLoadBalancerInput:
		return f.createLoadBalancer(in)
	case *elb.DescribeLoadBalancersInput:
		return f.describeLoadBalancers(in)
	case *elb.DeleteLoadBalancerInput:
		return f.deleteLoadBalancer(in)
	case *elb.DescribeLoadBalancerAttributesInput:
		return f.describeLoadBalancerAttributes(in)
	case *elb.ModifyLoadBalancerAttributesInput:
		return f.modifyLoadBalancerAttributes(in)
	case *elb.SetSecurityGroupsInput:
		return f.setSecurityGroups(in)
	case *elb.SetSubnetsInput:
		return f.setSubnets(in)
	case *elb.SetIpAddressTypeInput:
		return f.setIPAddressType(in)
	case *elb.DescribeTagsInput:
		return f.describeTags(in)
	case *elb.AddTagsInput:
		return f.addTags(in)
	case *elb.RemoveTagsInput:
		return f.removeTags(in)
	}
	if strings.Contains(reflectName(input), "Listener") {
		return f.doListeners(input)
	}
	return f.doTargets(input)
}

func (f *fakeAWS) balancer(arn *string) (*fakeBalancer, error) {
	for _, b := range f.balancers {
		if *b.LoadBalancerArn == *arn {
			return b, nil
		}
	}
	return nil, newAWSError("LoadBalancerNotFound", "Load balancer '%s' not found", *arn)
}

var fakeNames = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?$`)

func (f *fakeAWS) createLoadBalancer(in *elb.CreateLoadBalancerInput) (any, error) {
	if !fakeNames.MatchString(*in.Name) || strings.HasPrefix(*in.Name, "internal-") {
		return nil, newAWSError("ValidationError", "The load balancer name '%s' is not allowed", *in.Name)
	}
	for _, b := range f.balancers {
		if *b.LoadBalancerName != *in.Name {
			continue
		}
		if b.settings != fingerprint(in) {
			return nil, newAWSError(
				"DuplicateLoadBalancerName", "A load balancer with the same name '%s' exists, but with different settings", *in.Name,
			)
		}
		return &elb.CreateLoadBalancerOutput{LoadBalancers: []elbtypes.LoadBalancer{b.LoadBalancer}}, nil
	}
	if in.Type != elbtypes.LoadBalancerTypeEnumNetwork {
		return nil, newAWSError("ValidationError", "the fake makes only balancers of type network, not '%s'", in.Type)
	}
	if len(f.balancers) >= f.quota.balancers {
		return nil, newAWSError("TooManyLoadBalancers", "The maximum number of load balancers has been reached")
	}
	tags, err := f.newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	path := *in.Name + "/" + f.newID("")[1:]
	b := &fakeBalancer{
		LoadBalancer: elbtypes.LoadBalancer{
			LoadBalancerName: in.Name, Type: in.Type, CreatedTime: &fakeTime, CanonicalHostedZoneId: new("Z2IFOLAFXWLO4F"),
			LoadBalancerArn: new(f.arn("loadbalancer/net/" + path)),
			DNSName:         new(strings.ReplaceAll(path, "/", "-") + ".elb." + f.region + ".amazonaws.com"),
			Scheme:          elbtypes.LoadBalancerSchemeEnumInternetFacing,
			IpAddressType:   elbtypes.IpAddressTypeIpv4,
			State:           &elbtypes.LoadBalancerState{Code: elbtypes.LoadBalancerStateEnumProvisioning},
		},
		settings: fingerprint(in), withGroups: len(in.SecurityGroups) > 0, tags: tags, provisioning: f.provisioning,
	}
	if in.Scheme != "" {
		b.Scheme = in.Scheme
	}
	if in.IpAddressType != "" {
		b.IpAddressType = in.IpAddressType
	}
	if err := f.placeBalancer(b, in.Subnets, in.SubnetMappings); err != nil {
		return nil, err
	}
	if err := f.guardBalancer(b, in.SecurityGroups); err != nil {
		return nil, err
	}
	b.attributes = balancerDefaults(b.Scheme)
	f.balancers = append(f.balancers, b)
	return &elb.CreateLoadBalancerOutput{LoadBalancers: []elbtypes.LoadBalancer{b.LoadBalancer}}, nil
}

// placeBalancer sets the subnets of a load balancer, one for each zone.
func (f *fakeAWS) placeBalancer(b *fakeBalancer, subnets []string, mappings []elbtypes.SubnetMapping) error {
	for _, id := range subnets {
		mappings = append(mappings, elbtypes.SubnetMapping{SubnetId: new(id)})
	}
	if len(mappings) == 0 {
		return newAWSError("ValidationError", "At least one subnet must be specified")
	}
	var zones []elbtypes.AvailabilityZone
	public := b.Scheme == elbtypes.LoadBalancerSchemeEnumInternetFacing
	for _, m := range mappings {
		s := f.subnet(*m.SubnetId)
		switch {
		case s == nil:
			return newAWSError("SubnetNotFound", "The subnet ID '%s' does not exist", *m.SubnetId)
		case b.VpcId != nil && *b.VpcId != *s.VpcId:
			return newAWSError("InvalidConfigurationRequest", "All subnets must belong to the same VPC")
		case public && f.vpc(*s.VpcId).gateway == "":
			return newAWSError("InvalidSubnet", "VPC %s has no internet gateway", *s.VpcId)
		case b.IpAddressType == elbtypes.IpAddressTypeDualstack && len(s.Ipv6CidrBlockAssociationSet) == 0:
			return newAWSError("ValidationError", "You must specify subnets with an associated IPv6 CIDR block.")
		case m.AllocationId != nil && !f.addresses[*m.AllocationId]:
			return newAWSError("AllocationIdNotFound", "The allocation IDs '%s' do not exist", *m.AllocationId)
		case m.AllocationId != nil && !public:
			return newAWSError("InvalidConfigurationRequest", "Elastic IP addresses are for internet-facing load balancers")
		case m.PrivateIPv4Address != nil && public:
			return newAWSError("InvalidConfigurationRequest", "Private IPv4 addresses are for internal load balancers")
		}
		b.VpcId = s.VpcId
		zone := elbtypes.AvailabilityZone{SubnetId: m.SubnetId, ZoneName: s.AvailabilityZone}
		if m.AllocationId != nil || m.PrivateIPv4Address != nil {
			zone.LoadBalancerAddresses = []elbtypes.LoadBalancerAddress{{AllocationId: m.AllocationId, PrivateIPv4Address: m.PrivateIPv4Address}}
		}
		for _, other := range zones {
			if *other.ZoneName == *zone.ZoneName {
				return newAWSError(
					"InvalidConfigurationRequest", "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
				)
			}
		}
		zones = append(zones, zone)
	}
	b.AvailabilityZones = zones
	return nil
}

// guardBalancer sets the security groups of a load balancer.
func (f *fakeAWS) guardBalancer(b *fakeBalancer, groups []string) error {
	if len(groups) > f.quota.groupsPerBalancer {
		return newAWSError("InvalidConfigurationRequest", "You cannot specify more than %d security groups", f.quota.groupsPerBalancer)
	}
	for _, id := range groups {
		if g := f.group(id); g == nil || g.vpc != *b.VpcId {
			return newAWSError("InvalidSecurityGroup", "One or more security groups are invalid: '%s'", id)
		}
	}
	b.SecurityGroups = groups
	return nil
}

func (f *fakeAWS) describeLoadBalancers(in *elb.DescribeLoadBalancersInput) (any, error) {
	var found []*fakeBalancer
	for _, b := range f.balancers {
		if len(in.Names)+len(in.LoadBalancerArns) == 0 || slices.Contains(in.Names, *b.LoadBalancerName) ||
			slices.Contains(in.LoadBalancerArns, *b.LoadBalancerArn) {
			found = append(found, b)
		}
	}
	if len(found) < len(in.Names)+len(in.LoadBalancerArns) {
		return nil, newAWSError("LoadBalancerNotFound", "Load balancers '%v' not found", append(in.Names, in.LoadBalancerArns...))
	}
	found, next, err := pageOf(f, found, in.PageSize, in.Marker)
	if err != nil {
		return nil, err
	}
	out := &elb.DescribeLoadBalancersOutput{NextMarker: next}
	for _, b := range found {
		if b.provisioning--; b.provisioning < 0 && b.State.Code == elbtypes.LoadBalancerStateEnumProvisioning {
			b.State.Code = elbtypes.LoadBalancerStateEnumActive
		}
		out.LoadBalancers = append(out.LoadBalancers, b.LoadBalancer)
	}
	return out, nil
}

// deleteLoadBalancer deletes the listeners as well. The objects that were used
// stay in use for a while.
func (f *fakeAWS) deleteLoadBalancer(in *elb.DeleteLoadBalancerInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return &elb.DeleteLoadBalancerOutput{}, nil // "the call succeeds"
	}
	if b.attributes["deletion_protection.enabled"] == "true" {
		return nil, newAWSError(
			"OperationNotPermitted", "Load balancer '%s' cannot be deleted because deletion protection is enabled", *in.LoadBalancerArn,
		)
	}
	for _, id := range b.SecurityGroups {
		f.group(id).lingering = f.lingering
		f.group(id).lingerer = strings.TrimPrefix(*b.LoadBalancerArn, f.arn("loadbalancer/"))
	}
	for _, l := range slices.Clone(f.listeners) {
		if *l.LoadBalancerArn == *b.LoadBalancerArn {
			f.removeListener(l)
		}
	}
	f.balancers = slices.DeleteFunc(f.balancers, func(other *fakeBalancer) bool { return other == b })
	return &elb.DeleteLoadBalancerOutput{}, nil
}

func (f *fakeAWS) describeLoadBalancerAttributes(in *elb.DescribeLoadBalancerAttributesInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return nil, err
	}
	return &elb.DescribeLoadBalancerAttributesOutput{Attributes: attributeList[elbtypes.LoadBalancerAttribute](b.attributes)}, nil
}

func (f *fakeAWS) modifyLoadBalancerAttributes(in *elb.ModifyLoadBalancerAttributesInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return nil, err
	}
	after, err := changeAttributes(b.attributes, attributeMap(in.Attributes))
	if err != nil {
		return nil, err
	}
	if after["access_logs.s3.enabled"] == "true" && after["access_logs.s3.bucket"] == "" {
		return nil, newAWSError("InvalidConfigurationRequest", "The access log bucket must be specified")
	}
	b.attributes = after
	return &elb.ModifyLoadBalancerAttributesOutput{Attributes: attributeList[elbtypes.LoadBalancerAttribute](after)}, nil
}

// setSecurityGroups fails for a load balancer that was created without groups.
func (f *fakeAWS) setSecurityGroups(in *elb.SetSecurityGroupsInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return nil, err
	}
	if b.withGroups == (len(in.SecurityGroups) == 0) {
		return nil, newAWSError(
			"InvalidConfigurationRequest",
			"Security groups can be set only on a load balancer that was created with some, and not all of them removed",
		)
	}
	before := b.SecurityGroups
	if err := f.guardBalancer(b, in.SecurityGroups); err != nil {
		return nil, err
	}
	for _, id := range before {
		if !slices.Contains(b.SecurityGroups, id) {
			f.group(id).lingering = f.lingering
		}
	}
	b.settings = ""
	enforced := string(in.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic)
	b.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic = new(cmp.Or(enforced, "on")) // an omitted field is set to the default
	return &elb.SetSecurityGroupsOutput{SecurityGroupIds: b.SecurityGroups}, nil
}

func (f *fakeAWS) setSubnets(in *elb.SetSubnetsInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return nil, err
	}
	if err := f.placeBalancer(b, in.Subnets, in.SubnetMappings); err != nil {
		return nil, err
	}
	b.settings = ""
	return &elb.SetSubnetsOutput{AvailabilityZones: b.AvailabilityZones, IpAddressType: b.IpAddressType}, nil
}

func (f *fakeAWS) setIPAddressType(in *elb.SetIpAddressTypeInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return nil, err
	}
	for _, z := range b.AvailabilityZones {
		if in.IpAddressType == elbtypes.IpAddressTypeDualstack && len(f.subnet(*z.SubnetId).Ipv6CidrBlockAssociationSet) == 0 {
			return nil, newAWSError("InvalidSubnet", "Subnet %s has no IPv6 CIDR block", *z.SubnetId)
		}
	}
	b.IpAddressType, b.settings = in.IpAddressType, ""
	return &elb.SetIpAddressTypeOutput{IpAddressType: b.IpAddressType}, nil
}
