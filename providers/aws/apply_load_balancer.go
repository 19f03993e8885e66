package aws

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// existingBalancers returns the Service's load balancers, of which there are two
// during a replacement.
func (r *reconciler) existingBalancers() (all []existingBalancer) {
	for i := range r.observed.balancers {
		b := &r.observed.balancers[i]
		all = append(all, existingBalancer{
			b, recordedText(r.observed.tags[aws.ToString(b.LoadBalancerArn)], tagAddresses),
			aws.ToString(b.LoadBalancerName) == r.names.secondName(r.svc.UID),
		})
	}
	return all
}

// ensureBalancer creates the load balancer, or changes what can be changed in
// place.
func (r *reconciler) ensureBalancer(ctx context.Context, current *elb.LoadBalancer, groups []string) (b elb.LoadBalancer, err error) {
	var tags map[string]string
	addresses := recordTags(tagAddresses, strings.Join(r.result.desired.requestedAddresses(), " "))
	if current == nil {
		// The addresses are recorded by the call that creates the load balancer:
		// they cannot be set later, and AWS does not always list them.
		tags = r.desiredTags("", addresses)
		if b, err = r.createBalancer(ctx, groups, tags); err != nil {
			return b, err
		}
		// CreateLoadBalancer does not have a field for AWS PrivateLink.
		if r.result.desired.PrivateLink == "off" {
			if err := r.setSecurityGroups(ctx, &b, groups); err != nil {
				return b, err
			}
		}
	} else {
		b = *current
		tags = r.observed.tags[aws.ToString(b.LoadBalancerArn)]
		if err := r.changeBalancer(ctx, &b); err != nil {
			return b, err
		}
		// The record stays, because the load balancer keeps its addresses when the
		// annotation is removed, and a later request is compared with it.
		if len(addresses) == 0 { // those that it has are not requested any more
			addresses = recordTags(tagAddresses, recordedText(tags, tagAddresses))
		}
	}
	r.arn = aws.ToString(b.LoadBalancerArn)
	if err := r.ensureAttributes(ctx, r.loadBalancerAttributes(r.arn, b.Scheme), r.result.desired.Attributes, tags); err != nil {
		return b, err
	}
	return b, r.updateTags(ctx, r.arn, tags, r.desiredTags("", addresses, recordAttributes(r.result.desired.Attributes)))
}

// createBalancer creates the load balancer with all that cannot be changed later:
// scheme, addresses, and whether it has security groups. It does not wait until AWS
// has provisioned it.
func (r *reconciler) createBalancer(ctx context.Context, groups []string, tags map[string]string) (b elb.LoadBalancer, err error) {
	out, err := callAPI(ctx, r.elb.CreateLoadBalancer, &elbapi.CreateLoadBalancerInput{
		Name: aws.String(r.name), Type: elb.LoadBalancerTypeEnumNetwork, Scheme: r.result.desired.Scheme, IpAddressType: r.place.kind,
		SubnetMappings: r.place.mappings, SecurityGroups: groups, Tags: elbTagList(tags),
	})
	if err != nil {
		return b, err
	}
	if len(out.LoadBalancers) == 0 {
		return b, errors.New("CreateLoadBalancer: response without a load balancer")
	}
	// The list of the next sync may have begun before this call.
	r.loadBalancers.put(out.LoadBalancers[0])
	r.observed.balancers = append(r.observed.balancers, out.LoadBalancers[0])
	return out.LoadBalancers[0], nil
}

// placement is where a load balancer is: its subnets, in the form in which AWS takes
// them, and its address type.
type placement struct {
	mappings []elb.SubnetMapping
	kind     elb.IpAddressType
}

// planPlacement selects the subnets of a new load balancer, or those that an
// annotation names. It runs before the first write: without subnets nothing is to be
// created.
func (r *reconciler) planPlacement(ctx context.Context, current *elb.LoadBalancer) error {
	desired := r.result.desired
	// A load balancer keeps its subnets unless an annotation names others.
	if current != nil && len(desired.Subnets) == 0 {
		return r.checkAddressType(ctx, *current)
	}
	subnets, err := r.findSubnets(ctx, r.result.vpc, desired)
	if err != nil {
		return err
	}
	var refusal *v1alpha1.Refusal
	if r.place.mappings, refusal = planMappings(desired, subnets); refusal != nil {
		return refusal
	}
	// Whether dual stack is possible is known only with the selected subnets.
	if r.place.kind, refusal = desired.addressType(subnets); refusal != nil {
		return refusal
	}
	return nil
}

