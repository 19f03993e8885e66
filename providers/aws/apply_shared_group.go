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
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/singleflight"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// sharedGroup is the security group that all load balancers of the cluster have,
// and that the nodes' groups admit: a node's group has three rules, however many
// Services there are.
type sharedGroup struct {
	// users has a read lock while a load balancer with the group is created, so
	// that the deletion of the last one does not delete the group.
	users  sync.RWMutex
	maxAge time.Duration // of a check
	retry  time.Duration // after the first refused check, later twice as long each time
	flight singleflight.Group

	mu      sync.Mutex
	id      string                   // that the last check found
	checked map[string]checkedGroup  // by the VPC and the nodes' groups that were checked
	refused map[string]refusedChecks // likewise, until a check succeeds
}

// checkedGroup is the ID of the group in a VPC, and when it was checked.
type checkedGroup struct {
	id string
	at time.Time
}

// refusedChecks are checks that AWS has refused. Each Service of the cluster needs them.
type refusedChecks struct {
	err   error
	count int
	until time.Time // when the next check is made
}

// minCheckRetry and maxCheckRetry are the bounds of the backoff after a refused check.
const minCheckRetry, maxCheckRetry = 5 * time.Second, 5 * time.Minute

// invalidate makes the next sync look the group up and check the nodes' groups
// again.
func (s *sharedGroup) invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked, s.refused = nil, nil
}

// refusal returns the error of the last check of these groups of nodes while the next one is
// not due, nil otherwise.
func (s *sharedGroup) refusal(nodeGroups string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.refused[nodeGroups]; time.Now().Before(r.until) {
		return r.err
	}
	return nil
}

// storeResult records the result of a check.
func (s *sharedGroup) storeResult(id, nodeGroups string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.id, s.checked = id, put(s.checked, nodeGroups, checkedGroup{id, time.Now()})
		delete(s.refused, nodeGroups)
	case errors.As(asRefusal(err), new(*v1alpha1.Refusal)):
		r := s.refused[nodeGroups]
		wait := min(s.retry<<min(r.count, 10), maxCheckRetry)
		s.refused = put(s.refused, nodeGroups, refusedChecks{err, r.count + 1, time.Now().Add(wait)})
	}
}

// get returns the group's ID if it was checked for these groups of nodes.
func (s *sharedGroup) get(nodeGroups string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.checked[nodeGroups]; time.Since(c.at) < s.maxAge {
		return c.id
	}
	return ""
}

// lastID returns the ID that the last check found, however long ago.
func (s *sharedGroup) lastID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// ensureSharedGroup creates the group, and makes the nodes' groups admit it.
func (c *Cloud) ensureSharedGroup(ctx context.Context, vpc string, instances []instance) (id string, err error) {
	s := &c.sharedGroup
	// The groups of the flag are authoritative; the instances are those of one
	// Service, which may have selected some nodes only.
	nodeGroups := slices.Clone(c.options.NodeSecurityGroups)
	if len(nodeGroups) == 0 {
		for _, i := range instances {
			nodeGroups = append(nodeGroups, i.Groups...)
		}
	}
	slices.Sort(nodeGroups)
	nodeGroups = slices.Compact(nodeGroups)
	key := vpc
	// Otherwise the result does not depend on the nodes, and one check serves all of
	// them.
	if c.options.ManageNodeSecurityGroups {
		key += " " + strings.Join(nodeGroups, " ")
	}
	if id := s.get(key); id != "" {
		return id, nil
	}
	if err := s.refusal(key); err != nil {
		return "", err
	}
	err = callOnce(ctx, &s.flight, key, func(ctx context.Context) error {
		id, err := c.findSecurityGroup(ctx, vpc, c.names.sharedGroup())
		if id == "" && err == nil {
			id, err = c.createSharedGroup(ctx, vpc)
		}
		if err == nil && c.options.ManageNodeSecurityGroups {
			err = c.admitSharedGroup(ctx, id, nodeGroups, instances)
		}
		s.storeResult(id, key, err)
		return err
	})
	if err != nil {
		return "", err
	}
	// The check may be another caller's: callOnce returns only the error.
	if id := s.get(key); id != "" {
		return id, nil
	}
	return "", fmt.Errorf("security group %s: invalidated during its check", c.names.sharedGroup())
}

// createSharedGroup creates the group without rules, and returns its ID.
func (c *Cloud) createSharedGroup(ctx context.Context, vpc string) (id string, err error) {
	// The tag kubernetes.io/cluster/NAME lets installers delete the group with the
	// cluster. No tag names a Service, because none of them owns the group.
	id, err = c.createSecurityGroup(ctx, vpc, c.names.sharedGroup(), map[string]string{
		tagCluster: c.options.Cluster, tagClusterOwned(c.options.Cluster): "owned",
		tagName: "shared by all load balancers of " + c.options.Cluster,
	})
	// Another process has created it, or the response of the call was lost.
	if isCode(err, errCodeGroupExists) {
		if found, findErr := c.findSecurityGroup(ctx, vpc, c.names.sharedGroup()); found != "" || findErr != nil {
			return found, findErr
		}
	}
	return id, err
}

