package aws

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// errCodeGroupExists is the code of CreateSecurityGroup if the VPC has a group with
// the name.
const errCodeGroupExists = "InvalidGroup.Duplicate"

func (c *Cloud) listSecurityGroups(ctx context.Context, filters []ec2.Filter) ([]ec2.SecurityGroup, error) {
	pages := ec2api.NewDescribeSecurityGroupsPaginator(c.ec2, &ec2api.DescribeSecurityGroupsInput{Filters: filters})
	return listAll(ctx, pages, func(p *ec2api.DescribeSecurityGroupsOutput) []ec2.SecurityGroup { return p.SecurityGroups })
}

// findSecurityGroup returns the ID of the group with the name, "" if there is
// none, and a Refusal if it is not ours.
func (c *Cloud) findSecurityGroup(ctx context.Context, vpc, name string) (id string, err error) {
	groups, err := c.listSecurityGroups(ctx, ec2Filter("group-name", name))
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		// Names are unique within a VPC only.
		if aws.ToString(g.VpcId) != vpc {
			continue
		}
		if !c.ownsSecurityGroup(g) {
			o := unownedObject{"security group", aws.ToString(g.GroupId), tagMap(g.Tags)}
			return "", nameTaken([]unownedObject{o}, map[string]string{
				tagCluster: c.options.Cluster, tagClusterOwned(c.options.Cluster): "owned",
			})
		}
		return aws.ToString(g.GroupId), nil
	}
	return "", nil
}

// checkGroups returns a Refusal if an annotation names security groups that are not in
// the load balancer's VPC. Those that the load balancer has need no call.
func (r *reconciler) checkGroups(ctx context.Context, current *elb.LoadBalancer) error {
	ids := r.result.desired.Groups
	if current != nil {
		ids = subtract(ids, current.SecurityGroups)
	}
	if len(ids) == 0 {
		return nil
	}
	found, err := r.listSecurityGroups(ctx, append(ec2Filter("group-id", ids...), ec2Filter("vpc-id", r.result.vpc)...))
	if err != nil {
		return err
	}
	for _, g := range found {
		ids = subtract(ids, []string{aws.ToString(g.GroupId)})
	}
	if len(ids) > 0 {
		return newRefusal(v1alpha1.InvalidRequest, "annotation %ssecurity-groups: security group %s not found in VPC %s",
			prefix, strings.Join(ids, ", "), r.result.vpc)
	}
	return nil
}

func (c *Cloud) ownsSecurityGroup(g ec2.SecurityGroup) bool {
	return tagMap(g.Tags)[tagCluster] == c.options.Cluster
}

// createSecurityGroup creates a group without rules, with its tags, and returns its
// ID. If a group has the name, the code of the error is errCodeGroupExists.
func (c *Cloud) createSecurityGroup(ctx context.Context, vpc, name string, tags map[string]string) (id string, err error) {
	out, err := callAPI(ctx, c.ec2.CreateSecurityGroup, &ec2api.CreateSecurityGroupInput{
		GroupName: aws.String(name), VpcId: aws.String(vpc),
		Description:       aws.String("Load balancers of Kubernetes cluster " + plainText(c.options.Cluster)),
		TagSpecifications: []ec2.TagSpecification{{ResourceType: ec2.ResourceTypeSecurityGroup, Tags: ec2TagList(tags)}},
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.GroupId), nil
}

// plainText replaces what a description must not contain (CreateSecurityGroup,
// Description).
func plainText(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", r) {
			return r
		}
		return '_'
	}, text)
}

// authorizeIngress adds rules to a group.
func (c *Cloud) authorizeIngress(ctx context.Context, group string, rules []securityRule) error {
	return c.changeIngress(ctx, group, rules, subtract, "InvalidPermission.Duplicate", func(rules []securityRule) error {
		// The group may have been created just before.
		return retryWhile(ctx, errCodeNoGroup, func() error {
			_, err := callAPI(ctx, c.ec2.AuthorizeSecurityGroupIngress, &ec2api.AuthorizeSecurityGroupIngressInput{
				GroupId: aws.String(group), IpPermissions: permissionsOf(rules),
			})
			return err
		})
	})
}

// revokeIngress removes rules from a group.
func (c *Cloud) revokeIngress(ctx context.Context, group string, rules []securityRule) error {
	err := c.changeIngress(ctx, group, rules, intersect, "InvalidPermission.NotFound", func(rules []securityRule) error {
		_, err := callAPI(ctx, c.ec2.RevokeSecurityGroupIngress, &ec2api.RevokeSecurityGroupIngressInput{
			GroupId: aws.String(group), IpPermissions: permissionsOf(rules),
		})
		return err
	})
	if isCode(err, errCodeNoGroup) {
		return nil
	}
	return err
}

// changeIngress makes one call for all rules. AWS refuses the call with the code if
// one of the rules already is as requested, such as after a call without a response.
// Then the group is read, and a call is made for the remaining rules.
func (c *Cloud) changeIngress(
	ctx context.Context, group string, rules []securityRule, remaining func(rules, observed []securityRule) []securityRule,
	code string, change func([]securityRule) error,
) error {
	if len(rules) == 0 {
		return nil
	}
	err := change(rules)
	if !isCode(err, code) {
		return err
	}
	// The response may be older than the rules.
	return retryWhile(ctx, code, func() error {
		var observed []securityRule
		groups, err := c.listSecurityGroups(ctx, ec2Filter("group-id", group))
		for _, g := range groups {
			observed = rulesOf(g.IpPermissions)
		}
		if rest := remaining(rules, observed); err == nil && len(rest) > 0 {
			return change(rest)
		}
		return err
	})
}
