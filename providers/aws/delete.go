package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// deleteStack deletes all objects that have the Service's tags. An object that
// AWS still uses does not keep the others.
func (r *reconciler) deleteStack(ctx context.Context) error {
	if err := r.readStack(ctx); err != nil {
		return err
	}
	// Without its tag an object would stay, and the finalizer is the last record of it.
	if refusal := r.refuseUntagged(); refusal != nil {
		return refusal
	}
	o, _ := parseAnnotations(r.svc)
	for _, b := range r.observed.balancers {
		// Protection that the Service itself requests is respected. Protection that
		// was set otherwise is removed by deleteBalancer.
		if o.Attributes[attrProtected] == "true" {
			return newRefusal(v1alpha1.PermissionDenied,
				"annotation %sattributes: load balancer %s is protected from deletion by %s=true: remove the attribute",
				prefix, aws.ToString(b.LoadBalancerName), attrProtected)
		}
		if err := r.deleteBalancer(ctx, b); err != nil {
			return err
		}
	}
	// AWS releases the objects at different times, so a failure does not end the
	// loops.
	var results []error
	for _, g := range r.observed.groups {
		results = append(results, r.deleteTargetGroup(ctx, g))
	}
	results = append(results, r.deleteOwnGroups(ctx, r.observed.security))
	if err := failureOf(results); err != nil {
		return err
	}
	// The shared group follows the objects of the Service, because the last load
	// balancer with it must be deleted first.
	return r.deleteSharedGroup(ctx)
}

// failureOf returns the first error that is not errInUse, otherwise the first.
// errInUse only delays the deletion, so another failure is the one to report.
func failureOf(results []error) (failure error) {
	for _, err := range results {
		if err != nil && (failure == nil || errors.Is(failure, errInUse) && !errors.Is(err, errInUse)) {
			failure = err
		}
	}
	return failure
}

// deleteBalancer deletes a load balancer with its listeners, also one that is
// protected from deletion.
func (c *Cloud) deleteBalancer(ctx context.Context, b elb.LoadBalancer) error {
	name := aws.ToString(b.LoadBalancerName)
	remove := func() error {
		_, err := callAPI(ctx, c.elb.DeleteLoadBalancer, &elbapi.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
		return err
	}
	err := remove()
	// AWS refuses to delete a load balancer with the attribute
	// deletion_protection.enabled.
	if isCode(err, "OperationNotPermitted") {
		attributes := c.loadBalancerAttributes(aws.ToString(b.LoadBalancerArn), b.Scheme)
		if err := attributes.set(ctx, map[string]string{attrProtected: "false"}); err != nil {
			return err
		}
		err = remove()
	}
	if isCode(err, "ResourceInUse") {
		return fmt.Errorf("load balancer %s, which another AWS resource uses, such as a VPC endpoint service: %w", name, errInUse)
	}
	if err != nil && !isCode(err, notFoundCodes...) {
		return err
	}
	c.loadBalancers.remove(name)
	return nil
}

// deleteTargetGroup deletes a target group. The error wraps errInUse while a
// listener still refers to it, which may have been deleted just before.
func (c *Cloud) deleteTargetGroup(ctx context.Context, g elb.TargetGroup) error {
	name := aws.ToString(g.TargetGroupName)
	_, err := callAPI(ctx, c.elb.DeleteTargetGroup, &elbapi.DeleteTargetGroupInput{TargetGroupArn: g.TargetGroupArn})
	if isCode(err, "ResourceInUse") {
		// Our own load balancers are deleted by now, and AWS releases their target
		// groups; a foreign one must be deleted by its owner.
		foreign := slices.DeleteFunc(slices.Clone(g.LoadBalancerArns), func(arn string) bool { return strings.Contains(arn, "/"+c.names.prefix) })
		if len(foreign) > 0 {
			name += ", which a listener of load balancer " + strings.Join(foreign, ", ") + " uses"
		}
		return fmt.Errorf("target group %s: %w", name, errInUse)
	}
	if err != nil && !isCode(err, notFoundCodes...) {
		return err
	}
	c.targetGroups.remove(name)
	return nil
}

// deleteSecurityGroup deletes a security group. The error wraps errInUse while a
// network interface or the rule of another group refers to it.
func (c *Cloud) deleteSecurityGroup(ctx context.Context, id string) error {
	_, err := callAPI(ctx, c.ec2.DeleteSecurityGroup, &ec2api.DeleteSecurityGroupInput{GroupId: aws.String(id)})
	switch {
	case isCode(err, errCodeNoGroup):
		return nil
	case isCode(err, "DependencyViolation", "InvalidGroup.InUse"):
		return fmt.Errorf("security group %s: %w", id, errInUse)
	}
	return err
}
