package aws

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// attributed is something that has attributes: how AWS is asked for them, how
// they are set, and which defaults they have.
type attributed struct {
	kind, special string
	read          func(context.Context) (map[string]string, error)
	set           func(context.Context, map[string]string) error
}

// ensureAttributes makes the attributes what is wanted, given the tags that
// record what was set. A deep look compares them with AWS as well.
func (w *work) ensureAttributes(ctx context.Context, of attributed, want, tags map[string]string) error {
	set := attributesToSet(want, recorded(tags, tagAttributes), of.kind, of.special)
	if w.deep && len(want) > 0 {
		have, err := of.read(ctx)
		if err != nil {
			return err
		}
		for k, v := range want {
			if old, ok := have[k]; ok && old != v {
				set = put(set, k, v)
			}
		}
	}
	if len(set) == 0 {
		return nil
	}
	return of.set(ctx, set)
}

func ofBalancer(a *conn, arn string, scheme elb.LoadBalancerSchemeEnum) attributed {
	return attributed{
		"balancer", string(scheme),
		func(ctx context.Context) (map[string]string, error) {
			out, err := call(ctx, a.elb.DescribeLoadBalancerAttributes, &elbapi.DescribeLoadBalancerAttributesInput{LoadBalancerArn: aws.String(arn)})
			if err != nil {
				return nil, err
			}
			have := map[string]string{}
			for _, x := range out.Attributes {
				have[aws.ToString(x.Key)] = aws.ToString(x.Value)
			}
			return have, nil
		},
		func(ctx context.Context, set map[string]string) error {
			in := &elbapi.ModifyLoadBalancerAttributesInput{LoadBalancerArn: aws.String(arn)}
			for k, v := range set {
				in.Attributes = append(in.Attributes, elb.LoadBalancerAttribute{Key: aws.String(k), Value: aws.String(v)})
			}
			_, err := call(ctx, a.elb.ModifyLoadBalancerAttributes, in)
			return err
		},
	}
}

func ofGroup(a *conn, arn string, protocol elb.ProtocolEnum) attributed {
	return attributed{
		"group", string(protocol),
		func(ctx context.Context) (map[string]string, error) {
			out, err := call(ctx, a.elb.DescribeTargetGroupAttributes, &elbapi.DescribeTargetGroupAttributesInput{TargetGroupArn: aws.String(arn)})
			if err != nil {
				return nil, err
			}
			have := map[string]string{}
			for _, x := range out.Attributes {
				have[aws.ToString(x.Key)] = aws.ToString(x.Value)
			}
			return have, nil
		},
		func(ctx context.Context, set map[string]string) error {
			in := &elbapi.ModifyTargetGroupAttributesInput{TargetGroupArn: aws.String(arn)}
			for k, v := range set {
				in.Attributes = append(in.Attributes, elb.TargetGroupAttribute{Key: aws.String(k), Value: aws.String(v)})
			}
			_, err := call(ctx, a.elb.ModifyTargetGroupAttributes, in)
			return err
		},
	}
}

func ofListener(a *conn, arn string, protocol elb.ProtocolEnum) attributed {
	return attributed{
		"listener", string(protocol),
		func(ctx context.Context) (map[string]string, error) {
			out, err := call(ctx, a.elb.DescribeListenerAttributes, &elbapi.DescribeListenerAttributesInput{ListenerArn: aws.String(arn)})
			if err != nil {
				return nil, err
			}
			have := map[string]string{}
			for _, x := range out.Attributes {
				have[aws.ToString(x.Key)] = aws.ToString(x.Value)
			}
			return have, nil
		},
		func(ctx context.Context, set map[string]string) error {
			in := &elbapi.ModifyListenerAttributesInput{ListenerArn: aws.String(arn)}
			for k, v := range set {
				in.Attributes = append(in.Attributes, elb.ListenerAttribute{Key: aws.String(k), Value: aws.String(v)})
			}
			_, err := call(ctx, a.elb.ModifyListenerAttributes, in)
			return err
		},
	}
}
