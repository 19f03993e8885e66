package aws

import (
	"cmp"
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

// parseProviderID parses spec.providerID of a Node: aws:///ZONE/ID, aws:////ID,
// and the ID alone. Anything else (Fargate's pods, EKS hybrid nodes, other
// clouds, racks) cannot be a target.
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

// nodeTarget is a node that is an instance.
type nodeTarget struct {
	Node, Instance string
}

// targetNodes returns the nodes that can be targets, ordered by instance, each
// instance once.
func targetNodes(nodes []*corev1.Node, labels map[string]string) (all []nodeTarget) {
	for _, n := range nodes {
		_, id, ok := parseProviderID(n.Spec.ProviderID)
		if !ok || !hasLabels(n, labels) {
			continue
		}
		all = append(all, nodeTarget{n.Name, id})
	}
	slices.SortFunc(all, func(a, b nodeTarget) int { return strings.Compare(a.Instance, b.Instance) })
	return slices.CompactFunc(all, func(a, b nodeTarget) bool { return a.Instance == b.Instance })
}

// hasLabels reports whether a node has all the labels; a label without a value
// matches every value.
func hasLabels(n *corev1.Node, labels map[string]string) bool {
	for k, v := range labels {
		value, ok := n.Labels[k]
		if !ok || v != "" && v != value {
			return false
		}
	}
	return true
}

// nodesRegion returns the region that a node's zone or label names, "" if none does.
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

// mostCommonVPC returns the VPC of most of the usable instances.
func mostCommonVPC(all []instance) (vpc string) {
	count := map[string]int{}
	for _, i := range all {
		if !i.Usable {
			continue
		}
		count[i.VPC]++
		// Ties are broken by ID, so that each sync selects the same VPC.
		if n := count[i.VPC]; n > count[vpc] || n == count[vpc] && i.VPC < vpc {
			vpc = i.VPC
		}
	}
	return vpc
}

// unusableCause returns why an instance cannot be a target of a load balancer in the
// VPC, "" if it can.
func (i instance) unusableCause(vpc string) string {
	switch {
	case i.State == "":
		return "instance not found"
	case !i.Usable:
		return "instance is " + string(i.State)
	case i.VPC != vpc:
		return "instance in VPC " + i.VPC + ", the load balancer is in " + vpc
	}
	return ""
}

// targetLimit is how many instances a load balancer can have as targets.
type targetLimit struct {
	instances int
	crossZone bool // of all zones together, otherwise of each zone
}

// targetLimit returns the limit of a load balancer with so many target groups.
func (s stack) targetLimit(groups int) targetLimit {
	// The quota counts each pair of an instance and a target group.
	return targetLimit{maxTargets / max(groups, 1), s.Attributes[attrCrossZone] == "true"}
}

// crossZone reports whether cross-zone load balancing is enabled for all ports: by the
// load balancer's attribute, which an attribute of a target group overrides.
func (s stack) crossZone() bool {
	return !slices.ContainsFunc(s.Listeners, func(l listener) bool {
		return cmp.Or(l.Target.Attributes[attrCrossZone], s.Attributes[attrCrossZone]) != "true"
	})
}

// instanceIDs returns the IDs of the first instances within the limit, in order.
func (l targetLimit) instanceIDs(all []instance) (ids []string) {
	count := map[string]int{}
	for _, i := range all {
		zone := i.Zone
		if l.crossZone {
			zone = ""
		}
		// The instances are ordered by ID, so that the ones beyond the limit are
		// the same in every sync.
		if count[zone]++; count[zone] <= l.instances {
			ids = append(ids, i.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// planMoves replaces targets: first are registered, then remove deregistered,
// then rest registered. Never more than most are registered at once, except
// where no target would be left for a moment.
func planMoves(observed, desired []string, most int) (first, remove, rest []string) {
	add, remove := subtract(desired, observed), subtract(observed, desired)
	room := min(max(most-len(observed), 0), len(add))
	// No target stays, and the quota is used up: exceeding it for a moment is better
	// than to deregister the last target first.
	if room == 0 && len(remove) == len(observed) {
		room = len(add)
	}
	return add[:room], remove, add[room:]
}
