package aws

import (
	"context"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// attributeStore reads and sets the attributes of one object. Their defaults are
// those of kind and of "kind variant".
type attributeStore struct {
	kind, variant string
	read          func(context.Context) (map[string]string, error)
	set           func(context.Context, map[string]string) error
}

// ensureAttributes sets the attributes that differ from the desired ones, given
// the tags that record what was set. In the mode syncAttributes it reads them
// as well.
func (r *reconciler) ensureAttributes(ctx context.Context, store attributeStore, desired, tags map[string]string) error {
	// What the record in the tags has is assumed to be set: reading attributes is
	// one call for each object, so that it is left to every sixth sync.
	changes := attributesToSet(desired, recordedText(tags, tagAttributes), store.kind, store.variant)
	if r.mode == syncAttributes && len(desired) > 0 {
		observed, err := store.read(ctx)
		if err != nil {
			return err
		}
		for k, v := range desired {
			// An attribute that the response lacks is not compared. It would
			// otherwise be set again by each comparison.
			if old, ok := observed[k]; ok && old != v {
				changes = put(changes, k, v)
			}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return store.set(ctx, changes)
}

// sdkAttribute is one of the types of the SDK, which have the same fields.
type sdkAttribute interface {
	elb.LoadBalancerAttribute | elb.TargetGroupAttribute | elb.ListenerAttribute
}

func attributeMap[A sdkAttribute](list []A) map[string]string {
	all := make(map[string]string, len(list))
	for _, a := range list {
		pair := elb.ListenerAttribute(a)
		all[aws.ToString(pair.Key)] = aws.ToString(pair.Value)
	}
	return all
}

// attributeList is the inverse of attributeMap, ordered by key, so that equal
// changes make equal calls.
func attributeList[A sdkAttribute](all map[string]string) (list []A) {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		list = append(list, A(elb.ListenerAttribute{Key: aws.String(k), Value: aws.String(all[k])}))
	}
	return list
}

// loadBalancerAttributes is the store of a load balancer. Its variant is the
// scheme, on which the default of ipv6.deny_all_igw_traffic depends.
func (c *Cloud) loadBalancerAttributes(arn string, scheme elb.LoadBalancerSchemeEnum) attributeStore {
	return attributeStore{
		"balancer", string(scheme),
		func(ctx context.Context) (map[string]string, error) {
			out, err := callAPI(ctx, c.elb.DescribeLoadBalancerAttributes, &elbapi.DescribeLoadBalancerAttributesInput{LoadBalancerArn: &arn})
			if err != nil {
				return nil, err
			}
			return attributeMap(out.Attributes), nil
		},
		func(ctx context.Context, changes map[string]string) error {
			_, err := callAPI(ctx, c.elb.ModifyLoadBalancerAttributes, &elbapi.ModifyLoadBalancerAttributesInput{
				LoadBalancerArn: &arn, Attributes: attributeList[elb.LoadBalancerAttribute](changes),
			})
			return err
		},
	}
}

// targetGroupAttributes is the store of a target group. Its variant is the
// protocol, which decides the attributes that exist and some of their defaults.
func (c *Cloud) targetGroupAttributes(arn string, protocol elb.ProtocolEnum) attributeStore {
	return attributeStore{
		"group", string(protocol),
		func(ctx context.Context) (map[string]string, error) {
			out, err := callAPI(ctx, c.elb.DescribeTargetGroupAttributes, &elbapi.DescribeTargetGroupAttributesInput{TargetGroupArn: &arn})
			if err != nil {
				return nil, err
			}
			return attributeMap(out.Attributes), nil
		},
		func(ctx context.Context, changes map[string]string) error {
			_, err := callAPI(ctx, c.elb.ModifyTargetGroupAttributes, &elbapi.ModifyTargetGroupAttributesInput{
				TargetGroupArn: &arn, Attributes: attributeList[elb.TargetGroupAttribute](changes),
			})
			return err
		},
	}
}

// listenerAttributes is the store of a listener. Only TCP listeners have an
// attribute with a default.
func (c *Cloud) listenerAttributes(arn string, protocol elb.ProtocolEnum) attributeStore {
	return attributeStore{
		"listener", string(protocol),
		func(ctx context.Context) (map[string]string, error) {
			out, err := callAPI(ctx, c.elb.DescribeListenerAttributes, &elbapi.DescribeListenerAttributesInput{ListenerArn: &arn})
			if err != nil {
				return nil, err
			}
			return attributeMap(out.Attributes), nil
		},
		func(ctx context.Context, changes map[string]string) error {
			_, err := callAPI(ctx, c.elb.ModifyListenerAttributes, &elbapi.ModifyListenerAttributesInput{
				ListenerArn: &arn, Attributes: attributeList[elb.ListenerAttribute](changes),
			})
			return err
		},
	}
}
