package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/singleflight"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// sharedAge is how long the nodes' security groups are believed to still admit
// the balancers.
const sharedAge = time.Hour

// shared is the security group that all balancers of the cluster have, and
// that the nodes' groups admit: however many Services there are, a node's
// group has three rules.
type shared struct {
	// users holds a read lock while a balancer with the group is being made, so
	// that the deletion of the last one does not take the group away.
	users  sync.RWMutex
	flight singleflight.Group

	mu sync.Mutex
	id string
	at map[string]time.Time // by the nodes' groups for which it was looked at
}

func (s *shared) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.at = "", nil
}

// ensureShared makes sure that the group exists, and that the nodes' groups
// admit it.
func (c *Cloud) ensureShared(ctx context.Context, a *conn, vpc string, instances []instance) (id string, err error) {
	s := &c.shared
	candidates := c.options.NodeSecurityGroups
	if len(candidates) == 0 {
		for _, i := range instances {
			candidates = append(slices.Clone(candidates), i.Groups...)
		}
	}
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	key := strings.Join(candidates, " ")
	if !c.options.ManageNodeSecurityGroups {
		key = ""
	}
	if id := s.known(key); id != "" {
		return id, nil
	}
	err = once(ctx, &s.flight, key, func(ctx context.Context) error {
		own := map[string]string{tagCluster: c.options.Cluster, tagClusterOwned(c.options.Cluster): "owned", tagName: "shared by all load balancers of " + c.options.Cluster}
		id, err := c.securityGroup(ctx, a, vpc, c.names.backend(), own)
		if err == nil && c.options.ManageNodeSecurityGroups {
			err = c.admit(ctx, a, id, candidates, instances)
		}
		if err == nil {
			s.learn(id, key)
		}
		return err
	})
	return s.known(key), err
}

// known is the group's ID if it was looked at for these nodes' groups.
func (s *shared) known(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at[key]) < sharedAge {
		return s.id
	}
	return ""
}

func (s *shared) learn(id, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.at = id, put(s.at, key, time.Now())
}

// admit lets the shared group into the nodes' groups.
func (c *Cloud) admit(ctx context.Context, a *conn, id string, candidates []string, instances []instance) error {
	if len(candidates) == 0 {
		return nil
	}
	groups, err := c.securityGroups(ctx, a, filter("group-id", candidates...))
	if err != nil {
		return err
	}
	find := func(group string) *ec2.SecurityGroup {
		i := slices.IndexFunc(groups, func(g ec2.SecurityGroup) bool { return aws.ToString(g.GroupId) == group })
		if i < 0 {
			return nil
		}
		return &groups[i]
	}
	chosen := c.options.NodeSecurityGroups
	if len(chosen) == 0 {
		chosen = nodeGroups(instances, func(group string) bool {
			g := find(group)
			return g != nil && tagsOf(g.Tags)[tagClusterOwned(c.options.Cluster)] != ""
		})
	}
	for _, group := range chosen {
		g := find(group)
		if g == nil {
			return &v1alpha1.Refusal{Reason: v1alpha1.CloudNotConfigured, Message: fmt.Sprintf("--aws-node-security-groups: there is no security group %s", group)}
		}
		if err := c.authorize(ctx, a, group, without(nodeRules(id, c.settings.NodePorts), rulesOf(g.IpPermissions))); err != nil {
			return err
		}
	}
	return nil
}

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

func taken(kind, name string) error {
	return &v1alpha1.Refusal{Reason: v1alpha1.NameTaken, Message: fmt.Sprintf("there is a %s %s without our tags: it is not ours, and is left alone", kind, name)}
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

// patient tries again for some seconds while what was just made is not known
// everywhere.
func patient(ctx context.Context, code string, do func() error) error {
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		err := do()
		if !isCode(err, code) || wait > 4*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// deleteShared removes the group, and the rules that admit it, after the last
// balancer. It does nothing while a balancer is left, and does not wait for one
// that is being made.
func (c *Cloud) deleteShared(ctx context.Context, a *conn) error {
	any := func(string) bool { return true }
	if left, err := c.listBalancers(ctx, a, any); err != nil || len(left) > 0 {
		return err
	}
	if !c.shared.users.TryLock() {
		return fmt.Errorf("security group %s: %w", c.names.backend(), errInUse)
	}
	defer c.shared.users.Unlock()
	c.inventory.balancers.forget() // what follows cuts off whatever balancer there is
	if left, err := c.listBalancers(ctx, a, any); err != nil || len(left) > 0 {
		return err
	}
	groups, err := c.securityGroups(ctx, a, filter("group-name", c.names.backend()))
	if err != nil {
		return err
	}
	c.shared.forget()
	for _, g := range groups {
		if err := c.ownedGroup(g); err != nil {
			return nil //nolint:nilerr // somebody else's: nothing to do
		}
		id := aws.ToString(g.GroupId)
		admitting, err := c.securityGroups(ctx, a, filter("ip-permission.group-id", id))
		if err != nil {
			return err
		}
		for _, n := range admitting {
			admitted := slices.DeleteFunc(rulesOf(n.IpPermissions), func(r rule) bool { return r.Source != id })
			if err := c.revoke(ctx, a, aws.ToString(n.GroupId), admitted); err != nil {
				return err
			}
		}
		if err := c.deleteGroup(ctx, a, id); err != nil {
			return err
		}
	}
	return nil
}

// errInUse: AWS has not let go of what used the object.
var errInUse = errors.New("still in use")

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

func ec2TagList(tags map[string]string) (all []ec2.Tag) {
	for k, v := range tags {
		all = append(all, ec2.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	return all
}
