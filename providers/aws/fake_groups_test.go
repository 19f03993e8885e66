package aws

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// fakeGroup is a security group.
type fakeGroup struct {
	id, name, vpc, description string
	tags                       []ec2types.Tag
	rules                      []fakeRule
	unknown                    int    // number of calls for which it is not known yet
	lingering                  int    // number of deletions that fail because of interfaces of a deleted load balancer
	lingerer                   string // that load balancer, as in the descriptions of its interfaces
}

// fakeRule is one permission for one source.
type fakeRule struct {
	protocol    string
	from, to    int32
	source      string // prefix, or group
	description string
}

func (r fakeRule) same(s fakeRule) bool {
	r.description = s.description
	return r == s
}

func (f *fakeAWS) group(id string) *fakeGroup {
	for _, g := range f.groups {
		if g.id == id {
			return g
		}
	}
	return nil
}

// knownGroup returns the group, if it is known everywhere.
func (f *fakeAWS) knownGroup(id *string) (*fakeGroup, error) {
	if id == nil {
		return nil, newAWSError("MissingParameter", "The request must contain the parameter groupId")
	}
	g := f.group(*id)
	if g == nil || g.unknown > 0 {
		if g != nil {
			g.unknown--
		}
		return nil, newAWSError("InvalidGroup.NotFound", "The security group '%s' does not exist", *id)
	}
	return g, nil
}

func (f *fakeAWS) createSecurityGroup(in *ec2.CreateSecurityGroupInput) (any, error) {
	v := f.vpc(*in.VpcId)
	switch {
	case v == nil:
		return nil, newAWSError("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", *in.VpcId)
	case len(*in.GroupName) > 255 || strings.HasPrefix(*in.GroupName, "sg-"):
		return nil, newAWSError("InvalidParameterValue", "Invalid value '%s' for groupName", *in.GroupName)
	case in.Description == nil || *in.Description == "" || !descriptionAllowed(*in.Description):
		return nil, newAWSError("InvalidParameterValue", "Value for parameter GroupDescription is invalid")
	case len(f.groups) >= f.quota.groups:
		return nil, newAWSError("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached.")
	}
	for _, g := range f.groups {
		if g.vpc == v.id && g.name == *in.GroupName {
			return nil, newAWSError("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", g.name, v.id)
		}
	}
	g := &fakeGroup{id: f.newID("sg-"), name: *in.GroupName, vpc: v.id, description: *in.Description, unknown: f.unknown}
	for _, t := range in.TagSpecifications {
		if t.ResourceType != ec2types.ResourceTypeSecurityGroup {
			return nil, newAWSError("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", t.ResourceType)
		}
		g.tags = append(g.tags, t.Tags...)
	}
	f.groups = append(f.groups, g)
	return &ec2.CreateSecurityGroupOutput{GroupId: &g.id, Tags: g.tags}, nil
}

// descriptionAllowed reports whether AWS accepts the characters of a
// description.
func descriptionAllowed(text string) bool {
	return len(text) <= 255 && !strings.ContainsFunc(text, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", r))
	})
}

func (f *fakeAWS) deleteSecurityGroup(in *ec2.DeleteSecurityGroupInput) (any, error) {
	g := f.group(*in.GroupId)
	if g == nil {
		return nil, newAWSError("InvalidGroup.NotFound", "The security group '%s' does not exist", *in.GroupId)
	}
	used := slices.ContainsFunc(f.balancers, func(b *fakeBalancer) bool { return slices.Contains(b.SecurityGroups, g.id) }) ||
		slices.ContainsFunc(f.instances, func(i *ec2types.Instance) bool {
			return slices.ContainsFunc(i.SecurityGroups, func(s ec2types.GroupIdentifier) bool { return *s.GroupId == g.id })
		}) ||
		slices.ContainsFunc(f.groups, func(other *fakeGroup) bool {
			return other != g && slices.ContainsFunc(other.rules, func(r fakeRule) bool { return r.source == g.id })
		})
	if used || g.lingering > 0 {
		if !used {
			g.lingering--
		}
		return nil, newAWSError("DependencyViolation", "resource %s has a dependent object", g.id)
	}
	f.groups = slices.DeleteFunc(f.groups, func(other *fakeGroup) bool { return other == g })
	return &ec2.DeleteSecurityGroupOutput{Return: new(true), GroupId: &g.id}, nil
}

