package aws

import (
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

// candidates are the balancers that there are.
func (w *work) candidates() (all []candidate) {
	for i := range w.have.balancers {
		b := &w.have.balancers[i]
		all = append(all, candidate{
			b, recorded(w.have.tags[aws.ToString(b.LoadBalancerArn)], tagAddresses),
			aws.ToString(b.LoadBalancerName) == w.names.second(w.svc.UID),
		})
	}
	return all
}

// ensureBalancer makes the balancer, or changes what can be changed in place.
func (w *work) ensureBalancer(ctx context.Context, current *elb.LoadBalancer, groups []string) (b elb.LoadBalancer, err error) {
	var tags map[string]string
	addresses := record(tagAddresses, strings.Join(w.want.addresses(), " "))
	if current == nil {
		tags = w.tags("", addresses)
		if b, err = w.createBalancer(ctx, groups, tags); err != nil {
			return b, err
		}
	} else {
		b = *current
		tags = w.have.tags[aws.ToString(b.LoadBalancerArn)]
		if err := w.changeBalancer(ctx, &b, groups); err != nil {
			return b, err
		}
		if len(addresses) == 0 { // nobody asks for those that it has any more
			addresses = record(tagAddresses, recorded(tags, tagAddresses))
		}
	}
	w.arn = aws.ToString(b.LoadBalancerArn)
	if err := w.ensureAttributes(ctx, ofBalancer(w.conn, w.arn, b.Scheme), w.want.Attributes, tags); err != nil {
		return b, err
	}
	return b, w.retag(ctx, w.arn, tags, w.tags("", addresses, record(tagAttributes, attributeRecord(w.want.Attributes))))
}

func (w *work) createBalancer(ctx context.Context, groups []string, tags map[string]string) (b elb.LoadBalancer, err error) {
	chosen, err := w.subnetsFor(ctx, w.conn, w.memory.vpc, w.want)
	if err != nil {
		return b, err
	}
	mapped, refusal := mappings(w.want, chosen)
	if refusal != nil {
		return b, refusal
	}
	kind, refusal := w.addressType(chosen)
	if refusal != nil {
		return b, refusal
	}
	out, err := call(ctx, w.conn.elb.CreateLoadBalancer, &elbapi.CreateLoadBalancerInput{
		Name: aws.String(w.name), Type: elb.LoadBalancerTypeEnumNetwork, Scheme: w.want.Scheme, IpAddressType: kind,
		SubnetMappings: subnetMappings(mapped), SecurityGroups: groups, Tags: elbTagList(tags),
	})
	if err != nil {
		return b, err
	}
	if len(out.LoadBalancers) == 0 {
		return b, errors.New("CreateLoadBalancer: the answer has no load balancer")
	}
	w.inventory.put(out.LoadBalancers[0])
	return out.LoadBalancers[0], nil
}

// addressType is dual stack where it is asked for, or preferred and possible.
func (w *work) addressType(chosen []subnet) (elb.IpAddressType, *v1alpha1.Refusal) {
	i := slices.IndexFunc(chosen, func(s subnet) bool { return !s.IPv6 })
	switch {
	case w.want.PreferDual && i < 0 && !w.want.hasUDP():
		return elb.IpAddressTypeDualstack, nil
	case w.want.AddressType == elb.IpAddressTypeDualstack && i >= 0:
		return "", &v1alpha1.Refusal{Reason: v1alpha1.NoSubnet, Message: "a dual-stack balancer is asked for, but subnet " + chosen[i].ID + " has no IPv6 CIDR"}
	}
	return w.want.AddressType, nil
}

func subnetMappings(mapped []mapping) (all []elb.SubnetMapping) {
	for _, m := range mapped {
		s := elb.SubnetMapping{SubnetId: aws.String(m.Subnet)}
		if m.Allocation != "" {
			s.AllocationId = aws.String(m.Allocation)
		}
		if m.Private != "" {
			s.PrivateIPv4Address = aws.String(m.Private)
		}
		all = append(all, s)
	}
	return all
}

// changeBalancer changes security groups, subnets and the kind of addresses.
// A balancer keeps its subnets unless an annotation names others.
func (w *work) changeBalancer(ctx context.Context, b *elb.LoadBalancer, groups []string) error {
	changed := false
	slices.Sort(groups)
	if have := slices.Sorted(slices.Values(b.SecurityGroups)); !slices.Equal(have, slices.Compact(groups)) {
		if _, err := call(ctx, w.conn.elb.SetSecurityGroups, &elbapi.SetSecurityGroupsInput{LoadBalancerArn: b.LoadBalancerArn, SecurityGroups: groups}); err != nil {
			return err
		}
		b.SecurityGroups, changed = groups, true
	}
	if len(w.want.Subnets) > 0 {
		chosen, err := w.subnetsFor(ctx, w.conn, w.memory.vpc, w.want)
		if err != nil {
			return err
		}
		mapped, refusal := mappings(w.want, chosen)
		if refusal != nil {
			return refusal
		}
		if !sameSubnets(mapped, b.AvailabilityZones) {
			out, err := call(ctx, w.conn.elb.SetSubnets, &elbapi.SetSubnetsInput{LoadBalancerArn: b.LoadBalancerArn, SubnetMappings: subnetMappings(mapped)})
			if err != nil {
				return err
			}
			b.AvailabilityZones, changed = out.AvailabilityZones, true
		}
	}
	if kind := w.want.AddressType; !w.want.PreferDual && b.IpAddressType != "" && b.IpAddressType != kind {
		if _, err := call(ctx, w.conn.elb.SetIpAddressType, &elbapi.SetIpAddressTypeInput{LoadBalancerArn: b.LoadBalancerArn, IpAddressType: kind}); err != nil {
			return err
		}
		b.IpAddressType, changed = kind, true
	}
	if changed {
		w.inventory.put(*b)
	}
	return nil
}

func sameSubnets(want []mapping, have []elb.AvailabilityZone) bool {
	return len(want) == len(have) && !slices.ContainsFunc(have, func(z elb.AvailabilityZone) bool {
		return !slices.ContainsFunc(want, func(m mapping) bool { return m.Subnet == aws.ToString(z.SubnetId) })
	})
}

// takenOver reports whether the balancer that this one replaces can go: the new
// one answers with a healthy target, and the Service has shown its name for a
// while.
func (w *work) takenOver(b elb.LoadBalancer) bool {
	shows := slices.ContainsFunc(w.svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return in.Hostname == statusOf(b).Ingress[0].Hostname
	})
	if !shows || !answers(b) {
		w.memory.shown = time.Time{}
		return false
	}
	if w.memory.shown.IsZero() {
		w.memory.shown = time.Now()
	}
	return w.healthy && time.Since(w.memory.shown) >= w.grace
}
