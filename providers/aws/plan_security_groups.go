package aws

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// securityRule admits one source (EC2 IpPermission).
type securityRule struct {
	Protocol string // tcp, udp, icmp, icmpv6
	From, To int32  // ports; with ICMP type and code
	Source   string // CIDR, or the ID of a security group
}

func (r securityRule) String() string {
	return fmt.Sprintf("%s %d-%d from %s", r.Protocol, r.From, r.To, r.Source)
}

func compareRules(a, b securityRule) int { return strings.Compare(a.String(), b.String()) }

// clientRules admit clients to the listeners, and the ICMP messages without which
// path MTU discovery fails (RFC 1191, RFC 8201), unless an annotation excludes them.
func clientRules(listeners []listener, o serviceOptions, dual bool) (all []securityRule) {
	ranges := o.Ranges
	if len(ranges) == 0 {
		ranges = []string{"0.0.0.0/0"}
		if dual {
			ranges = append(ranges, "::/0")
		}
	}
	for _, l := range listeners {
		for _, source := range ranges {
			if l.Protocol != elb.ProtocolEnumUdp {
				all = append(all, securityRule{"tcp", l.Port, l.Port, source})
			}
			if l.hasUDP() {
				all = append(all, securityRule{"udp", l.Port, l.Port, source})
			}
		}
	}
	// Destination unreachable, fragmentation needed (RFC 792, RFC 1191): any router
	// on the path may send it, so the source ranges do not apply.
	if !o.NoMTUDiscovery {
		all = append(all, securityRule{"icmp", 3, 4, "0.0.0.0/0"})
	}
	if dual && !o.NoMTUDiscovery {
		// Packet Too Big (RFC 4443, section 3.2).
		all = append(all, securityRule{"icmpv6", 2, 0, "::/0"})
	}
	slices.SortFunc(all, compareRules)
	return all
}

// placeRules distributes rules over security groups. A rule stays in its group,
// so that no client is refused on the way, and new ones go where there is room
// alongside those that will be revoked, if possible.
func placeRules(desired []securityRule, observed [][]securityRule) (placed [][]securityRule) {
	placed = make([][]securityRule, len(observed))
	room, later := make([]int, len(observed)), make([]int, len(observed))
	var rest []securityRule
	for i := range observed {
		room[i] = rulesPerGroup - len(observed[i])
		later[i] = rulesPerGroup
	}
	for _, r := range desired {
		i := slices.IndexFunc(observed, func(rules []securityRule) bool { return slices.Contains(rules, r) })
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
	// Clients of the new rules must then wait until old rules are revoked.
	if len(rest) > total {
		room = later // some must be revoked first
	}
	for _, r := range rest {
		i := slices.IndexFunc(room, func(n int) bool { return n > 0 })
		placed[i] = append(placed[i], r)
		room[i]--
	}
	return placed
}

// rulesToRevokeFirst returns the observed rules that are revoked before others are
// authorized, so that no range is admitted that neither the applied rules nor the
// desired ones have. applied are those of the last sync that succeeded, none if this
// process has not made one; then rules that overlap a desired source stay, because
// they may be the applied ones, and their clients would be refused meanwhile. If
// the group is not attached to a load balancer, no client depends on a rule.
func rulesToRevokeFirst(observed, desired, applied []securityRule, attached bool) []securityRule {
	superfluous := subtract(observed, desired)
	if !attached {
		return superfluous
	}
	if len(applied) > 0 {
		return subtract(superfluous, applied)
	}
	sources := clientSources(desired)
	return slices.DeleteFunc(superfluous, func(r securityRule) bool {
		return slices.ContainsFunc(sources, func(source string) bool { return overlaps(r.Source, source) })
	})
}

// splitStaleRules returns the rules that admit clients outside of the desired
// sources, and the others: those of a port that is being removed, and those that are
// desired in another group.
func splitStaleRules(stale, desired []securityRule) (excluded, rest []securityRule) {
	sources := clientSources(desired)
	for _, r := range stale {
		if slices.Contains(sources, r.Source) || slices.Contains(desired, r) {
			rest = append(rest, r)
		} else {
			excluded = append(excluded, r)
		}
	}
	return excluded, rest
}

// clientSources returns the sources of clients. The rules for ICMP do not admit
// clients, and have a source of their own (clientRules).
func clientSources(rules []securityRule) (sources []string) {
	for _, r := range rules {
		if r.Protocol == "tcp" || r.Protocol == "udp" {
			sources = append(sources, r.Source)
		}
	}
	slices.Sort(sources)
	return slices.Compact(sources)
}

// overlaps reports whether two sources are equal, or are CIDRs with common addresses.
func overlaps(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := netip.ParsePrefix(a)
	y, errY := netip.ParsePrefix(b)
	return errX == nil && errY == nil && x.Overlaps(y)
}

// nodeRules admit the load balancers, by their shared security group, to the
// NodePorts and kube-proxy's health port of the nodes.
func nodeRules(shared string, nodePorts [2]int32) []securityRule {
	return []securityRule{
		{"tcp", portKubeProxy, portKubeProxy, shared},
		{"tcp", nodePorts[0], nodePorts[1], shared},
		{"udp", nodePorts[0], nodePorts[1], shared},
	}
}

// rulesOf flattens the permissions of a group.
func rulesOf(permissions []ec2.IpPermission) (all []securityRule) {
	for _, p := range permissions {
		r := securityRule{Protocol: aws.ToString(p.IpProtocol), From: aws.ToInt32(p.FromPort), To: aws.ToInt32(p.ToPort)}
		switch r.Protocol {
		// EC2 returns protocols by number, except those for which it has a name.
		case "1":
			r.Protocol = "icmp"
		case "58":
			r.Protocol = "icmpv6"
		}
		admit := func(source *string) {
			r.Source = aws.ToString(source)
			all = append(all, r)
		}
		for _, s := range p.IpRanges {
			admit(s.CidrIp)
		}
		for _, s := range p.Ipv6Ranges {
			admit(s.CidrIpv6)
		}
		for _, s := range p.UserIdGroupPairs {
			admit(s.GroupId)
		}
		for _, s := range p.PrefixListIds {
			admit(s.PrefixListId)
		}
	}
	slices.SortFunc(all, compareRules)
	return all
}

// permissionsOf is the inverse of rulesOf.
func permissionsOf(all []securityRule) (permissions []ec2.IpPermission) {
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

// selectNodeGroups returns the security groups of instances that must admit the
// load balancers: of each instance the one that is tagged as the cluster's, or its
// only one. If several are tagged, or none of several, it is the first by ID.
func selectNodeGroups(instances []instance, tagged func(group string) bool) (groups []string) {
	for _, i := range instances {
		candidates := slices.Sorted(slices.Values(i.Groups))
		if ours := slices.DeleteFunc(slices.Clone(candidates), func(g string) bool { return !tagged(g) }); len(ours) > 0 {
			candidates = ours
		}
		if len(candidates) > 0 {
			groups = append(groups, candidates[0])
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}