// rulesOf converts permissions into rules with one source each.
func (f *fakeAWS) rulesOf(permissions []ec2types.IpPermission) (all []fakeRule, err error) {
	for _, p := range permissions {
		r := fakeRule{protocol: *p.IpProtocol}
		if p.FromPort != nil && r.protocol != "-1" {
			r.from, r.to = *p.FromPort, *p.ToPort
		}
		add := func(source string, description *string) {
			r := r
			r.source = source
			if description != nil {
				r.description = *description
			}
			all = append(all, r)
		}
		for _, s := range p.IpRanges {
			prefix, err := netip.ParsePrefix(*s.CidrIp)
			if err != nil || !prefix.Addr().Is4() {
				return nil, newAWSError("InvalidParameterValue", "CIDR block %s is malformed", *s.CidrIp)
			}
			add(prefix.Masked().String(), s.Description)
		}
		for _, s := range p.Ipv6Ranges {
			prefix, err := netip.ParsePrefix(*s.CidrIpv6)
			if err != nil || !prefix.Addr().Is6() {
				return nil, newAWSError("InvalidParameterValue", "CIDR block %s is malformed", *s.CidrIpv6)
			}
			add(prefix.Masked().String(), s.Description)
		}
		for _, s := range p.UserIdGroupPairs {
			if _, err := f.knownGroup(s.GroupId); err != nil {
				return nil, err
			}
			add(*s.GroupId, s.Description)
		}
	}
	if len(all) == 0 {
		return nil, newAWSError("MissingParameter", "Source group or CIDR must be specified")
	}
	for _, r := range all {
		if r.description != "" && !descriptionAllowed(r.description) {
			return nil, newAWSError("InvalidParameterValue", "Invalid rule description")
		}
	}
	return all, nil
}

