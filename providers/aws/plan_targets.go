package aws

import (
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

var (
	instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)
	// regionOf is the region at the front of a zone's name: eu-west-1a,
	// us-gov-east-1b, the local zone us-east-1-bos-1a.
	regionOf = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-\d+`)
)

// parseProviderID understands spec.providerID of a Node: aws:///ZONE/ID,
// aws:////ID, and the ID alone. Anything else (Fargate's pods, EKS hybrid
// nodes, other clouds, racks) is no instance that can be a target.
func parseProviderID(providerID string) (zone, instance string, ok bool) {
	rest, found := strings.CutPrefix(providerID, "aws://")
	if found {
		parts := strings.Split(strings.TrimLeft(rest, "/"), "/")
		instance = parts[len(parts)-1]
		if len(parts) == 2 {
			zone = parts[0]
		} else if len(parts) > 2 {
			return "", "", false
		}
	} else {
		instance = providerID
	}
	if !instanceID.MatchString(instance) {
		return "", "", false
	}
	return zone, instance, true
}

// target is a node that is an instance.
type target struct {
	Node, Instance string
}

// targets are the nodes that can be targets, ordered by instance, once each.
func targets(nodes []*corev1.Node, labels map[string]string) (all []target) {
	for _, n := range nodes {
		_, id, ok := parseProviderID(n.Spec.ProviderID)
		if !ok || !labelled(n, labels) {
			continue
		}
		all = append(all, target{n.Name, id})
	}
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.Instance, b.Instance) })
	return slices.CompactFunc(all, func(a, b target) bool { return a.Instance == b.Instance })
}

// labelled reports whether a node has all the labels; a label without a value
// needs only to be there.
func labelled(n *corev1.Node, labels map[string]string) bool {
	for k, v := range labels {
		have, ok := n.Labels[k]
		if !ok || v != "" && v != have {
			return false
		}
	}
	return true
}

// nodesRegion is the region that the nodes say they are in, "" if none does.
func nodesRegion(nodes []*corev1.Node) string {
	for _, n := range nodes {
		if zone, _, ok := parseProviderID(n.Spec.ProviderID); ok {
			if r := regionOf.FindString(zone); r != "" {
				return r
			}
			if r := n.Labels[corev1.LabelTopologyRegion]; r != "" {
				return r
			}
		}
	}
	return ""
}

// mostCommonVPC is where most of the instances are.
func mostCommonVPC(all []instance) (vpc string) {
	count := map[string]int{}
	for _, i := range all {
		count[i.VPC]++
		if n := count[i.VPC]; n > count[vpc] || n == count[vpc] && i.VPC < vpc {
			vpc = i.VPC
		}
	}
	return vpc
}

// spread cuts the targets down to what a balancer can have, by zone, always
// the same ones: most, the number of nodes of a zone, or of all if the
// balancer balances across zones.
func spread(all []instance, most int, crossZone bool) (used []instance) {
	count := map[string]int{}
	for _, i := range all {
		key := i.Zone
		if crossZone {
			key = ""
		}
		if count[key]++; count[key] <= most {
			used = append(used, i)
		}
	}
	return used
}

// moves is how targets become others: what comes first, what goes then, and
// what comes when there is room for it. The old and the new share the room,
// but where that would mean none at all for a moment.
func moves(have, want []string, most int) (first, remove, rest []string) {
	add := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return slices.Contains(have, id) })
	remove = slices.DeleteFunc(slices.Clone(have), func(id string) bool { return slices.Contains(want, id) })
	room := min(max(most-len(have), 0), len(add))
	if room == 0 && len(remove) == len(have) {
		room = len(add)
	}
	return add[:room], remove, add[room:]
}
