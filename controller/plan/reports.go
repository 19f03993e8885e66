package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// speakerReports are the reports of all speakers, by address.
type speakerReports struct {
	byNode     map[string]*v1alpha1.Speaker // of nodes that count
	announcing map[netip.Addr][]string      // "node-1 on eth0", sorted
	// routed are the addresses that any node advertises to a BGP peer. The nodes are
	// not kept: each node that is added or removed would change every Service.
	routed      *netipx.IPSet
	unannounced map[netip.Addr]v1alpha1.Unannounced
	nodes       map[netip.Addr]string // addresses of nodes, which are not announced
}

// newSpeakerReports collects the reports of speakers on Ready nodes: the last report
// of any other is out of date.
func newSpeakerReports(nodes []*corev1.Node, speakers []*v1alpha1.Speaker) *speakerReports {
	r := &speakerReports{
		byNode: map[string]*v1alpha1.Speaker{}, announcing: map[netip.Addr][]string{}, unannounced: map[netip.Addr]v1alpha1.Unannounced{},
	}
	// If no node is Ready, the API server is more likely cut off than every node is
	// down: then readiness does not count, as in the speakers' plans.
	anyReady := slices.ContainsFunc(nodes, config.NodeReady)
	counts := map[string]bool{}
	for _, n := range nodes {
		counts[n.Name] = config.NodeReady(n) || !anyReady
	}
	r.nodes, _ = nodeAddresses(nodes)
	var routed netipx.IPSetBuilder
	sorted := slices.SortedFunc(slices.Values(speakers), func(a, b *v1alpha1.Speaker) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range sorted {
		if !counts[s.Name] {
			continue
		}
		r.byNode[s.Name] = s
		for _, group := range s.Status.Announcing {
			for _, text := range group.Addresses {
				if reported, ok := config.ReportedRange(text); ok && len(group.Peers) > 0 {
					routed.AddRange(reported) // as one range: every node reports most of a pool
					continue
				}
				for a := range config.AddressesOf(text) {
					r.announcing[a] = append(r.announcing[a], fmt.Sprintf("node %s on %s", s.Name, strings.Join(group.Interfaces, ", ")))
				}
			}
		}
		for _, group := range s.Status.Unannounced {
			if !isReasonName(group.Reason) {
				continue // the API server would refuse it in a condition
			}
			for _, text := range group.Addresses {
				for a := range config.AddressesOf(text) {
					r.unannounced[a] = group
				}
			}
		}
	}
	var err error
	if r.routed, err = routed.IPSet(); err != nil {
		panic(fmt.Sprintf("build the set of routed addresses: %v", err)) // the ranges are valid
	}
	return r
}

// isReasonName reports whether a Reason that any node may have written is a valid
// reason of a condition.
func isReasonName(reason v1alpha1.Reason) bool {
	const maxLength = 100
	letter := func(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' }
	return reason != "" && len(reason) < maxLength && !strings.ContainsFunc(string(reason), func(r rune) bool { return !letter(r) })
}

// announcedCondition is True if every held address is announced. Otherwise it has
// the reason of the first one that is not.
func (r *speakerReports) announcedCondition(held []allocator.Held) metav1.Condition {
	no := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return newCondition(v1alpha1.ConditionAnnounced, metav1.ConditionFalse, reason, message)
	}
	if len(held) == 0 {
		return no(v1alpha1.NoAddress, "no address to announce")
	}
	var announced []string
	for _, h := range held {
		// Two hosts would answer for it, and the node would be cut off.
		if usage := r.nodes[h.Addr]; usage != "" {
			return no(v1alpha1.NodeAddress, fmt.Sprintf("%s %s: it is never announced", h.Addr, usage))
		}
		by := slices.Clone(r.announcing[h.Addr])
		if r.routed.Contains(h.Addr) {
			by = append(by, "BGP")
		}
		if len(by) > 0 {
			announced = append(announced, fmt.Sprintf("%s by %s", h.Addr, strings.Join(by, " and ")))
			continue
		}
		// The reason that a speaker has reported takes precedence.
		if u, reported := r.unannounced[h.Addr]; reported {
			return no(u.Reason, fmt.Sprintf("%s: %s", h.Addr, u.Message))
		}
		if len(r.byNode) == 0 {
			return no(v1alpha1.NoSpeaker, "no speaker runs on a ready node: is the DaemonSet fairlead-speaker up?")
		}
		return no(v1alpha1.NoSpeaker, fmt.Sprintf("no speaker has reported about %s yet", h.Addr))
	}
	return newCondition(v1alpha1.ConditionAnnounced, metav1.ConditionTrue, v1alpha1.Announced, strings.Join(announced, "; "))
}
