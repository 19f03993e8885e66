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

// speakerReports is what the speakers say about addresses.
type speakerReports struct {
	byNode     map[string]*v1alpha1.Speaker // those that count
	announcing map[netip.Addr][]string      // "node-1 on eth0", sorted
	// routed are told to a BGP peer by some node. By which ones is not said:
	// each node that comes or goes would change every Service.
	routed      *netipx.IPSet
	unannounced map[netip.Addr]v1alpha1.Unannounced
}

// newSpeakerReports leaves out speakers of nodes that are gone or not ready: their
// last word is out of date.
func newSpeakerReports(nodes []*corev1.Node, speakers []*v1alpha1.Speaker) *speakerReports {
	r := &speakerReports{byNode: map[string]*v1alpha1.Speaker{}, announcing: map[netip.Addr][]string{}, unannounced: map[netip.Addr]v1alpha1.Unannounced{}}
	// As for the speakers: if no node is Ready, it is not the nodes that are away.
	anyReady := slices.ContainsFunc(nodes, config.NodeReady)
	counts := map[string]bool{}
	for _, n := range nodes {
		counts[n.Name] = config.NodeReady(n) || !anyReady
	}
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
					routed.AddRange(reported) // as one: every node reports most of a pool
					continue
				}
				for a := range config.AddressesOf(text) {
					r.announcing[a] = append(r.announcing[a], fmt.Sprintf("node %s on %s", s.Name, strings.Join(group.Interfaces, ", ")))
				}
			}
		}
		for _, group := range s.Status.Unannounced {
			if !isReasonName(group.Reason) {
				continue // nobody could write it into a condition
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
		panic(fmt.Sprintf("ranges that can be read make no set: %v", err))
	}
	return r
}

// isReasonName reports whether the text, which any node may have written, looks
// like a Reason.
func isReasonName(reason v1alpha1.Reason) bool {
	const enough = 100
	letter := func(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' }
	return reason != "" && len(reason) < enough && !strings.ContainsFunc(string(reason), func(r rune) bool { return !letter(r) })
}

func (r *speakerReports) announcedCondition(held []allocator.Held) metav1.Condition {
	no := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return newCondition(v1alpha1.ConditionAnnounced, metav1.ConditionFalse, reason, message)
	}
	if len(held) == 0 {
		return no(v1alpha1.NoAddress, "there is no address to announce")
	}
	var what []string
	for _, h := range held {
		by := slices.Clone(r.announcing[h.Addr])
		if r.routed.Contains(h.Addr) {
			by = append(by, "BGP")
		}
		if len(by) > 0 {
			what = append(what, fmt.Sprintf("%s by %s", h.Addr, strings.Join(by, " and ")))
			continue
		}
		if u, reported := r.unannounced[h.Addr]; reported {
			return no(u.Reason, fmt.Sprintf("%s: %s", h.Addr, u.Message))
		}
		if len(r.byNode) == 0 {
			return no(v1alpha1.NoSpeaker, "no speaker runs on a ready node: is the DaemonSet fairlead-speaker up?")
		}
		return no(v1alpha1.NoSpeaker, fmt.Sprintf("no speaker has reported about %s yet", h.Addr))
	}
	return newCondition(v1alpha1.ConditionAnnounced, metav1.ConditionTrue, v1alpha1.Announced, strings.Join(what, "; "))
}
