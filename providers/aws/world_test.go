package aws

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// leakedObjects returns all objects of the account except those that it was
// seeded with: load balancers, listeners, target groups, security groups, and
// rules of the nodes' security group.
func (a *account) leakedObjects(t *testing.T) (all []string) {
	t.Helper()
	for _, b := range a.balancers(t) {
		all = append(all, "balancer "+*b.LoadBalancerName)
		for _, l := range a.listeners(t, *b.LoadBalancerArn) {
			all = append(all, fmt.Sprintf("listener %s:%d", *b.LoadBalancerName, *l.Port))
		}
	}
	for _, g := range a.targetGroups(t) {
		all = append(all, "target group "+*g.TargetGroupName)
	}
	var names []string
	for _, g := range a.groups(t) {
		names = append(names, *g.GroupId, *g.GroupName)
		if *g.GroupId == a.nodeGroup {
			for _, r := range ruleTexts(g) {
				all = append(all, "rule of the nodes: "+r)
			}
		} else {
			all = append(all, "security group "+*g.GroupName)
		}
	}
	named := strings.NewReplacer(names...)
	for i := range all {
		all[i] = named.Replace(all[i])
	}
	return sorted(all)
}

// listPages returns the items of all pages.
func listPages[Out, Options, Item any](t *testing.T, pages paginator[Out, Options], items func(*Out) []Item) []Item {
	t.Helper()
	all, err := listAll(t.Context(), pages, items)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (a *account) balancers(t *testing.T) []elbtypes.LoadBalancer {
	t.Helper()
	pages := elb.NewDescribeLoadBalancersPaginator(a.elb, &elb.DescribeLoadBalancersInput{})
	return listPages(t, pages, func(p *elb.DescribeLoadBalancersOutput) []elbtypes.LoadBalancer { return p.LoadBalancers })
}

func (a *account) listeners(t *testing.T, balancer string) []elbtypes.Listener {
	t.Helper()
	pages := elb.NewDescribeListenersPaginator(a.elb, &elb.DescribeListenersInput{LoadBalancerArn: &balancer})
	return listPages(t, pages, func(p *elb.DescribeListenersOutput) []elbtypes.Listener { return p.Listeners })
}

func (a *account) targetGroups(t *testing.T) []elbtypes.TargetGroup {
	t.Helper()
	pages := elb.NewDescribeTargetGroupsPaginator(a.elb, &elb.DescribeTargetGroupsInput{})
	return listPages(t, pages, func(p *elb.DescribeTargetGroupsOutput) []elbtypes.TargetGroup { return p.TargetGroups })
}

// groups returns the security groups of the VPC, without AWS's default group.
func (a *account) groups(t *testing.T) []ec2types.SecurityGroup {
	t.Helper()
	pages := ec2.NewDescribeSecurityGroupsPaginator(a.ec2, &ec2.DescribeSecurityGroupsInput{
		Filters: []ec2types.Filter{{Name: new("vpc-id"), Values: []string{a.vpc}}},
	})
	all := listPages(t, pages, func(p *ec2.DescribeSecurityGroupsOutput) []ec2types.SecurityGroup { return p.SecurityGroups })
	return slices.DeleteFunc(all, func(g ec2types.SecurityGroup) bool { return *g.GroupName == "default" })
}

// targets returns the registered targets that are not draining, as "node:port".
func (a *account) targets(t *testing.T, group string) (all []string) {
	t.Helper()
	for _, d := range get(t, a.elb.DescribeTargetHealth, &elb.DescribeTargetHealthInput{TargetGroupArn: &group}).TargetHealthDescriptions {
		if d.TargetHealth.State != elbtypes.TargetHealthStateEnumDraining {
			node := a.nodes[slices.Index(a.instances, *d.Target.Id)]
			all = append(all, fmt.Sprintf("%s:%d", node.Name, *d.Target.Port))
		}
	}
	return sorted(all)
}

// trafficTargets returns the targets of each port of the load balancer with a
// name, as "node:port".
func (a *account) trafficTargets(t *testing.T, name string) map[int32][]string {
	t.Helper()
	all := map[int32][]string{}
	for _, b := range a.balancers(t) {
		if *b.LoadBalancerName != name {
			continue
		}
		for _, l := range a.listeners(t, *b.LoadBalancerArn) {
			all[*l.Port] = a.targets(t, *l.DefaultActions[0].TargetGroupArn)
		}
	}
	return all
}

// world returns the observable state of the account, in a text that is the same
// in every account: identifiers are replaced by names.
func (a *account) world(t *testing.T) string {
	t.Helper()
	names := []string{a.id, "ACCOUNT", a.vpc, "VPC"}
	for i, id := range a.subnets {
		names = append(names, id, fmt.Sprint("subnet-", i))
	}
	groups := a.groups(t)
	for _, g := range groups {
		names = append(names, *g.GroupId, *g.GroupName)
	}
	targetGroups := a.targetGroups(t)
	for _, g := range targetGroups {
		names = append(names, *g.TargetGroupArn, *g.TargetGroupName)
	}
	var blocks [][]string
	for _, g := range groups {
		block := []string{"security group " + *g.GroupName + groupTags(g.Tags)}
		for _, r := range ruleTexts(g) {
			block = append(block, "rule "+r)
		}
		blocks = append(blocks, block)
	}
	for _, g := range targetGroups {
		blocks = append(blocks, a.targetGroupText(t, g))
	}
	for _, b := range a.balancers(t) {
		blocks = append(blocks, a.balancerText(t, b))
	}
	named := strings.NewReplacer(names...)
	var texts []string
	for _, block := range blocks {
		for i := range block {
			block[i] = named.Replace(block[i])
		}
		slices.Sort(block[1:])
		texts = append(texts, strings.Join(block, "\n  ")+"\n")
	}
	return strings.Join(sorted(texts), "")
}

func (a *account) targetGroupText(t *testing.T, g elbtypes.TargetGroup) []string {
	t.Helper()
	lines := []string{fmt.Sprintf(
		"target group %s %s %d %s%s",
		*g.TargetGroupName, g.Protocol, *g.Port, g.IpAddressType, a.elbTags(t, *g.TargetGroupArn),
	)}
	check := fmt.Sprintf("check %s %s every %d for %d, %d/%d", g.HealthCheckProtocol, *g.HealthCheckPort,
		*g.HealthCheckIntervalSeconds, *g.HealthCheckTimeoutSeconds, *g.HealthyThresholdCount, *g.UnhealthyThresholdCount)
	if g.HealthCheckPath != nil {
		check += " " + *g.HealthCheckPath
	}
	lines = append(lines, check)
	for _, x := range get(
		t, a.elb.DescribeTargetGroupAttributes, &elb.DescribeTargetGroupAttributesInput{TargetGroupArn: g.TargetGroupArn},
	).Attributes {
		lines = append(lines, *x.Key+"="+*x.Value)
	}
	for _, id := range a.targets(t, *g.TargetGroupArn) {
		lines = append(lines, "target "+id)
	}
	return lines
}

func (a *account) balancerText(t *testing.T, b elbtypes.LoadBalancer) []string {
	t.Helper()
	lines := []string{fmt.Sprintf("balancer %s %s %s%s", *b.LoadBalancerName, b.Scheme, b.IpAddressType, a.elbTags(t, *b.LoadBalancerArn))}
	for _, id := range b.SecurityGroups {
		lines = append(lines, "group "+id)
	}
	for _, z := range b.AvailabilityZones {
		lines = append(lines, "in "+*z.SubnetId)
	}
	for _, x := range get(
		t, a.elb.DescribeLoadBalancerAttributes, &elb.DescribeLoadBalancerAttributesInput{LoadBalancerArn: b.LoadBalancerArn},
	).Attributes {
		lines = append(lines, *x.Key+"="+*x.Value)
	}
	for _, l := range a.listeners(t, *b.LoadBalancerArn) {
		line := fmt.Sprintf("listener %s %d to %s%s", l.Protocol, *l.Port, *l.DefaultActions[0].TargetGroupArn, a.elbTags(t, *l.ListenerArn))
		for _, x := range get(t, a.elb.DescribeListenerAttributes, &elb.DescribeListenerAttributesInput{ListenerArn: l.ListenerArn}).Attributes {
			line += " " + *x.Key + "=" + *x.Value
		}
		if l.Protocol == elbtypes.ProtocolEnumTls {
			var certificates []string // moto lists a certificate twice that was added twice
			for _, c := range get(
				t, a.elb.DescribeListenerCertificates, &elb.DescribeListenerCertificatesInput{ListenerArn: l.ListenerArn},
			).Certificates {
				certificates = append(certificates, *c.CertificateArn)
			}
			line += fmt.Sprint(" ", slices.Compact(sorted(certificates)))
		}
		lines = append(lines, line)
	}
	return lines
}

func (a *account) elbTags(t *testing.T, arn string) string {
	t.Helper()
	var all []string
	for _, d := range get(t, a.elb.DescribeTags, &elb.DescribeTagsInput{ResourceArns: []string{arn}}).TagDescriptions {
		for _, tag := range d.Tags {
			all = append(all, *tag.Key+"="+*tag.Value)
		}
	}
	return fmt.Sprint(" ", sorted(all))
}

func groupTags(tags []ec2types.Tag) string {
	var all []string
	for _, tag := range tags {
		all = append(all, *tag.Key+"="+*tag.Value)
	}
	return fmt.Sprint(" ", sorted(all))
}

// ruleTexts returns the ingress rules, one for each source.
func ruleTexts(g ec2types.SecurityGroup) (all []string) {
	for _, p := range g.IpPermissions {
		ports := *p.IpProtocol
		if p.FromPort != nil {
			ports += fmt.Sprintf(" %d-%d", *p.FromPort, *p.ToPort)
		}
		for _, r := range p.IpRanges {
			all = append(all, ports+" from "+*r.CidrIp)
		}
		for _, r := range p.Ipv6Ranges {
			all = append(all, ports+" from "+*r.CidrIpv6)
		}
		for _, r := range p.UserIdGroupPairs {
			all = append(all, ports+" from "+*r.GroupId)
		}
	}
	return sorted(all)
}
