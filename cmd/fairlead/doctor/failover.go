// This file examines the failover between nodes on the LAN, as the speakers report it. A
// finding says which node reports it: a report can be forged.

package doctor

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// maxPairs is the number of pairs of nodes with a finding each. More have one in common.
const maxPairs = 3

// slowDetection is the detection time from which a finding is shown, in milliseconds.
const slowDetection = 1000

// failoverFindings returns the nodes whose addresses others have taken over, the pairs of
// nodes between which BFD is filtered, and those between which it is slow. Reports of
// nodes that are not Ready, or that no L2Advertisement selects, do not count.
func failoverFindings(s objects.Snapshot) (found []finding) {
	candidates := map[string]bool{}
	for _, n := range s.Controller.Nodes {
		candidates[n.Name] = slices.ContainsFunc(s.Speaker.Config.L2Advertisements, func(ad config.L2Advertisement) bool {
			return ad.SelectsNode(labels.Set(n.Labels))
		})
	}
	takers := map[string][]string{} // by the node that the addresses were taken from
	var filtered, slow []string
	seen := map[[3]string]bool{}
	nodes := slices.SortedFunc(slices.Values(s.Controller.Nodes), func(a, b *corev1.Node) int {
		return strings.Compare(a.Name, b.Name)
	})
	for _, n := range nodes {
		if !config.NodeReady(n) || !candidates[n.Name] {
			continue
		}
		report := s.Reports[n.Name]
		taken := map[string]bool{}
		for _, group := range report.Announcing {
			for _, t := range group.TakenOver {
				if candidates[t.Node] && t.Node != n.Name && !taken[t.Node] {
					taken[t.Node] = true
					takers[t.Node] = append(takers[t.Node], n.Name+" reports: "+config.TakeoverText([]v1alpha1.Takeover{t}))
				}
			}
		}
		for _, neighbor := range report.Neighbors {
			pair := [3]string{min(n.Name, neighbor.Node), max(n.Name, neighbor.Node), neighbor.Interface}
			if !candidates[neighbor.Node] || seen[pair] {
				continue
			}
			if neighbor.Filtered {
				seen[pair] = true
				filtered = append(filtered, fmt.Sprintf("%s and %s on %s", neighbor.Node, n.Name, neighbor.Interface))
			}
			if neighbor.DetectionMilliseconds > slowDetection {
				seen[pair] = true
				slow = append(slow, fmt.Sprintf("%s and %s on %s (%d ms)", neighbor.Node, n.Name, neighbor.Interface, neighbor.DetectionMilliseconds))
			}
		}
	}
	for _, n := range nodes {
		if all := takers[n.Name]; len(all) > 0 {
			found = append(found, finding{
				severityDegraded, "Node " + n.Name, v1alpha1.TakenOver,
				"other nodes announce its addresses: " + v1alpha1.Abbreviate(all, "; ") +
					"; check that its speaker runs and that it is connected: kubectl -n fairlead-system get pods -o wide",
			})
		}
	}
	const hint = "they answer ARP or Neighbor Discovery, but not BFD, so that a takeover takes up to 3.5 s: is UDP port 3784 filtered between "
	if len(filtered) > maxPairs {
		found = append(found, finding{
			severityDegraded, "DaemonSet fairlead-speaker", v1alpha1.BFDFiltered,
			output.Count(len(filtered), "pair", "pairs") + " of nodes: " + v1alpha1.Abbreviate(filtered, "; ") + ": " + hint + "the nodes?",
		})
	} else {
		for _, pair := range filtered {
			found = append(found, finding{severityDegraded, "Nodes " + pair, v1alpha1.BFDFiltered, hint + "the two?"})
		}
	}
	if len(slow) > 0 {
		found = append(found, finding{
			severityNotice, "DaemonSet fairlead-speaker", v1alpha1.SlowDetection,
			"a failure is detected after more than 1 s between " + v1alpha1.Abbreviate(slow, "; ") +
				": BFD packets are sent less often on segments with many nodes; select fewer nodes in the L2Advertisement to detect it earlier",
		})
	}
	return found
}
