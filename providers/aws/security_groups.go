package aws

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// securityGroup finds the group of a name, or makes it.
func (c *Cloud) securityGroup(ctx context.Context, a *conn, vpc, name string, tags map[string]string) (id string, err error) {
	if id, err = c.findGroup(ctx, a, vpc, name); id != "" || err != nil {
		return id, err
	}
	return c.createGroup(ctx, a, vpc, name, tags)
}

// findGroup is "" if there is no such group, and an error if it is not ours.
func (c *Cloud) findGroup(ctx context.Context, a *conn, vpc, name string) (id string, err error) {
	groups, err := c.securityGroups(ctx, a, filter("group-name", name))
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		if aws.ToString(g.VpcId) == vpc {
			return aws.ToString(g.GroupId), c.ownedGroup(g)
		}
	}
	return "", nil
}

func (c *Cloud) createGroup(ctx context.Context, a *conn, vpc, name string, tags map[string]string) (id string, err error) {
	out, err := call(ctx, a.ec2.CreateSecurityGroup, &ec2api.CreateSecurityGroupInput{
		GroupName: aws.String(name), VpcId: aws.String(vpc), Description: aws.String("Load balancers of Kubernetes cluster " + plain(c.options.Cluster)),
		TagSpecifications: []ec2.TagSpecification{{ResourceType: ec2.ResourceTypeSecurityGroup, Tags: ec2TagList(tags)}},
	})
	if isCode(err, "InvalidGroup.Duplicate") {
		// Ours, from a call whose answer was lost; or somebody's.
		found, findErr := c.findGroup(ctx, a, vpc, name)
		if found != "" || findErr != nil {
			return found, findErr
		}
	}
	if err != nil {
		return "", err
	}
	return aws.ToString(out.GroupId), nil
}

// plain keeps what a description may have (CreateSecurityGroup, Description).
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(" ._-:/()#,@[]+=&;{}!$*", r)) {
			return r
		}
		return '_'
	}, text)
}

func (c *Cloud) ownedGroup(g ec2.SecurityGroup) error {
	if tagsOf(g.Tags)[tagCluster] != c.options.Cluster {
		return taken("security group", aws.ToString(g.GroupName))
	}
	return nil
}

func (c *Cloud) securityGroups(ctx context.Context, a *conn, filters []ec2.Filter) (all []ec2.SecurityGroup, err error) {
	pages := ec2api.NewDescribeSecurityGroupsPaginator(a.ec2, &ec2api.DescribeSecurityGroupsInput{Filters: filters})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		all = append(all, page.SecurityGroups...)
	}
	return all, nil
}

// authorize adds rules.
func (c *Cloud) authorize(ctx context.Context, a *conn, group string, all []rule) error {
	return oneByOne(all, "InvalidPermission.Duplicate", func(rules []rule) error {
		return patient(ctx, "InvalidGroup.NotFound", func() error {
			_, err := call(ctx, a.ec2.AuthorizeSecurityGroupIngress, &ec2api.AuthorizeSecurityGroupIngressInput{GroupId: aws.String(group), IpPermissions: permissions(rules)})
			return err
		})
	})
}

// revoke removes rules.
func (c *Cloud) revoke(ctx context.Context, a *conn, group string, all []rule) error {
	err := oneByOne(all, "InvalidPermission.NotFound", func(rules []rule) error {
		_, err := call(ctx, a.ec2.RevokeSecurityGroupIngress, &ec2api.RevokeSecurityGroupIngressInput{GroupId: aws.String(group), IpPermissions: permissions(rules)})
		return err
	})
	if isCode(err, "InvalidGroup.NotFound") {
		return nil
	}
	return err
}

// oneByOne makes a call with all rules. One for which there is nothing to do
// fails the call for all, so then each goes for itself.
func oneByOne(all []rule, done string, do func([]rule) error) error {
	if len(all) == 0 {
		return nil
	}
	err := do(all)
	if !isCode(err, done) {
		return err
	}
	for _, r := range all {
		if err := do([]rule{r}); err != nil && !isCode(err, done) {
			return err
		}
	}
	return nil
}

func (c *Cloud) deleteGroup(ctx context.Context, a *conn, id string) error {
	_, err := call(ctx, a.ec2.DeleteSecurityGroup, &ec2api.DeleteSecurityGroupInput{GroupId: aws.String(id)})
	switch {
	case isCode(err, "InvalidGroup.NotFound"):
		return nil
	case isCode(err, "DependencyViolation", "InvalidGroup.InUse"):
		return fmt.Errorf("security group %s: %w", id, errInUse)
	}
	return err
}
