package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// groupRules are rules of one security group.
type groupRules struct {
	group string
	rules []securityRule
}

// readSecurityGroups adds the security groups that were created for the Service to the
// observed stack.
func (r *reconciler) readSecurityGroups(ctx context.Context) error {
	var names []string
	// All names that the Service's groups can have are requested in one call, by a
	// filter; groups that do not exist are left out.
	for i := range maxGroups {
		names = append(names, r.names.securityGroup(r.svc.UID, i))
	}
	groups, err := r.listSecurityGroups(ctx, ec2Filter("group-name", names...))
	for _, g := range groups {
		o := unownedObject{"security group", aws.ToString(g.GroupId), tagMap(g.Tags)}
		switch {
		case r.ownsObject(o.tags):
			r.observed.security = append(r.observed.security, g)
		// Group names are unique within a VPC only: a foreign group of another VPC can
		// have one of the names. One of this VPC is refused by createSecurityGroup.
		case o.isMarked(ownTags(r.options.Cluster, r.svc)):
			r.observed.unowned = append(r.observed.unowned, o)
		}
	}
	return err
}

// ensureSecurityGroups creates the load balancer's security groups, adds the
// rules that they lack, and returns the IDs of all its groups. Superfluous rules
// are revoked when the load balancer has all groups.
func (r *reconciler) ensureSecurityGroups(ctx context.Context, instances []instance) (ids []string, err error) {
	desired := r.result.desired
	// A load balancer that was created without groups cannot get any later
	// (SetSecurityGroups), so none is created for it.
	if desired.NoGroups {
		return nil, nil
	}
	ids = slices.Clone(desired.Groups)
	observed := make([][]securityRule, maxGroups)
	for i := range observed {
		if g := r.ownGroup(r.names.securityGroup(r.svc.UID, i)); g != nil {
			observed[i] = rulesOf(g.IpPermissions)
		}
	}
	for i, rules := range placeRules(desired.Rules, observed) {
		// A group without rules is not needed. If it exists, deleteRulesAndGroups
		// deletes it.
		if len(rules) == 0 {
			continue
		}
		name := r.names.securityGroup(r.svc.UID, i)
		id, err := r.ensureOwnGroup(ctx, name, observed[i], rules)
		if err != nil {
			return nil, err
		}
		ids, r.usedGroups = append(ids, id), append(r.usedGroups, name)
	}
	// The nodes' groups admit the shared group, so a load balancer without it would
	// not reach its targets.
	if desired.Backend {
		id, err := r.ensureSharedGroup(ctx, r.result.vpc, instances)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// ownGroup returns the Service's security group with the name, nil if there is none.
func (r *reconciler) ownGroup(name string) *ec2.SecurityGroup {
	i := slices.IndexFunc(r.observed.security, func(g ec2.SecurityGroup) bool { return aws.ToString(g.GroupName) == name })
	if i < 0 {
		return nil
	}
	return &r.observed.security[i]
}

// ensureOwnGroup creates one of the Service's groups with the rules, or adds those
// that it lacks, and returns its ID.
func (r *reconciler) ensureOwnGroup(ctx context.Context, name string, observed, desired []securityRule) (id string, err error) {
	tags := r.desiredTags("")
	g := r.ownGroup(name)
	if g == nil {
		if id, err = r.createSecurityGroup(ctx, r.result.vpc, name, tags); err != nil {
			return "", err
		}
		r.created = true
		return id, explainFullGroup(r.authorizeIngress(ctx, id, desired), id, "Service")
	}
	id = aws.ToString(g.GroupId)
	add, remove := subtract(desired, observed), subtract(observed, desired)
	if len(observed)+len(add) > rulesPerGroup { // no room for both
		if err := r.revokeIngress(ctx, id, remove); err != nil {
			return "", err
		}
		remove = nil
	}
	if err := r.authorizeIngress(ctx, id, add); err != nil {
		return "", explainFullGroup(err, id, "Service")
	}
	// A rule that moved to another group admits its clients here until the load
	// balancer has the other group.
	r.staleRules = append(r.staleRules, groupRules{id, remove})
	return id, r.retagSecurityGroup(ctx, id, tagMap(g.Tags), tags)
}

// deleteRulesAndGroups revokes rules and deletes own groups that are not desired.
func (r *reconciler) deleteRulesAndGroups(ctx context.Context) error {
	// The load balancer has all its groups by now (ensureStack).
	for _, s := range r.staleRules {
		if err := r.revokeIngress(ctx, s.group, s.rules); err != nil {
			return err
		}
	}
	for _, g := range r.observed.security {
		if slices.Contains(r.usedGroups, aws.ToString(g.GroupName)) {
			continue
		}
		if err := r.tolerateInUse(r.deleteSecurityGroup(ctx, aws.ToString(g.GroupId))); err != nil {
			return err
		}
	}
	return nil
}