// checkAddressType refuses an address type that is not possible in the subnets of a load
// balancer.
func (r *reconciler) checkAddressType(ctx context.Context, current elb.LoadBalancer) error {
	desired := r.result.desired
	if desired.PreferDual || desired.AddressType != elb.IpAddressTypeDualstack || current.IpAddressType != elb.IpAddressTypeIpv4 {
		return nil
	}
	for _, z := range current.AvailabilityZones {
		desired.Subnets = append(desired.Subnets, aws.ToString(z.SubnetId))
	}
	r.subnets.invalidate() // an IPv6 CIDR may just have been added
	subnets, err := r.findSubnets(ctx, r.result.vpc, desired)
	if err != nil {
		return err
	}
	if _, refusal := desired.addressType(subnets); refusal != nil {
		return refusal
	}
	return nil
}

// setSecurityGroups sets the security groups of an existing load balancer, and whether
// they apply to the traffic of AWS PrivateLink.
func (r *reconciler) setSecurityGroups(ctx context.Context, b *elb.LoadBalancer, groups []string) error {
	// AWS lists the groups in an order of its own.
	groups = slices.Compact(slices.Sorted(slices.Values(groups)))
	// "on" is AWS's default, also of a response without the field.
	observed := cmp.Or(aws.ToString(b.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic), "on")
	desired := cmp.Or(r.result.desired.PrivateLink, observed)
	if desired == observed && slices.Equal(slices.Sorted(slices.Values(b.SecurityGroups)), groups) {
		return nil
	}
	in := &elbapi.SetSecurityGroupsInput{LoadBalancerArn: b.LoadBalancerArn, SecurityGroups: groups}
	// The call may set an omitted field to its default.
	if desired != "on" || observed != "on" {
		in.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic = elb.EnforceSecurityGroupInboundRulesOnPrivateLinkTrafficEnum(desired)
	}
	if _, err := callAPI(ctx, r.elb.SetSecurityGroups, in); err != nil {
		return err
	}
	b.SecurityGroups, b.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic = groups, &desired
	r.loadBalancers.put(*b)
	return nil
}

// changeBalancer changes subnets and the address type. A load balancer keeps its
// subnets unless an annotation names others.
func (r *reconciler) changeBalancer(ctx context.Context, b *elb.LoadBalancer) error {
	changed := false
	if len(r.result.desired.Subnets) > 0 {
		// SetSubnets replaces the whole list. Addresses are not compared here:
		// their change requires a replacement.
		if !sameSubnets(r.place.mappings, b.AvailabilityZones) {
			out, err := callAPI(ctx, r.elb.SetSubnets, &elbapi.SetSubnetsInput{LoadBalancerArn: b.LoadBalancerArn, SubnetMappings: r.place.mappings})
			if err != nil {
				return err
			}
			b.AvailabilityZones, changed = out.AvailabilityZones, true
		}
	}
	// A preference for dual stack applies to a new load balancer only: an existing
	// one keeps its address type. A response without a type does not differ.
	if kind := r.result.desired.AddressType; !r.result.desired.PreferDual && b.IpAddressType != "" && b.IpAddressType != kind {
		_, err := callAPI(ctx, r.elb.SetIpAddressType, &elbapi.SetIpAddressTypeInput{LoadBalancerArn: b.LoadBalancerArn, IpAddressType: kind})
		if err != nil {
			return err
		}
		b.IpAddressType, changed = kind, true
	}
	if changed {
		r.loadBalancers.put(*b)
	}
	return nil
}

// hasTakenOver reports whether the load balancer that this one replaces can be
// deleted: the new one is provisioned and has a healthy target, and the Service
// has shown its name for the grace period.
func (r *reconciler) hasTakenOver(b elb.LoadBalancer) bool {
	// The status is the one that clients have seen, as the controller has written
	// it, not the one of this sync.
	shows := slices.ContainsFunc(r.svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return in.Hostname == statusOf(b).Ingress[0].Hostname
	})
	if !shows || !isProvisioned(b) {
		// The grace period begins again when the Service shows the name again.
		r.result.shown = time.Time{}
		return false
	}
	if r.result.shown.IsZero() {
		r.result.shown = time.Now()
	}
	return r.observed.healthy && time.Since(r.result.shown) >= r.gracePeriod
}
