package aws

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// iamStatement is a statement of an IAM policy that allows actions.
type iamStatement struct {
	Sid       string
	Effect    string
	Action    stringList
	Resource  stringList
	Condition map[string]map[string]stringList // by operator and key
}

// stringList is a text or a list of texts.
type stringList []string

func (l *stringList) UnmarshalJSON(content []byte) error {
	var one string
	if json.Unmarshal(content, &one) == nil {
		*l = stringList{one}
		return nil
	}
	return json.Unmarshal(content, (*[]string)(l))
}

// shippedPolicy returns the statements of deploy/aws-iam-policy.json.
var shippedPolicy = sync.OnceValue(func() []iamStatement {
	var policy struct{ Statement []iamStatement }
	content, err := os.ReadFile("../../deploy/aws-iam-policy.json")
	panicOnError(err)
	panicOnError(json.Unmarshal(content, &policy))
	return policy.Statement
})

// iamRequest is what IAM decides about: an action on one resource. keys are the
// context keys.
type iamRequest struct {
	action, arn string
	keys        map[string]string
}

// allowedFor reports whether the statement allows the request to a cluster.
func (s iamStatement) allowedFor(cluster string, r iamRequest) bool {
	matches := func(pattern string) bool { return glob(strings.ReplaceAll(pattern, "CLUSTER_NAME", cluster), r.arn) }
	if !slices.Contains(s.Action, r.action) || !slices.ContainsFunc(s.Resource, matches) {
		return false
	}
	for operator, keys := range s.Condition {
		for key, values := range keys {
			value, set := r.keys[strings.ReplaceAll(key, "CLUSTER_NAME", cluster)]
			holds := func(want string) bool {
				switch want = strings.ReplaceAll(want, "CLUSTER_NAME", cluster); operator {
				case "StringEquals":
					return set && value == want
				case "Null":
					return want == "true" != set
				}
				panic("unknown operator " + operator)
			}
			if !slices.ContainsFunc(values, holds) {
				return false
			}
		}
	}
	return true
}

// authorize returns the error of AWS for a call that the shipped policy does not
// allow to any of the clusters, or that includes a denied action. The texts are those
// of AWS.
func (f *fakeAWS) authorize(service, operation string, input any) error {
	if len(f.clusters) == 0 {
		return nil // the test makes the calls itself
	}
	for _, r := range f.iamRequests(service, operation, input) {
		allowed := !f.denied[r.action] && slices.ContainsFunc(f.clusters, func(cluster string) bool {
			return slices.ContainsFunc(shippedPolicy(), func(s iamStatement) bool { return s.allowedFor(cluster, r) })
		})
		if allowed {
			continue
		}
		if !f.denied[r.action] {
			f.t.Errorf("the IAM policy does not allow %s on %s with %v", r.action, r.arn, r.keys)
		}
		text := "User: arn:aws:sts::" + f.account + ":assumed-role/fairlead/session is not authorized to perform: " + r.action +
			" on resource: " + r.arn + " because no identity-based policy allows the " + r.action + " action"
		if service == serviceEC2 {
			return newAWSError("UnauthorizedOperation", "You are not authorized to perform this operation. %s. "+
				"Encoded authorization failure message: %d", text, f.serial)
		}
		return newAWSError("AccessDenied", "%s", text)
	}
	return nil
}

// iamRequests returns what IAM decides about for one call: the action on each
// resource, and the tagging of what is created.
func (f *fakeAWS) iamRequests(service, operation string, input any) (all []iamRequest) {
	action := service + ":" + operation
	requestKeys := requestTags(input)
	create := strings.HasPrefix(operation, "Create") && operation != "CreateTags"
	if create && len(requestKeys) > 0 {
		tagging := iamRequest{serviceELB + ":AddTags", "*", map[string]string{serviceELB + ":CreateAction": operation}}
		if service == serviceEC2 {
			tagging = iamRequest{"ec2:CreateTags", f.ec2ARN("security-group/new"), map[string]string{"ec2:CreateAction": operation}}
		}
		tagging.keys = mergeMaps(tagging.keys, requestKeys)
		all = append(all, tagging)
	}
	add := func(arn string, tags map[string]string) {
		keys := requestKeys
		for k, v := range tags {
			keys = mergeMaps(keys, map[string]string{"aws:ResourceTag/" + k: v})
		}
		all = append(all, iamRequest{action, arn, keys})
	}
	if in, ok := input.(*ec2.CreateSecurityGroupInput); ok {
		add(f.ec2ARN("vpc/"+*in.VpcId), nil)
		add(f.ec2ARN("security-group/new"), nil)
		return all
	}
	for _, id := range resourceIDs(input) {
		switch tags, err := f.tagsOf(id); {
		case strings.HasPrefix(id, "sg-"):
			if g := f.group(id); g != nil {
				add(f.ec2ARN("security-group/"+id), tagMap(g.tags))
			}
		// The response to a call for what does not exist does not depend on IAM here.
		case err == nil:
			add(id, tags)
		}
	}
	if len(resourceIDs(input)) == 0 {
		add("*", nil)
	}
	return all
}

func (f *fakeAWS) ec2ARN(resource string) string {
	return "arn:aws:ec2:" + f.region + ":" + f.account + ":" + resource
}

// resourceIDs returns the ARNs and security groups that a call changes. Calls that
// only read are not restricted to resources.
func resourceIDs(input any) []string {
	if strings.HasPrefix(reflectName(input), "Describe") {
		return nil
	}
	switch in := input.(type) {
	case *ec2.CreateTagsInput:
		return in.Resources
	case *ec2.DeleteTagsInput:
		return in.Resources
	case *elb.AddTagsInput:
		return in.ResourceArns
	case *elb.RemoveTagsInput:
		return in.ResourceArns
	}
	v := reflect.ValueOf(input).Elem()
	// CreateListener and the calls for listeners have the most specific one first.
	for _, field := range []string{"ListenerArn", "LoadBalancerArn", "TargetGroupArn", "GroupId"} {
		if id, ok := fieldOf(v, field).(*string); ok && id != nil {
			return []string{*id}
		}
	}
	return nil
}

// requestTags returns the context keys of the tags in a request.
func requestTags(input any) map[string]string {
	var tags []ec2types.Tag
	v := reflect.ValueOf(input).Elem()
	switch list := fieldOf(v, "Tags").(type) {
	case []elbtypes.Tag:
		for _, t := range list {
			tags = append(tags, ec2types.Tag{Key: t.Key, Value: t.Value})
		}
	case []ec2types.Tag:
		tags = list
	}
	if list, ok := fieldOf(v, "TagSpecifications").([]ec2types.TagSpecification); ok {
		for _, s := range list {
			tags = append(tags, s.Tags...)
		}
	}
	var keys map[string]string
	for k, value := range tagMap(tags) {
		keys = put(keys, "aws:RequestTag/"+k, value)
	}
	return keys
}

// fieldOf returns the value of a field, nil if the type lacks it.
func fieldOf(v reflect.Value, name string) any {
	if field := v.FieldByName(name); field.IsValid() {
		return field.Interface()
	}
	return nil
}
