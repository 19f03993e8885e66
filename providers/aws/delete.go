package aws

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// delete removes everything that carries the Service's tags. What cannot be
// removed yet does not keep the rest.
func (c *Cloud) delete(ctx context.Context, a *conn, svc *corev1.Service) error {
	w := &work{Cloud: c, conn: a, svc: svc}
	if err := w.find(ctx); err != nil {
		return err
	}
	protected := false
	if o, _ := parseOptions(svc); o.Attributes[attrProtected] == "true" {
		protected = true
	}
	for _, b := range w.have.balancers {
		if err := c.deleteBalancer(ctx, a, b, protected); err != nil {
			return err
		}
	}
	var waiting []error
	for _, g := range w.have.groups {
		waiting = append(waiting, c.deleteTargetGroup(ctx, a, g))
	}
	for _, g := range w.have.security {
		waiting = append(waiting, c.deleteGroup(ctx, a, aws.ToString(g.GroupId)))
	}
	if err := worst(waiting); err != nil {
		return err
	}
	return c.deleteShared(ctx, a)
}

// deleteBalancer deletes a balancer with its listeners. Protection against
// deletion holds if the Service asks for it; otherwise it is taken off.
func (c *Cloud) deleteBalancer(ctx context.Context, a *conn, b elb.LoadBalancer, protected bool) error {
	name := aws.ToString(b.LoadBalancerName)
	remove := func() error {
		_, err := call(ctx, a.elb.DeleteLoadBalancer, &elbapi.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
		return err
	}
	if protected {
		return &v1alpha1.Refusal{Reason: v1alpha1.PermissionDenied, Message: fmt.Sprintf("the annotation %sattributes protects balancer %s from deletion (%s=true): take it off the Service", prefix, name, attrProtected)}
	}
	err := remove()
	if isCode(err, "OperationNotPermitted") {
		unprotect := ofBalancer(a, aws.ToString(b.LoadBalancerArn), b.Scheme).set
		if err := unprotect(ctx, map[string]string{attrProtected: "false"}); err != nil {
			return err
		}
		err = remove()
	}
	if isCode(err, "ResourceInUse") {
		return fmt.Errorf("load balancer %s, which something else in AWS uses, such as a VPC endpoint service: %w", name, errInUse)
	}
	if err != nil && !isCode(err, gone...) {
		return err
	}
	c.inventory.balancers.write(name, nil)
	return nil
}

func (c *Cloud) deleteTargetGroup(ctx context.Context, a *conn, g elb.TargetGroup) error {
	name := aws.ToString(g.TargetGroupName)
	_, err := call(ctx, a.elb.DeleteTargetGroup, &elbapi.DeleteTargetGroupInput{TargetGroupArn: g.TargetGroupArn})
	if isCode(err, "ResourceInUse") {
		return fmt.Errorf("target group %s: %w", name, errInUse)
	}
	if err != nil && !isCode(err, gone...) {
		return err
	}
	c.inventory.groups.write(name, nil)
	return nil
}
