package speaker

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// takeovers returns the eligible nodes whose addresses this node announces, by name.
func takeovers(o observedState) (nodes []v1alpha1.Takeover) {
	eligible := eligibleNodes(o)
	for key, n := range o.plan.Neighbors {
		if len(n.Outranks) == 0 || !eligible[key.Node] {
			continue
		}
		p := o.peers[key]
		message := "has not taken its addresses back on " + key.Interface
		switch p.State {
		case failover.Leaving:
			message = "leaves the segment of " + key.Interface
		case failover.Gone:
			message = "does not answer for its addresses on " + key.Interface
		}
		nodes = append(nodes, v1alpha1.Takeover{Node: key.Node, Since: metav1.NewTime(p.Since.Truncate(time.Second)), Message: message})
	}
	slices.SortFunc(nodes, func(a, b v1alpha1.Takeover) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Message, b.Message))
	})
	nodes = slices.CompactFunc(nodes, func(a, b v1alpha1.Takeover) bool { return a.Node == b.Node })
	return nodes[:min(len(nodes), v1alpha1.MaxTakeovers)]
}

// takenOverFrom returns the nodes from which each address was taken over: those of a higher
// rank that were gone or had left when this node began to announce it. Nodes that rank higher
// for another reason, because they are new or not eligible for example, do not count. For an
// address that is in the last report, it returns what that report has, without nodes that do
// not rank higher any more: a node that fails again, comes back or is not Ready any more does
// not change the reports.
func takenOverFrom(before v1alpha1.SpeakerStatus, o observedState) map[netip.Addr][]v1alpha1.Takeover {
	eligible := eligibleNodes(o)
	from, order := map[netip.Addr][]v1alpha1.Takeover{}, map[netip.Addr][]string{}
	var reported []plan.AnnouncedGroup
	for key, n := range o.plan.Neighbors {
		if len(n.Outranks) > 0 && reported == nil {
			reported = plan.AnnouncedGroups(&v1alpha1.Speaker{Status: before})
		}
		p := o.peers[key]
		t := v1alpha1.Takeover{
			Node: key.Node, Since: metav1.NewTime(p.Since.Truncate(time.Second)), Message: "it did not answer for its addresses on " + key.Interface,
		}
		if p.State == failover.Leaving {
			t.Message = "it left the segment of " + key.Interface
		}
		left := (p.State == failover.Gone || p.State == failover.Leaving) && eligible[key.Node]
		for _, addr := range n.Outranks {
			group := slices.IndexFunc(reported, func(g plan.AnnouncedGroup) bool { return g.Addrs.Contains(addr) })
			switch {
			case group >= 0:
				order[addr] = nil
				for _, t := range reported[group].TakenOver {
					order[addr] = append(order[addr], t.Node)
					if t.Node == key.Node {
						from[addr] = append(from[addr], t)
					}
				}
			case left:
				order[addr] = o.plan.HigherRanked[addr]
				from[addr] = append(from[addr], t)
			}
		}
	}
	for addr, all := range from {
		rank := func(node string) uint { return uint(slices.Index(order[addr], node)) } // one that is not eligible is the last
		slices.SortFunc(all, func(a, b v1alpha1.Takeover) int {
			return cmp.Or(cmp.Compare(rank(a.Node), rank(b.Node)), strings.Compare(a.Node, b.Node), strings.Compare(a.Message, b.Message))
		})
		from[addr] = slices.CompactFunc(all, func(a, b v1alpha1.Takeover) bool { return a.Node == b.Node })
	}
	return from
}

// observeTakeovers records the duration of the takeover of each address that this node has
// begun to announce because an eligible node of a higher rank was gone or had left: of the
// last one, if there are several. before are the addresses that it announced already.
func observeTakeovers(o observedState, before map[netip.Addr]bool) {
	type takeover struct {
		cause string
		began time.Time
	}
	last := map[netip.Addr]takeover{}
	var eligible map[string]bool
	for key, n := range o.plan.Neighbors {
		p := o.peers[key]
		t := takeover{map[failover.State]string{failover.Gone: "failed", failover.Leaving: "left"}[p.State], p.Since}
		if t.cause == "" {
			continue
		}
		path, runs := o.paths[neighborKey(key, n)]
		if runs && path.Flaps > 0 && path.State != bfd.Up && !p.Filtered && path.Since.Before(t.began) {
			t.began = path.Since
		}
		for _, addr := range n.Outranks {
			if _, announced := o.claims[addr]; !announced || before[addr] || !last[addr].began.Before(t.began) {
				continue
			}
			if eligible == nil {
				eligible = eligibleNodes(o)
			}
			if eligible[key.Node] && slices.Contains(o.plan.HigherRanked[addr], key.Node) {
				last[addr] = t
			}
		}
	}
	for _, t := range last {
		takeoverDuration.WithLabelValues(t.cause).Observe(o.now.Sub(t.began).Seconds())
	}
}

// eligibleNodes returns the nodes that are eligible by their Nodes.
func eligibleNodes(o observedState) map[string]bool {
	anyReady := slices.ContainsFunc(o.nodes, config.NodeReady)
	eligible := map[string]bool{}
	for _, n := range o.nodes {
		eligible[n.Name] = plan.ExclusionReason(n) == "" && plan.RemovalReason(n) == "" && (config.NodeReady(n) || !anyReady)
	}
	return eligible
}

// neighborReports returns the nodes whose addresses this node takes over, sorted.
func neighborReports(o observedState) (reports []v1alpha1.Neighbor) {
	for peer, n := range o.plan.Neighbors {
		if len(n.Announces) == 0 {
			continue
		}
		p := o.peers[peer]
		r := v1alpha1.Neighbor{Node: peer.Node, Interface: peer.Interface, State: p.State.String()}
		path, runs := o.paths[neighborKey(peer, n)]
		switch {
		case runs:
			if r.BFD, r.Message = bfdReport(path); path.State == bfd.Up {
				r.DetectionMilliseconds = path.Detection.Milliseconds()
			}
		case !n.Remote.IsValid():
			r.Message = "no BFD: the nodes have no addresses of one subnet there"
		}
		if r.Filtered = p.Filtered; p.Filtered {
			r.Message = strings.TrimPrefix(r.Message+"; the node answers for its addresses: is UDP port 3784 filtered between the nodes?", "; ")
		}
		reports = append(reports, r)
	}
	slices.SortFunc(reports, func(a, b v1alpha1.Neighbor) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Interface, b.Interface))
	})
	return reports
}
