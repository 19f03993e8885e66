package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// ownSecurity are the security groups that were made for the Service.
func (w *work) ownSecurity(ctx context.Context) (own []ec2.SecurityGroup, err error) {
	var all []string
	for i := range maxGroups {
		all = append(all, w.names.securityGroup(w.svc.UID, i))
	}
	groups, err := w.securityGroups(ctx, w.conn, filter("group-name", all...))
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if tags := tagsOf(g.Tags); tags[tagCluster] == w.options.Cluster && tags[tagUID] == string(w.svc.UID) {
			own = append(own, g)
		}
	}
	return own, nil
}

// ensureSecurity makes the balancer's security groups, adds the rules that they
// lack, and returns the IDs of all that the balancer shall have. What is too
// much goes when the balancer has them all.
func (w *work) ensureSecurity(ctx context.Context, instances []instance) (ids []string, err error) {
	if w.want.NoGroups {
		return nil, nil
	}
	ids = slices.Clone(w.want.Groups)
	have := make([][]rule, maxGroups)
	for i := range have {
		if g := w.ownGroup(w.names.securityGroup(w.svc.UID, i)); g != nil {
			have[i] = rulesOf(g.IpPermissions)
		}
	}
	for i, rules := range placeRules(w.want.Rules, have) {
		if len(rules) == 0 {
			continue
		}
		name := w.names.securityGroup(w.svc.UID, i)
		id, err := w.ensureOwn(ctx, name, have[i], rules)
		if err != nil {
			return nil, err
		}
		ids, w.needed = append(ids, id), append(w.needed, name)
	}
	if w.want.Backend {
		id, err := w.ensureShared(ctx, w.conn, w.memory.vpc, instances)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// ownGroup is the Service's security group of that name, nil if there is none.
func (w *work) ownGroup(name string) *ec2.SecurityGroup {
	i := slices.IndexFunc(w.have.security, func(g ec2.SecurityGroup) bool { return aws.ToString(g.GroupName) == name })
	if i < 0 {
		return nil
	}
	return &w.have.security[i]
}

func (w *work) ensureOwn(ctx context.Context, name string, have, want []rule) (id string, err error) {
	tags := w.tags("")
	g := w.ownGroup(name)
	if g == nil {
		if id, err = w.createGroup(ctx, w.conn, w.memory.vpc, name, tags); err != nil {
			return "", err
		}
		return id, w.authorize(ctx, w.conn, id, want)
	}
	id = aws.ToString(g.GroupId)
	add, remove := without(want, have), without(have, want)
	if len(have)+len(add) > rulesPerGroup { // no room for both
		if err := w.revoke(ctx, w.conn, id, remove); err != nil {
			return "", err
		}
		remove = nil
	}
	if err := w.authorize(ctx, w.conn, id, add); err != nil {
		return "", err
	}
	w.stale = append(w.stale, staleRules{id, remove})
	return id, w.tagGroup(ctx, id, tagsOf(g.Tags), tags)
}

// staleRules let somebody in who is let in no more, or by another group.
type staleRules struct {
	group string
	rules []rule
}

// tidySecurity takes away rules and own groups that are not needed any more.
func (w *work) tidySecurity(ctx context.Context) error {
	for _, s := range w.stale {
		if err := w.revoke(ctx, w.conn, s.group, s.rules); err != nil {
			return err
		}
	}
	for _, g := range w.have.security {
		if slices.Contains(w.needed, aws.ToString(g.GroupName)) {
			continue
		}
		if err := w.later(w.deleteGroup(ctx, w.conn, aws.ToString(g.GroupId))); err != nil {
			return err
		}
	}
	return nil
}
