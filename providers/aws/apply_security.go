package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
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

// ensureSecurity makes the balancer's security groups and their rules, and
// returns the IDs of all that the balancer shall have.
func (w *work) ensureSecurity(ctx context.Context, vpc string, instances []instance) (ids []string, err error) {
	if w.want.NoGroups {
		return nil, nil
	}
	ids = slices.Clone(w.want.Groups)
	for i, rules := range byGroup(w.want.Rules) {
		id, err := w.ensureOwn(ctx, vpc, w.names.securityGroup(w.svc.UID, i), rules)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if w.want.Backend {
		id, err := w.ensureShared(ctx, w.conn, vpc, instances)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (w *work) ensureOwn(ctx context.Context, vpc, name string, rules []rule) (id string, err error) {
	tags := allTags(ownTags(w.options.Cluster, w.svc), w.want.Tags, w.svc.Namespace+"/"+w.svc.Name)
	i := slices.IndexFunc(w.have.security, func(g ec2.SecurityGroup) bool { return aws.ToString(g.GroupName) == name })
	if i >= 0 {
		have := w.have.security[i]
		id = aws.ToString(have.GroupId)
		if err := w.changeRules(ctx, id, rulesOf(have.IpPermissions), rules); err != nil {
			return "", err
		}
		return id, w.tagGroup(ctx, id, tagsOf(have.Tags), tags)
	}
	id, err = w.createGroup(ctx, w.conn, vpc, name, tags)
	if err != nil {
		return "", err
	}
	return id, w.authorize(ctx, w.conn, id, rules)
}

// changeRules admits before it shuts out, unless the group is too full for both.
func (w *work) changeRules(ctx context.Context, id string, have, want []rule) error {
	add, remove := without(want, have), without(have, want)
	if len(have)+len(add) > rulesPerGroup {
		if err := w.revoke(ctx, w.conn, id, remove); err != nil {
			return err
		}
		return w.authorize(ctx, w.conn, id, add)
	}
	if err := w.authorize(ctx, w.conn, id, add); err != nil {
		return err
	}
	return w.revoke(ctx, w.conn, id, remove)
}

// tagGroup is retag for a security group.
func (w *work) tagGroup(ctx context.Context, id string, have, want map[string]string) error {
	add, remove := diffTags(have, want)
	if len(remove) > 0 {
		var tags []ec2.Tag
		for _, k := range remove {
			tags = append(tags, ec2.Tag{Key: aws.String(k)})
		}
		if _, err := call(ctx, w.conn.ec2.DeleteTags, &ec2api.DeleteTagsInput{Resources: []string{id}, Tags: tags}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		if _, err := call(ctx, w.conn.ec2.CreateTags, &ec2api.CreateTagsInput{Resources: []string{id}, Tags: ec2TagList(add)}); err != nil {
			return err
		}
	}
	return nil
}

// tidySecurity deletes own groups that the balancer does not need any more.
func (w *work) tidySecurity(ctx context.Context) error {
	var needed []string
	for i := range byGroup(w.want.Rules) {
		needed = append(needed, w.names.securityGroup(w.svc.UID, i))
	}
	for _, g := range w.have.security {
		if slices.Contains(needed, aws.ToString(g.GroupName)) {
			continue
		}
		if err := w.later(w.deleteGroup(ctx, w.conn, aws.ToString(g.GroupId))); err != nil {
			return err
		}
	}
	return nil
}
