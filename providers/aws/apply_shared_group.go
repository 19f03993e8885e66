package aws

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
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
