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

// tagsPerCall is how many objects DescribeTags accepts.
const tagsPerCall = 20

// describeTags returns the tags of objects by ARN. An object that does not exist fails
// the call for all. A listener that was just created may be unknown for some seconds,
// so that failure is retried.
func (c *Cloud) describeTags(ctx context.Context, arns []string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for part := range slices.Chunk(arns, tagsPerCall) {
		var out *elbapi.DescribeTagsOutput
		err := retryWhile(ctx, "ListenerNotFound", func() (err error) {
			out, err = callAPI(ctx, c.elb.DescribeTags, &elbapi.DescribeTagsInput{ResourceArns: part})
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

// tagMap converts the tags that EC2 returns with its objects; those of Elastic Load
// Balancing have a call of their own.
func tagMap(tags []ec2.Tag) map[string]string {
	all := make(map[string]string, len(tags))
	for _, t := range tags {
		all[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return all
}

// desiredTags returns the desired tags of an object of the Service.
func (r *reconciler) desiredTags(object string, records ...map[string]string) map[string]string {
	// The tag Name is for humans: AWS's console shows it. No decision depends on
	// it.
	name := r.svc.Namespace + "/" + r.svc.Name
	if object != "" {
		name += " " + object
	}
	return allTags(ownTags(r.options.Cluster, r.svc), r.result.desired.Tags, name, records...)
}

// updateTags changes the tags of an object of Elastic Load Balancing. It removes tags
// before it overwrites the record of the user's tags, by which they are known.
func (r *reconciler) updateTags(ctx context.Context, arn string, observed, desired map[string]string) error {
	add, remove := diffTags(observed, desired)
	if len(remove) > 0 {
		if _, err := callAPI(ctx, r.elb.RemoveTags, &elbapi.RemoveTagsInput{ResourceArns: []string{arn}, TagKeys: remove}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		if _, err := callAPI(ctx, r.elb.AddTags, &elbapi.AddTagsInput{ResourceArns: []string{arn}, Tags: elbTagList(add)}); err != nil {
			return err
		}
	}
	// The tags as they are now become known to the next sync, which does not read
	// all of them (syncDrift).
	after := mergeMaps(observed, add)
	maps.DeleteFunc(after, func(k, _ string) bool { return slices.Contains(remove, k) })
	r.observed.tags = put(r.observed.tags, arn, after)
	return nil
}

func elbTagList(tags map[string]string) (all []elb.Tag) {
	for k, v := range tags {
		all = append(all, elb.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	return all
}

// retagSecurityGroup is updateTags for a security group. The tags of EC2 objects are
// not kept for the next sync: each list of the groups contains them.
func (c *Cloud) retagSecurityGroup(ctx context.Context, id string, observed, desired map[string]string) error {
	add, remove := diffTags(observed, desired)
	if len(remove) > 0 {
		var tags []ec2.Tag
		for _, k := range remove {
			tags = append(tags, ec2.Tag{Key: aws.String(k)})
		}
		if _, err := callAPI(ctx, c.ec2.DeleteTags, &ec2api.DeleteTagsInput{Resources: []string{id}, Tags: tags}); err != nil {
			return err
		}
	}
	if len(add) > 0 {
		if _, err := callAPI(ctx, c.ec2.CreateTags, &ec2api.CreateTagsInput{Resources: []string{id}, Tags: ec2TagList(add)}); err != nil {
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
