package plan

import (
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// clusterNode is a node with what decides whether it may announce at all.
type clusterNode struct {
	name          string
	labels        labels.Set
	seed          uint64
	refusal       v1alpha1.Refusal // if set, the node is not eligible for any address
	removal       string           // why the node is about to be removed; it announces what no other node can
	proxyNotReady bool             // ranks last on interfaces
	leaving       bool             // still advertises, with GRACEFUL_SHUTDOWN (RFC 8326)
	interfaces    []l2.Interface
}

// ExclusionReason returns why a node must not attract traffic, or "" if it may. Its speaker
// passes the last version of a Node that was deleted, without finalizers.
func ExclusionReason(n *corev1.Node) string {
	if n.DeletionTimestamp != nil && len(n.Finalizers) == 0 {
		return "was deleted"
	}
	if hasTaint(n, corev1.TaintNodeOutOfService) {
		return "has the taint " + corev1.TaintNodeOutOfService
	}
	if value, labelled := n.Labels[corev1.LabelNodeExcludeBalancers]; labelled && value != "false" {
		// As in k8s.io/cloud-provider, an invalid boolean excludes the node.
		if excluded, err := strconv.ParseBool(value); err != nil || excluded {
			return "has the label " + corev1.LabelNodeExcludeBalancers
		}
	}
	return ""
}

// Taints of autoscalers on a node that they are about to remove: of the Cluster Autoscaler
// (k8s.io/cloud-provider/controllers/service.ToBeDeletedTaint), and of Karpenter.
const taintToBeDeleted, taintDisrupted = "ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"

// RemovalReason returns why a node is about to be removed, or "" if it is not. It announces
// an address until another node does.
func RemovalReason(n *corev1.Node) string {
	switch {
	case n.DeletionTimestamp != nil:
		return "is being deleted"
	case hasTaint(n, taintToBeDeleted):
		return "has the taint " + taintToBeDeleted
	case hasTaint(n, taintDisrupted):
		return "has the taint " + taintDisrupted
	}
	return ""
}

func hasTaint(n *corev1.Node, key string) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

// reportingNode returns the node that reports an address that no node announces:
// the one of the highest rank, among the Ready nodes with an L2Node.
func (d *decision) reportingNode(addr netip.Addr) string {
	return d.highestRanked(addr, func(int) bool { return true })
}

// highestRanked returns the node of the highest rank, among the Ready nodes with an L2Node
// whose index is permitted; "" if there is none.
func (d *decision) highestRanked(addr netip.Addr, permitted func(i int) bool) (node string) {
	var best uint64
	for i, m := range d.nodes {
		s := config.RendezvousScore(m.seed, addr)
		if node != "" && s < best {
			continue
		}
		if _, reports := d.Interfaces[m.name]; reports && m.refusal.Reason != v1alpha1.NodeNotReady && permitted(i) {
			node, best = m.name, s
		}
	}
	return node
}

// ReportedInterfaces returns the interfaces of an L2Node, as far as they are within the
// bounds of its status. A compromised node can still claim to be on a segment
// on which it is not: only the nodeSelectors of L2Advertisements prevent that.
func ReportedInterfaces(n *v1alpha1.L2Node) []l2.Interface {
	bounded, _ := config.BoundInterfaces(n.Status.Interfaces)
	interfaces := make([]l2.Interface, 0, len(bounded))
	for _, reported := range bounded {
		i := l2.Interface{Name: reported.Name, MAC: reported.MACAddress, KernelAnswers: reported.KernelAnswers, VRF: reported.VRF}
		for _, text := range reported.Addresses {
			p, _ := config.ReportedSubnet(text)
			i.Prefixes = append(i.Prefixes, p)
		}
		interfaces = append(interfaces, i)
	}
	return interfaces
}