func (f *fakeAWS) authorizeIngress(in *ec2.AuthorizeSecurityGroupIngressInput) (any, error) {
	g, err := f.knownGroup(in.GroupId)
	if err != nil {
		return nil, err
	}
	added, err := f.rulesOf(in.IpPermissions)
	if err != nil {
		return nil, err
	}
	rules := slices.Clone(g.rules)
	for _, r := range added {
		if slices.ContainsFunc(rules, r.same) {
			return nil, newAWSError("InvalidPermission.Duplicate", "the specified rule already exists")
		}
		rules = append(rules, r)
	}
	// The limit applies to each family separately.
	var v4, v6 int
	for _, r := range rules {
		if strings.Contains(r.source, ":") {
			v6++
		} else {
			v4++
		}
	}
	if max(v4, v6) > f.quota.rules {
		return nil, newAWSError("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	g.rules = rules
	return &ec2.AuthorizeSecurityGroupIngressOutput{Return: new(true)}, nil
}

func (f *fakeAWS) revokeIngress(in *ec2.RevokeSecurityGroupIngressInput) (any, error) {
	g, err := f.knownGroup(in.GroupId)
	if err != nil {
		return nil, err
	}
	removed, err := f.rulesOf(in.IpPermissions)
	if err != nil {
		return nil, err
	}
	rules := slices.Clone(g.rules)
	for _, r := range removed {
		at := slices.IndexFunc(rules, r.same)
		if at < 0 {
			return nil, newAWSError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
		}
		rules = slices.Delete(rules, at, at+1)
	}
	g.rules = rules
	return &ec2.RevokeSecurityGroupIngressOutput{Return: new(true)}, nil
}

func (f *fakeAWS) describeSecurityGroups(in *ec2.DescribeSecurityGroupsInput) (any, error) {
	for _, id := range in.GroupIds {
		if _, err := f.knownGroup(&id); err != nil {
			return nil, err
		}
	}
	var found []ec2types.SecurityGroup
	for _, g := range f.groups {
		var sources []string // groups and prefixes
		for _, r := range g.rules {
			sources = append(sources, r.source)
		}
		fits, err := matchesFilters(in.Filters, g.tags, map[string][]string{
			"vpc-id": {g.vpc}, "group-id": {g.id}, "group-name": {g.name}, "description": {g.description},
			"ip-permission.group-id": sources,
		})
		if err != nil {
			return nil, err
		}
		if fits && (len(in.GroupIds) == 0 || slices.Contains(in.GroupIds, g.id)) {
			found = append(found, f.describeGroup(g))
		}
	}
	found, next, err := pageOf(f, found, in.MaxResults, in.NextToken)
	return &ec2.DescribeSecurityGroupsOutput{SecurityGroups: found, NextToken: next}, err
}

// describeGroup merges the rules for the same ports, as AWS does.
func (f *fakeAWS) describeGroup(g *fakeGroup) ec2types.SecurityGroup {
	described := ec2types.SecurityGroup{
		GroupId: &g.id, GroupName: &g.name, VpcId: &g.vpc, Description: &g.description, OwnerId: &f.account, Tags: g.tags,
		SecurityGroupArn: new("arn:aws:ec2:" + f.region + ":" + f.account + ":security-group/" + g.id),
	}
	for _, r := range g.rules {
		same := func(p ec2types.IpPermission) bool {
			return *p.IpProtocol == r.protocol && (p.FromPort == nil || *p.FromPort == r.from && *p.ToPort == r.to)
		}
		at := slices.IndexFunc(described.IpPermissions, same)
		if at < 0 {
			p := ec2types.IpPermission{IpProtocol: &r.protocol}
			if r.protocol != "-1" {
				p.FromPort, p.ToPort = &r.from, &r.to
			}
			at = len(described.IpPermissions)
			described.IpPermissions = append(described.IpPermissions, p)
		}
		p := &described.IpPermissions[at]
		var description *string
		if r.description != "" {
			description = &r.description
		}
		switch {
		case strings.HasPrefix(r.source, "sg-"):
			p.UserIdGroupPairs = append(
				p.UserIdGroupPairs, ec2types.UserIdGroupPair{GroupId: &r.source, UserId: &f.account, Description: description},
			)
		case strings.Contains(r.source, ":"):
			p.Ipv6Ranges = append(p.Ipv6Ranges, ec2types.Ipv6Range{CidrIpv6: &r.source, Description: description})
		default:
			p.IpRanges = append(p.IpRanges, ec2types.IpRange{CidrIp: &r.source, Description: description})
		}
	}
	return described
}

// describeInterfaces returns one interface of each instance, and of each deleted load
// balancer that keeps a group.
func (f *fakeAWS) describeInterfaces(in *ec2.DescribeNetworkInterfacesInput) (any, error) {
	var all []ec2types.NetworkInterface
	for _, i := range f.instances {
		all = append(all, ec2types.NetworkInterface{
			NetworkInterfaceId: new("eni-" + strings.TrimPrefix(*i.InstanceId, "i-")), Groups: i.SecurityGroups,
			Attachment: &ec2types.NetworkInterfaceAttachment{InstanceId: i.InstanceId},
		})
	}
	for _, g := range f.groups {
		if g.lingering > 0 {
			all = append(all, ec2types.NetworkInterface{
				NetworkInterfaceId: new("eni-" + strings.TrimPrefix(g.id, "sg-")), RequesterId: new("amazon-elb"),
				Description: new("ELB " + g.lingerer), Groups: []ec2types.GroupIdentifier{{GroupId: &g.id}},
			})
		}
	}
	var found []ec2types.NetworkInterface
	for _, n := range all {
		var groups []string
		for _, g := range n.Groups {
			groups = append(groups, *g.GroupId)
		}
		fits, err := matchesFilters(in.Filters, nil, map[string][]string{"group-id": groups})
		if err != nil {
			return nil, err
		}
		if fits {
			found = append(found, n)
		}
	}
	found, next, err := pageOf(f, found, in.MaxResults, in.NextToken)
	return &ec2.DescribeNetworkInterfacesOutput{NetworkInterfaces: found, NextToken: next}, err
}
