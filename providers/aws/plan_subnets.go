package aws

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// subnet has the properties of a subnet on which its selection depends.
type subnet struct {
	ID, Name, Zone string
	Free           int32 // addresses
	CIDR           netip.Prefix
	IPv6           bool
	Tags           map[string]string
	Public         bool // the route table has a route to an internet gateway; set only if needRoutes
	Remote         bool // in a local, wavelength or outpost zone
}

// minFree is how many free addresses a load balancer's subnet must have
// (CreateLoadBalancer, Subnets).
const minFree = 8

// roleTag is the tag by which AWS's controllers select the subnets of load
// balancers with the scheme.
func roleTag(scheme elb.LoadBalancerSchemeEnum) string {
	if scheme == elb.LoadBalancerSchemeEnumInternal {
		return "kubernetes.io/role/internal-elb"
	}
	return "kubernetes.io/role/elb"
}

// needRoutes reports whether the selection depends on the route tables, because
// no subnet has the role's tag.
func needRoutes(all []subnet, scheme elb.LoadBalancerSchemeEnum) bool {
	return !slices.ContainsFunc(all, func(s subnet) bool { return hasRole(s, scheme) })
}

// hasRole reports whether the subnet has the role's tag. Its value must be 1 or
// empty.
func hasRole(s subnet, scheme elb.LoadBalancerSchemeEnum) bool {
	v, ok := s.Tags[roleTag(scheme)]
	return ok && (v == "" || v == "1")
}

// selectSubnets returns one subnet for each zone, by role tag, otherwise by route
// table. The Refusal has the reasons if there is none.
func selectSubnets(all []subnet, scheme elb.LoadBalancerSchemeEnum, cluster string) ([]subnet, *v1alpha1.Refusal) {
	byRole := !needRoutes(all, scheme)
	count := map[string]int{}
	best := map[string]subnet{}
	for _, s := range all {
		switch {
		case s.Remote:
			count["in a local zone or on an outpost"]++
			continue
		// If any subnet has the tag, the tags are complete: the others are not
		// meant.
		case byRole && !hasRole(s, scheme):
			count["without the tag "+roleTag(scheme)]++
			continue
		case !byRole && s.Public != (scheme == elb.LoadBalancerSchemeEnumInternetFacing):
			count[map[bool]string{true: "public", false: "private"}[s.Public]]++
			continue
		// A VPC may have several clusters; a subnet without tags of any is free for
		// all.
		case ofOthersOnly(s, cluster):
			count["tagged for other clusters only"]++
			continue
		// CreateLoadBalancer would fail for all zones because of this one.
		case s.Free < minFree:
			count[fmt.Sprintf("with fewer than %d free addresses", minFree)]++
			continue
		}
		if other, ok := best[s.Zone]; !ok || isPreferred(s, other, cluster) {
			best[s.Zone] = s
		}
	}
	if len(best) == 0 {
		var why []string
		for what, n := range count {
			why = append(why, fmt.Sprintf("%d %s", n, what))
		}
		slices.Sort(why)
		if len(all) == 0 {
			why = []string{"the VPC does not have any"}
		}
		return nil, newRefusal(v1alpha1.NoSubnet,
			"no subnet for an %s load balancer: %s; tag one in each zone with %s=1, or list them in the annotation %ssubnets",
			scheme, strings.Join(why, ", "), roleTag(scheme), prefix)
	}
	return slices.SortedFunc(maps.Values(best), func(a, b subnet) int { return strings.Compare(a.Zone, b.Zone) }), nil
}

// ofOthersOnly reports whether the subnet has tags of clusters, but not of this one.
func ofOthersOnly(s subnet, cluster string) bool {
	if _, ours := s.Tags[tagClusterOwned(cluster)]; ours {
		return false
	}
	for k := range s.Tags {
		if strings.HasPrefix(k, tagClusterOwned("")) {
			return true
		}
	}
	return false
}

// isPreferred reports whether a is preferred to b, a subnet of the same zone.
func isPreferred(a, b subnet, cluster string) bool {
	_, inA := a.Tags[tagClusterOwned(cluster)]
	_, inB := b.Tags[tagClusterOwned(cluster)]
	if inA != inB {
		return inA
	}
	// The order by ID makes the selection the same in every sync.
	return a.ID < b.ID
}

