package aws

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// rule lets something in (EC2 IpPermission, one source).
type rule struct {
	Protocol string // tcp, udp, icmp, icmpv6
	From, To int32  // ports; with ICMP type and code
	Source   string // CIDR, or the ID of a security group
}

func (r rule) String() string {
	return fmt.Sprintf("%s %d-%d from %s", r.Protocol, r.From, r.To, r.Source)
}

func compareRules(a, b rule) int { return strings.Compare(a.String(), b.String()) }

// rules admit clients to the listeners, and the ICMP messages without which
// path MTU discovery fails (RFC 1191, RFC 8201).
func rules(listeners []listener, ranges []string, dual bool) (all []rule) {
	if len(ranges) == 0 {
		ranges = []string{"0.0.0.0/0"}
		if dual {
			ranges = append(ranges, "::/0")
		}
	}
	for _, l := range listeners {
		for _, source := range ranges {
			if l.Protocol != elb.ProtocolEnumUdp {
				all = append(all, rule{"tcp", l.Port, l.Port, source})
			}
			if l.Protocol == elb.ProtocolEnumUdp || l.Protocol == elb.ProtocolEnumTcpUdp {
				all = append(all, rule{"udp", l.Port, l.Port, source})
			}
		}
	}
	all = append(all, rule{"icmp", 3, 4, "0.0.0.0/0"})
	if dual {
		all = append(all, rule{"icmpv6", 2, 0, "::/0"})
	}
	slices.SortFunc(all, compareRules)
	return all
}

// placeRules says which of the security groups holds which rule. A rule stays
// where it is, so that nobody is shut out while others are let in, and new ones
// go where there is room beside those that will leave, if possible.
func placeRules(want []rule, have [][]rule) (placed [][]rule) {
	placed = make([][]rule, len(have))
	room, later := make([]int, len(have)), make([]int, len(have))
	var rest []rule
	for i := range have {
		room[i] = rulesPerGroup - len(have[i])
		later[i] = rulesPerGroup
	}
	for _, r := range want {
		i := slices.IndexFunc(have, func(rules []rule) bool { return slices.Contains(rules, r) })
		if i < 0 {
			rest = append(rest, r)
			continue
		}
		placed[i] = append(placed[i], r)
		later[i]--
	}
	total := 0
	for _, n := range room {
		total += n
	}
	if len(rest) > total {
		room = later // some must leave first
	}
	for _, r := range rest {
		i := slices.IndexFunc(room, func(n int) bool { return n > 0 })
		placed[i] = append(placed[i], r)
		room[i]--
	}
	return placed
}

// nodeRules admit the balancers, by their shared security group, to the
// NodePorts and kube-proxy's health port of the nodes.
func nodeRules(backend string, nodePorts [2]int32) []rule {
	return []rule{
		{"tcp", portKubeProxy, portKubeProxy, backend},
		{"tcp", nodePorts[0], nodePorts[1], backend},
		{"udp", nodePorts[0], nodePorts[1], backend},
	}
}

// rulesOf flattens what AWS says about a group.
func rulesOf(permissions []ec2.IpPermission) (all []rule) {
	for _, p := range permissions {
		r := rule{Protocol: aws.ToString(p.IpProtocol), From: aws.ToInt32(p.FromPort), To: aws.ToInt32(p.ToPort)}
		switch r.Protocol {
		case "1":
			r.Protocol = "icmp"
		case "58":
			r.Protocol = "icmpv6"
		}
		for _, s := range p.IpRanges {
			r.Source = aws.ToString(s.CidrIp)
			all = append(all, r)
		}
		for _, s := range p.Ipv6Ranges {
			r.Source = aws.ToString(s.CidrIpv6)
			all = append(all, r)
		}
		for _, s := range p.UserIdGroupPairs {
			r.Source = aws.ToString(s.GroupId)
			all = append(all, r)
		}
		for _, s := range p.PrefixListIds {
			r.Source = aws.ToString(s.PrefixListId)
			all = append(all, r)
		}
	}
	slices.SortFunc(all, compareRules)
	return all
}

// permissions is the opposite of rulesOf.
func permissions(all []rule) (permissions []ec2.IpPermission) {
	for _, r := range all {
		p := ec2.IpPermission{IpProtocol: aws.String(r.Protocol), FromPort: aws.Int32(r.From), ToPort: aws.Int32(r.To)}
		switch {
		case strings.HasPrefix(r.Source, "sg-"):
			p.UserIdGroupPairs = []ec2.UserIdGroupPair{{GroupId: aws.String(r.Source)}}
		case strings.HasPrefix(r.Source, "pl-"):
			p.PrefixListIds = []ec2.PrefixListId{{PrefixListId: aws.String(r.Source)}}
		case strings.Contains(r.Source, ":"):
			p.Ipv6Ranges = []ec2.Ipv6Range{{CidrIpv6: aws.String(r.Source)}}
		default:
			p.IpRanges = []ec2.IpRange{{CidrIp: aws.String(r.Source)}}
		}
		permissions = append(permissions, p)
	}
	return permissions
}

// without is what the first has and the second lacks.
func without(a, b []rule) []rule {
	return slices.DeleteFunc(slices.Clone(a), func(r rule) bool { return slices.Contains(b, r) })
}

// nodeGroups are the security groups of instances that shall admit the
// balancers: of each instance the one that is tagged as the cluster's, or its
// only one. Several tagged ones, or none of several, is no reason to serve
// nobody: the first by ID is taken.
func nodeGroups(instances []instance, tagged func(group string) bool) (groups []string) {
	for _, i := range instances {
		candidates := slices.Sorted(slices.Values(i.Groups))
		if preferred := slices.DeleteFunc(slices.Clone(candidates), func(g string) bool { return !tagged(g) }); len(preferred) > 0 {
			candidates = preferred
		}
		if len(candidates) > 0 {
			groups = append(groups, candidates[0])
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}
