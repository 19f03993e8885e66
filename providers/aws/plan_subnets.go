package aws

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// subnet is what matters of a subnet.
type subnet struct {
	ID, Name, Zone string
	Free           int32 // addresses
	CIDR           netip.Prefix
	IPv6           bool
	Tags           map[string]string
	Public         bool // the route table leads to an internet gateway; only if needRoutes
	Remote         bool // in a local, wavelength or outpost zone
}

// minFree is how many free addresses a balancer's subnet must have
// (CreateLoadBalancer, Subnets).
const minFree = 8

func roleTag(scheme elb.LoadBalancerSchemeEnum) string {
	if scheme == elb.LoadBalancerSchemeEnumInternal {
		return "kubernetes.io/role/internal-elb"
	}
	return "kubernetes.io/role/elb"
}

// needRoutes reports whether only the route tables can tell which subnets to
// use: no subnet has the role's tag.
func needRoutes(all []subnet, scheme elb.LoadBalancerSchemeEnum) bool {
	return !slices.ContainsFunc(all, func(s subnet) bool { return hasRole(s, scheme) })
}

func hasRole(s subnet, scheme elb.LoadBalancerSchemeEnum) bool {
	v, ok := s.Tags[roleTag(scheme)]
	return ok && (v == "" || v == "1")
}

// chooseSubnets finds one subnet for each zone, and says why not if there is
// none: by role tag, else by what their route tables lead to.
func chooseSubnets(all []subnet, scheme elb.LoadBalancerSchemeEnum, cluster string) ([]subnet, *v1alpha1.Refusal) {
	byRole := !needRoutes(all, scheme)
	count := map[string]int{}
	best := map[string]subnet{}
	for _, s := range all {
		switch {
		case s.Remote:
			count["in a local zone or on an outpost"]++
			continue
		case byRole && !hasRole(s, scheme):
			count["without the tag "+roleTag(scheme)]++
			continue
		case !byRole && s.Public != (scheme == elb.LoadBalancerSchemeEnumInternetFacing):
			count[map[bool]string{true: "public", false: "private"}[s.Public]]++
			continue
		case othersOnly(s, cluster):
			count["tagged for other clusters only"]++
			continue
		case s.Free < minFree:
			count[fmt.Sprintf("with fewer than %d free addresses", minFree)]++
			continue
		}
		if have, ok := best[s.Zone]; !ok || preferred(s, have, cluster) {
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
			why = []string{"the VPC has none"}
		}
		return nil, &v1alpha1.Refusal{Reason: v1alpha1.NoSubnet, Message: fmt.Sprintf(
			"no subnet for an %s balancer: %s; tag one in each zone with %s=1, or name them with the annotation %ssubnets",
			scheme, strings.Join(why, ", "), roleTag(scheme), prefix)}
	}
	var chosen []subnet
	for _, s := range best {
		chosen = append(chosen, s)
	}
	slices.SortFunc(chosen, func(a, b subnet) int { return strings.Compare(a.Zone, b.Zone) })
	return chosen, nil
}

// othersOnly: the subnet has tags of clusters, but not of ours.
func othersOnly(s subnet, cluster string) bool {
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

// preferred orders the subnets of one zone.
func preferred(a, b subnet, cluster string) bool {
	_, inA := a.Tags[tagClusterOwned(cluster)]
	_, inB := b.Tags[tagClusterOwned(cluster)]
	if inA != inB {
		return inA
	}
	return a.ID < b.ID
}

// namedSubnets are those that an annotation lists, by ID or Name tag, in its order.
func namedSubnets(all []subnet, wanted []string) (chosen []subnet, refusal *v1alpha1.Refusal) {
	refuse := func(format string, args ...any) ([]subnet, *v1alpha1.Refusal) {
		return nil, &v1alpha1.Refusal{Reason: v1alpha1.NoSubnet, Message: "annotation " + prefix + "subnets: " + fmt.Sprintf(format, args...)}
	}
	zones := map[string]string{}
	for _, w := range wanted {
		i := slices.IndexFunc(all, func(s subnet) bool { return s.ID == w || s.Name == w && w != "" })
		if i < 0 {
			return refuse("the VPC has no subnet %q", w)
		}
		if other, twice := zones[all[i].Zone]; twice {
			return refuse("%s and %s are both in %s, and a balancer has one subnet in a zone", other, w, all[i].Zone)
		}
		zones[all[i].Zone] = w
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// mapping is a subnet with the addresses asked for (CreateLoadBalancer, SubnetMappings).
type mapping struct{ Subnet, Allocation, Private string }

// mappings pair subnets with the addresses asked for: Elastic IPs in order,
// private addresses by the subnet that contains them.
func mappings(s stack, chosen []subnet) (all []mapping, refusal *v1alpha1.Refusal) {
	refuse := func(name, format string, args ...any) ([]mapping, *v1alpha1.Refusal) {
		return nil, &v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: "annotation " + prefix + name + ": " + fmt.Sprintf(format, args...)}
	}
	if n := len(s.EIPs); n > 0 && n != len(chosen) {
		return refuse("eip-allocations", "%d allocations for %d subnets: there must be one for each", n, len(chosen))
	}
	if n := len(s.Private); n > 0 && n != len(chosen) {
		return refuse("private-ipv4-addresses", "%d addresses for %d subnets: there must be one for each", n, len(chosen))
	}
	for i, c := range chosen {
		m := mapping{Subnet: c.ID}
		if len(s.EIPs) > 0 {
			m.Allocation = s.EIPs[i]
		}
		for _, text := range s.Private {
			if a, err := netip.ParseAddr(text); err == nil && c.CIDR.Contains(a) {
				m.Private = text
			}
		}
		if len(s.Private) > 0 && m.Private == "" {
			return refuse("private-ipv4-addresses", "none is in %s of subnet %s", c.CIDR, c.ID)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b mapping) int { return cmp.Compare(a.Subnet, b.Subnet) })
	return all, nil
}
