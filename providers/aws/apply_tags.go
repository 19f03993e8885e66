package aws

import (
	"context"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// perTags is how many objects DescribeTags takes.
const perTags = 20

func (c *Cloud) tagsOf(ctx context.Context, a *conn, arns []string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for part := range slices.Chunk(arns, perTags) {
		var out *elbapi.DescribeTagsOutput
		err := patient(ctx, "ListenerNotFound", func() (err error) {
			out, err = call(ctx, a.elb.DescribeTags, &elbapi.DescribeTagsInput{ResourceArns: part})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, d := range out.TagDescriptions {
			tags := map[string]string{}
			for _, t := range d.Tags {
				tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
			}
			all[aws.ToString(d.ResourceArn)] = tags
		}
	}
	return all, nil
}

func tagsOf(tags []ec2.Tag) map[string]string {
	all := make(map[string]string, len(tags))
	for _, t := range tags {
		all[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return all
}

// tags are those of an object of the Service's.
func (w *work) tags(what string, records ...map[string]string) map[string]string {
	name := w.svc.Namespace + "/" + w.svc.Name
	if what != "" {
		name += " " + what
	}
	return allTags(ownTags(w.options.Cluster, w.svc), w.want.Tags, name, records...)
}

// retag changes an object's tags. What goes goes first: the record of the
// user's tags, which is needed to know them, is overwritten last.
func (w *work) retag(ctx context.Context, arn string, have, want map[string]string) error {
	add, remove := diffTags(have, want)
	if len(remove) > 0 {
		if _, err := call(ctx, w.conn.elb.RemoveTags, &elbapi.RemoveTagsInput{ResourceArns: []string{arn}, TagKeys: remove}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		if _, err := call(ctx, w.conn.elb.AddTags, &elbapi.AddTagsInput{ResourceArns: []string{arn}, Tags: elbTagList(add)}); err != nil {
			return err
		}
	}
	after := merged(have, add)
	maps.DeleteFunc(after, func(k, _ string) bool { return slices.Contains(remove, k) })
	w.have.tags = put(w.have.tags, arn, after)
	return nil
}

func elbTagList(tags map[string]string) (all []elb.Tag) {
	for k, v := range tags {
		all = append(all, elb.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	return all
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

func ec2TagList(tags map[string]string) (all []ec2.Tag) {
	for k, v := range tags {
		all = append(all, ec2.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	return all
}
