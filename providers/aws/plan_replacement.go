package aws

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// unchangeableField names the desired change that AWS cannot make to a load balancer,
// "" if it can make all.
func (b existingBalancer) unchangeableField(desired stack) string {
	requested := desired.requestedAddresses()
	switch {
	// The scheme is fixed by CreateLoadBalancer. The administrator's default
	// applies to new load balancers only.
	case b.Scheme != "" && b.Scheme != desired.Scheme && !desired.AnyScheme:
		return fmt.Sprintf("the scheme from %s to %s", b.Scheme, desired.Scheme)
	// SetSecurityGroups can neither remove all groups of a Network Load Balancer
	// nor add the first one.
	case desired.NoGroups && len(b.SecurityGroups) > 0:
		return "the security groups to none"
	case !desired.NoGroups && len(b.SecurityGroups) == 0:
		return "the security groups from none"
	// A load balancer keeps its addresses when they are not requested any more.
	case len(requested) == 0:
		return ""
	// Each recorded address must be requested still. More may be, for subnets that
	// are added.
	case b.addresses == "" || len(subtract(strings.Fields(b.addresses), requested)) > 0:
		return "the addresses to " + strings.Join(requested, ", ")
	}
	return ""
}

// requestedAddresses returns the requested addresses in the form of their record: AWS does
// not always list those of a load balancer.
func (s stack) requestedAddresses() []string {
	return slices.Sorted(slices.Values(append(slices.Clone(s.EIPs), s.Private...)))
}

// existingBalancer is a load balancer of the Service.
type existingBalancer struct {
	*elb.LoadBalancer
	addresses string // the record of the requested ones
	second    bool   // it has the second of the Service's two names
}

// balancerSelection is the desired load balancer: current, or a new one with the
// first or second name; and the one that it replaces.
type balancerSelection struct {
	current, old *elb.LoadBalancer
	second       bool
}

// selectBalancer decides which load balancer is the desired one, and which one it
// replaces. One that cannot be changed into the desired state is replaced only
// where that is allowed.
func selectBalancer(desired stack, existing []existingBalancer) (balancerSelection, *v1alpha1.Refusal) {
	if len(existing) == 0 {
		return balancerSelection{}, nil
	}
	b := existing[0]
	why := b.unchangeableField(desired)
	if len(existing) > 1 { // a replacement has begun, and may not be desired any more
		old := existing[1]
		// The Service was changed back during the replacement: the first load
		// balancer may be the desired one again.
		if why != "" {
			b, old = old, b
		}
		if why = b.unchangeableField(desired); why != "" {
			return balancerSelection{}, newRefusal(v1alpha1.ReplacementRequired,
				"AWS cannot change %s of load balancer %s, which is still being replaced", why, aws.ToString(b.LoadBalancerName))
		}
		return balancerSelection{b.LoadBalancer, old.LoadBalancer, b.second}, nil
	}
	switch {
	// The load balancer keeps its IPv6 addresses, although the Service only prefers
	// dual stack: the UDP port is refused instead.
	case why == "" && desired.PreferDual && b.IpAddressType == elb.IpAddressTypeDualstack && desired.hasUDP():
		return balancerSelection{}, newRefusal(v1alpha1.InvalidRequest, "%s", noUDP)
	case why == "":
		return balancerSelection{b.LoadBalancer, nil, b.second}, nil
	// A replacement has another DNS name and other addresses, so that it needs the
	// consent of the Service's owner.
	case !desired.Replaceable:
		return balancerSelection{}, newRefusal(v1alpha1.ReplacementRequired,
			"AWS cannot change %s of load balancer %s; the annotation %s: \"true\" allows replacing it by one with another host name",
			why, aws.ToString(b.LoadBalancerName), v1alpha1.AnnotationAllowReplacement)
	}
	return balancerSelection{nil, b.LoadBalancer, !b.second}, nil
}
