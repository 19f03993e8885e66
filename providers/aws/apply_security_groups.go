package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
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
// stay in excludedRules and staleRules.
func (r *reconciler) ensureSecurityGroups(ctx context.Context, current *elb.LoadBalancer, instances []instance) (ids []string, err error) {
	desired := r.result.desired
	// A load balancer that was created without groups cannot get any later
	// (SetSecurityGroups), so none is created for it.
	if desired.NoGroups {
		return nil, nil
	}
	ids = slices.Clone(desired.Groups)
	if len(desired.Rules) > 0 {
		own, err := r.ensureOwnGroups(ctx)
		// A group exists that was not read: its rules are known now, and they are
		// part of the next plan.
		if isCode(err, errCodeGroupExists) {
			own, err = r.ensureOwnGroups(ctx)
		}
		if err != nil {
			return nil, err
		}
		// If the load balancer has the groups, nothing else is needed for a narrower range.
		if current != nil && len(subtract(own, current.SecurityGroups)) == 0 {
			if err := r.revokeRules(ctx, r.excludedRules); err != nil {
				return nil, err
			}
			r.excludedRules = nil
		}
		ids = append(ids, own...)
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

// ensureOwnGroups distributes the desired rules over the Service's groups, and
// returns the IDs of those that it needs. If it finds a group that was not read, it
// reads all of them and returns an error with the code errCodeGroupExists.
func (r *reconciler) ensureOwnGroups(ctx context.Context) (ids []string, err error) {
	desired := r.result.desired.Rules
	r.excludedRules, r.staleRules, r.usedGroups = nil, nil, nil
	observed := make([][]securityRule, maxGroups)
	if err := r.revokeUnapplied(ctx, desired); err != nil {
		return nil, err
	}
	for i := range observed {
		if g := r.ownGroup(r.names.securityGroup(r.svc.UID, i)); g != nil {
			observed[i] = rulesOf(g.IpPermissions)
		}
	}
	for i, rules := range placeRules(desired, observed) {
		name := r.names.securityGroup(r.svc.UID, i)
		// A group without rules is not needed. If it exists, deleteRulesAndGroups
		// deletes it. The first one has the rule for ICMP (clientRules).
		if len(rules) == 0 {
			if g := r.ownGroup(name); g != nil {
				excluded, _ := splitStaleRules(observed[i], desired)
				r.excludedRules = append(r.excludedRules, groupRules{aws.ToString(g.GroupId), excluded})
			}
			continue
		}
		id, err := r.ensureOwnGroup(ctx, name, observed[i], rules)
		if err != nil {
			return nil, err
		}
		ids, r.usedGroups = append(ids, id), append(r.usedGroups, name)
	}
	return ids, nil
}

// revokeUnapplied revokes the rules of the Service's groups that neither the desired nor
// the applied state has (rulesToRevokeFirst).
func (r *reconciler) revokeUnapplied(ctx context.Context, desired []securityRule) error {
	for i := range r.observed.security {
		g := &r.observed.security[i]
		attached := slices.ContainsFunc(r.observed.balancers, func(b elb.LoadBalancer) bool {
			return slices.Contains(b.SecurityGroups, aws.ToString(g.GroupId))
		})
		all := rulesOf(g.IpPermissions)
		first := rulesToRevokeFirst(all, desired, r.appliedRules, attached)
		if err := r.revokeIngress(ctx, aws.ToString(g.GroupId), first); err != nil {
			return err
		}
		g.IpPermissions = permissionsOf(subtract(all, first))
	}
	return nil
}

// restoreRules ensures the desired rules of an existing load balancer, whose other desired
// changes are refused, after a sync that has failed: the rules that it has changed do not stay.
// A process that has not made a successful sync only revokes rules that do not overlap the
// desired sources.
func (r *reconciler) restoreRules(ctx context.Context) error {
	desired := r.result.desired.Rules
	switch {
	case len(r.observed.balancers) == 0 || len(desired) == 0:
		return nil
	case len(r.appliedRules) == 0:
		return r.revokeUnapplied(ctx, desired)
	case !r.isUnfinished(r.svc.UID):
		return nil
	}
	own, err := r.ensureOwnGroups(ctx)
	if err != nil || len(subtract(own, r.observed.balancers[0].SecurityGroups)) > 0 {
		return err
	}
	return r.revokeRules(ctx, r.excludedRules)
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
		if id, err = r.createOwnGroup(ctx, name, tags); err != nil {
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
	// balancer has the other group, and that of a port that is removed until the
	// listener is deleted.
	excluded, stale := splitStaleRules(remove, r.result.desired.Rules)
	r.excludedRules = append(r.excludedRules, groupRules{id, excluded})
	r.staleRules = append(r.staleRules, groupRules{id, stale})
	return id, r.retagSecurityGroup(ctx, id, tagMap(g.Tags), tags)
}

// createOwnGroup creates one of the Service's groups, without rules. If a group has
// the name it reads all groups of the Service: its rules must not be assumed.
func (r *reconciler) createOwnGroup(ctx context.Context, name string, tags map[string]string) (id string, err error) {
	id, err = r.createSecurityGroup(ctx, r.result.vpc, name, tags)
	if !isCode(err, errCodeGroupExists) {
		return id, err
	}
	r.observed.security = nil
	if readErr := r.readSecurityGroups(ctx); readErr != nil {
		return "", readErr
	}
	if r.ownGroup(name) == nil { // it is not the Service's
		groups, findErr := r.listSecurityGroups(ctx, append(ec2Filter("group-name", name), ec2Filter("vpc-id", r.result.vpc)...))
		if findErr != nil {
			return "", findErr
		}
		for _, g := range groups {
			o := unownedObject{"security group", aws.ToString(g.GroupId), tagMap(g.Tags)}
			return "", nameTaken([]unownedObject{o}, ownTags(r.options.Cluster, r.svc))
		}
	}
	return "", err
}

// excludeSources revokes the rules of sources that are not desired any more, as soon
// as an existing load balancer has the groups with the desired ones.
func (r *reconciler) excludeSources(ctx context.Context, current *elb.LoadBalancer, groups []string) error {
	if current != nil {
		if err := r.setSecurityGroups(ctx, current, groups); err != nil {
			return err
		}
	}
	return r.revokeRules(ctx, r.excludedRules)
}

// revokeRules revokes superfluous rules.
func (r *reconciler) revokeRules(ctx context.Context, all []groupRules) error {
	for _, s := range all {
		if err := r.revokeIngress(ctx, s.group, s.rules); err != nil {
			return err
		}
	}
	return nil
}

// deleteRulesAndGroups revokes rules and deletes own groups that are not desired.
func (r *reconciler) deleteRulesAndGroups(ctx context.Context) error {
	// The load balancer has all its groups by now (ensureStack).
	if err := r.revokeRules(ctx, r.staleRules); err != nil {
		return err
	}
	unused := slices.DeleteFunc(slices.Clone(r.observed.security), func(g ec2.SecurityGroup) bool {
		return slices.Contains(r.usedGroups, aws.ToString(g.GroupName))
	})
	return r.tolerateInUse(r.deleteOwnGroups(ctx, unused))
}

// deleteOwnGroups deletes groups of the Service. The first one is deleted after all
// others, because they are found by it: CreateSecurityGroup fails while it exists
// (createOwnGroup).
func (r *reconciler) deleteOwnGroups(ctx context.Context, groups []ec2.SecurityGroup) error {
	first := r.names.securityGroup(r.svc.UID, 0)
	var results []error
	for _, g := range groups {
		if aws.ToString(g.GroupName) != first {
			results = append(results, r.deleteSecurityGroup(ctx, aws.ToString(g.GroupId)))
		}
	}
	if err := failureOf(results); err != nil {
		return err
	}
	for _, g := range groups {
		if aws.ToString(g.GroupName) == first {
			results = append(results, r.deleteSecurityGroup(ctx, aws.ToString(g.GroupId)))
		}
	}
	return failureOf(results)
}
