package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
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
		// AWS would refuse the deletion. All objects stay, and UpdateLoadBalancer
		// continues from the last sync.
		if o.Attributes[attrProtected] == "true" {
			return &protectionError{newRefusal(v1alpha1.PermissionDenied,
				"annotation %sattributes: load balancer %s is protected from deletion by %s=true: remove the attribute",
				prefix, aws.ToString(b.LoadBalancerName), attrProtected)}
		}
	}
	for _, b := range r.observed.balancers {
		if err := r.deleteBalancer(ctx, b, r.hasSetProtection(b)); err != nil {
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

// protectionError is the refusal of a deletion before anything was deleted.
type protectionError struct{ *v1alpha1.Refusal }

func (e *protectionError) Unwrap() error { return e.Refusal }

// hasSetProtection reports whether an annotation of the Service has protected the
// load balancer from deletion, by the record in its tags.
func (r *reconciler) hasSetProtection(b elb.LoadBalancer) bool {
	record := recordedText(r.observed.tags[aws.ToString(b.LoadBalancerArn)], tagAttributes)
	return slices.Contains(strings.Fields(record), attrProtected+"=true")
}

// deleteBalancer deletes a load balancer with its listeners. It disables deletion
// protection only if told to, since others may have enabled it deliberately.
func (c *Cloud) deleteBalancer(ctx context.Context, b elb.LoadBalancer, disableProtection bool) error {
	name := aws.ToString(b.LoadBalancerName)
	remove := func() error {
		_, err := callAPI(ctx, c.elb.DeleteLoadBalancer, &elbapi.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
		return err
	}
	err := remove()
	if isCode(err, "OperationNotPermitted") {
		if err = c.resolveProtection(ctx, b, disableProtection, err); err != nil {
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

// resolveProtection disables the deletion protection of a load balancer whose
// deletion AWS has refused, or returns a Refusal. If it is not protected, AWS had
// another cause, and the error of the deletion is returned.
func (c *Cloud) resolveProtection(ctx context.Context, b elb.LoadBalancer, disable bool, deletion error) error {
	arn := aws.ToString(b.LoadBalancerArn)
	attributes := c.loadBalancerAttributes(arn, b.Scheme)
	observed, err := attributes.read(ctx)
	switch {
	case err != nil:
		return err
	case observed[attrProtected] != "true":
		return deletion
	case disable:
		return attributes.set(ctx, map[string]string{attrProtected: "false"})
	}
	return newRefusal(v1alpha1.PermissionDenied,
		"load balancer %s is protected from deletion by its attribute %s; "+
			"to permit the deletion: aws elbv2 modify-load-balancer-attributes --load-balancer-arn %s --attributes Key=%s,Value=false",
		arn, attrProtected, arn, attrProtected)
}

// deleteTargetGroup deletes a target group. The error wraps errInUse while a
// listener still refers to it, which may have been deleted just before.
func (c *Cloud) deleteTargetGroup(ctx context.Context, g elb.TargetGroup) error {
	name := aws.ToString(g.TargetGroupName)
	_, err := callAPI(ctx, c.elb.DeleteTargetGroup, &elbapi.DeleteTargetGroupInput{TargetGroupArn: g.TargetGroupArn})
	if isCode(err, "ResourceInUse") {
		// AWS releases the target groups of load balancers that have been deleted; one
		// that exists is foreign, or has lost its tags.
		exists := func(arn string) bool {
			found, err := c.loadBalancers.match(ctx, func(string) bool { return true })
			return err == nil && slices.ContainsFunc(found, func(b elb.LoadBalancer) bool { return aws.ToString(b.LoadBalancerArn) == arn })
		}
		foreign := slices.DeleteFunc(slices.Clone(g.LoadBalancerArns), func(arn string) bool {
			return strings.Contains(arn, "/"+c.names.prefix) && !exists(arn)
		})
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

// groupInUseError is errInUse for a security group. EC2 does not name its users.
type groupInUseError struct{ id string }

func (e *groupInUseError) Error() string { return "security group " + e.id + ": " + errInUse.Error() }

func (e *groupInUseError) Unwrap() error { return errInUse }

// deleteSecurityGroup deletes a security group. The error is a groupInUseError while a
// network interface or the rule of another group refers to it.
func (c *Cloud) deleteSecurityGroup(ctx context.Context, id string) error {
	_, err := callAPI(ctx, c.ec2.DeleteSecurityGroup, &ec2api.DeleteSecurityGroupInput{GroupId: aws.String(id)})
	switch {
	case isCode(err, errCodeNoGroup):
		return nil
	case isCode(err, "DependencyViolation", "InvalidGroup.InUse"):
		return &groupInUseError{id}
	}
	return err
}

// groupUsers are the users of a security group that cannot be deleted, as texts.
type groupUsers struct {
	id                string
	interfaces, rules string
}

// findGroupUsers updates the users that the last attempt to delete a security group has
// found. Attempts alternate between network interfaces and rules, so that each of them
// makes one call. A failed call is part of the text: deletion is retried anyway.
func (c *Cloud) findGroupUsers(ctx context.Context, id string, last groupUsers, attempt int) groupUsers {
	if last.id != id {
		last = groupUsers{id: id}
	}
	var found []string
	var err error
	if attempt%2 == 1 {
		found, err = c.describeInterfaces(ctx, id)
	} else {
		var groups []ec2.SecurityGroup
		groups, err = c.listSecurityGroups(ctx, ec2Filter("ip-permission.group-id", id))
		for _, g := range groups {
			found = append(found, aws.ToString(g.GroupId)+" ("+aws.ToString(g.GroupName)+")")
		}
	}
	slices.Sort(found)
	text := shortList(found)
	if err != nil {
		text = "unknown (" + err.Error() + ")"
	}
	if attempt%2 == 1 {
		last.interfaces = text
	} else {
		last.rules = text
	}
	return last
}

// describeInterfaces returns the network interfaces with a security group, with their
// description and their owner: the instance, or the AWS service that created them.
func (c *Cloud) describeInterfaces(ctx context.Context, group string) (all []string, err error) {
	pages := ec2api.NewDescribeNetworkInterfacesPaginator(c.ec2, &ec2api.DescribeNetworkInterfacesInput{Filters: ec2Filter("group-id", group)})
	found, err := listAll(ctx, pages, func(p *ec2api.DescribeNetworkInterfacesOutput) []ec2.NetworkInterface { return p.NetworkInterfaces })
	for _, n := range found {
		var texts []string
		if d := aws.ToString(n.Description); d != "" {
			texts = append(texts, d)
		}
		if n.Attachment != nil && aws.ToString(n.Attachment.InstanceId) != "" {
			texts = append(texts, "instance "+*n.Attachment.InstanceId)
		} else if requester := aws.ToString(n.RequesterId); requester != "" {
			texts = append(texts, "created by "+requester)
		}
		all = append(all, strings.TrimSuffix(aws.ToString(n.NetworkInterfaceId)+" ("+strings.Join(texts, ", ")+")", " ()"))
	}
	return all, err
}

// String describes the users, "" for none.
func (u groupUsers) String() string {
	var texts []string
	if u.interfaces != "" {
		texts = append(texts, "network interfaces: "+u.interfaces)
	}
	if u.rules != "" {
		texts = append(texts, "rules of security groups: "+u.rules)
	}
	return strings.Join(texts, "; ")
}