// namedSubnets returns those that an annotation lists, by ID or Name tag, in its order.
func namedSubnets(all []subnet, names []string) (selected []subnet, refusal *v1alpha1.Refusal) {
	zones := map[string]string{}
	for _, name := range names {
		i := slices.IndexFunc(all, func(s subnet) bool { return s.ID == name || s.Name == name && name != "" })
		if i < 0 {
			return nil, newRefusal(v1alpha1.NoSubnet, "annotation %ssubnets: subnet %q not found in the VPC", prefix, name)
		}
		if other, twice := zones[all[i].Zone]; twice {
			return nil, newRefusal(v1alpha1.NoSubnet,
				"annotation %ssubnets: %s and %s are both in zone %s, and a load balancer has one subnet in each zone",
				prefix, other, name, all[i].Zone)
		}
		zones[all[i].Zone] = name
		selected = append(selected, all[i])
	}
	return selected, nil
}

// planMappings pairs subnets with the requested addresses: Elastic IP addresses
// in order, private addresses by the subnet that contains them.
func planMappings(s stack, subnets []subnet) (all []elb.SubnetMapping, refusal *v1alpha1.Refusal) {
	if n := len(s.EIPs); n > 0 && n != len(subnets) {
		return nil, newRefusal(v1alpha1.InvalidRequest,
			"annotation %seip-allocations: %d allocations for %d subnets: must have one for each subnet", prefix, n, len(subnets))
	}
	if n := len(s.Private); n > 0 && n != len(subnets) {
		return nil, newRefusal(v1alpha1.InvalidRequest,
			"annotation %sprivate-ipv4-addresses: %d addresses for %d subnets: must have one for each subnet", prefix, n, len(subnets))
	}
	for i, n := range subnets {
		m := elb.SubnetMapping{SubnetId: &n.ID}
		if len(s.EIPs) > 0 {
			m.AllocationId = &s.EIPs[i]
		}
		for _, text := range s.Private {
			if a, err := netip.ParseAddr(text); err == nil && n.CIDR.Contains(a) {
				m.PrivateIPv4Address = &text
			}
		}
		if len(s.Private) > 0 && m.PrivateIPv4Address == nil {
			return nil, newRefusal(v1alpha1.InvalidRequest,
				"annotation %sprivate-ipv4-addresses: no address is in CIDR %s of subnet %s", prefix, n.CIDR, n.ID)
		}
		all = append(all, m)
	}
	// The addresses are paired by now, so the order can be independent of the
	// annotation's.
	slices.SortFunc(all, func(a, b elb.SubnetMapping) int { return strings.Compare(*a.SubnetId, *b.SubnetId) })
	return all, nil
}

// sameSubnets reports whether the load balancer is in exactly the desired subnets.
// Addresses are not compared.
func sameSubnets(desired []elb.SubnetMapping, observed []elb.AvailabilityZone) bool {
	return len(desired) == len(observed) && !slices.ContainsFunc(observed, func(z elb.AvailabilityZone) bool {
		return !slices.ContainsFunc(desired, func(m elb.SubnetMapping) bool { return *m.SubnetId == aws.ToString(z.SubnetId) })
	})
}

// addressType returns dual stack where it is requested, or preferred and possible.
func (s stack) addressType(subnets []subnet) (elb.IpAddressType, *v1alpha1.Refusal) {
	i := slices.IndexFunc(subnets, func(n subnet) bool { return !n.IPv6 })
	switch {
	// A preference never fails: without IPv6 in each subnet, or with UDP, the load
	// balancer is IPv4 only.
	case s.PreferDual && i < 0 && !s.hasUDP():
		return elb.IpAddressTypeDualstack, nil
	case s.AddressType == elb.IpAddressTypeDualstack && i >= 0:
		return "", newRefusal(v1alpha1.NoSubnet, "a dual-stack load balancer requires an IPv6 CIDR in subnet %s", subnets[i].ID)
	}
	return s.AddressType, nil
}