// admitSharedGroup adds rules to the nodes' groups that admit the shared one.
func (c *Cloud) admitSharedGroup(ctx context.Context, id string, nodeGroups []string, instances []instance) error {
	if len(nodeGroups) == 0 {
		return nil
	}
	groups, err := c.listSecurityGroups(ctx, ec2Filter("group-id", nodeGroups...))
	if err != nil {
		return err
	}
	byID := map[string]ec2.SecurityGroup{}
	for _, g := range groups {
		byID[aws.ToString(g.GroupId)] = g
	}
	selected := c.options.NodeSecurityGroups
	// An instance may have several groups. The tag of the cluster marks the one to
	// change.
	if len(selected) == 0 {
		selected = selectNodeGroups(instances, func(group string) bool {
			return tagMap(byID[group].Tags)[tagClusterOwned(c.options.Cluster)] != ""
		})
	}
	for _, group := range selected {
		g, exists := byID[group]
		// An instance was read when it still had the group (retryIfGone).
		if !exists && len(c.options.NodeSecurityGroups) == 0 {
			return &callError{action: "DescribeSecurityGroups", code: errCodeNoGroup, message: "an instance has group " + group}
		}
		if !exists {
			return newRefusal(v1alpha1.CloudNotConfigured, "--aws-node-security-groups: security group %s not found", group)
		}
		if err := c.authorizeIngress(ctx, group, subtract(nodeRules(id, c.settings.NodePorts), rulesOf(g.IpPermissions))); err != nil {
			return explainFullGroup(err, group, "nodes")
		}
	}
	return nil
}

// deleteSharedGroup deletes the group, and the rules that admit it, after the
// last load balancer. It does nothing while a load balancer is left, and does not
// wait for one that is being created.
func (c *Cloud) deleteSharedGroup(ctx context.Context) error {
	all := func(string) bool { return true }
	// The cached list is enough to see that others are left, which is the usual
	// case.
	if left, err := c.loadBalancers.match(ctx, all); err != nil || len(left) > 0 {
		return err
	}
	// A waiting deletion would block its worker for as long as another Service's
	// calls take. errInUse makes the caller retry.
	if !c.sharedGroup.users.TryLock() {
		return fmt.Errorf("security group %s: %w", c.names.sharedGroup(), errInUse)
	}
	defer c.sharedGroup.users.Unlock()
	c.loadBalancers.invalidate() // what follows would disconnect every load balancer
	if left, err := c.loadBalancers.match(ctx, all); err != nil || len(left) > 0 {
		return err
	}
	groups, err := c.listSecurityGroups(ctx, ec2Filter("group-name", c.names.sharedGroup()))
	if err != nil {
		return err
	}
	// The next load balancer must not find the ID of a deleted group.
	c.sharedGroup.invalidate()
	for _, g := range groups {
		// Another object has the name, or the tag was removed: the group stays, and so
		// do the rules that refer to it.
		if !c.ownsSecurityGroup(g) {
			c.log.Warn("shared security group not deleted: it does not have the tag of the cluster",
				"group", aws.ToString(g.GroupId), "tag", tagCluster+"="+c.options.Cluster)
			return nil
		}
		id := aws.ToString(g.GroupId)
		// EC2 refuses to delete a group that a rule of another group refers to
		// (DependencyViolation).
		admitting, err := c.listSecurityGroups(ctx, ec2Filter("ip-permission.group-id", id))
		if err != nil {
			return err
		}
		for _, n := range admitting {
			if others := c.otherRules(n, id); len(others) > 0 {
				c.log.Warn("shared security group not deleted: a rule that Fairlead has not made refers to it",
					"group", id, "referring", aws.ToString(n.GroupId), "rule", others[0].String())
				return nil
			}
		}
		for _, n := range admitting {
			if err := c.revokeIngress(ctx, aws.ToString(n.GroupId), nodeRules(id, c.settings.NodePorts)); err != nil {
				return err
			}
		}
		if err := c.deleteSecurityGroup(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// otherRules returns the rules of a security group that admit the shared one and that are
// not those of this controller.
func (c *Cloud) otherRules(g ec2.SecurityGroup, shared string) []securityRule {
	rules := slices.DeleteFunc(rulesOf(g.IpPermissions), func(r securityRule) bool { return r.Source != shared })
	if c.options.ManageNodeSecurityGroups {
		return subtract(rules, nodeRules(shared, c.settings.NodePorts))
	}
	return rules
}
