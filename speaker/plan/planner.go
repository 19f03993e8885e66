package plan

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Planner makes the plans of one node. It keeps what it has derived from the cluster for the
// next plan, so that the cost of a plan depends on what has changed. It must not be used
// concurrently. The zero Planner is ready for use.
type Planner struct {
	last       *decision
	namespaces memo.List[*corev1.Namespace]
	state      uint64 // of namespaces in the last plan
}

// Decide returns what the function Decide returns.
func (p *Planner) Decide(s Snapshot) Plan {
	d := newDecision(s)
	state := p.namespaces.Observe(s.Namespaces, func(a, b *corev1.Namespace) bool { return maps.Equal(a.Labels, b.Labels) })
	if p.last != nil && p.state == state && p.last.ConfigState == s.ConfigState && s.ConfigState != (config.State{}) {
		d.reuse(p.last)
	}
	p.last, p.state = d, state
	return d.decide()
}

// maxNodeChanges is how many nodes may have changed for the rankings of others to be kept.
const maxNodeChanges = 8

// nodeChange is a node that differs from that of the last plan; nil if it is missing.
type nodeChange struct{ before, after *clusterNode }

// reuse takes over what was derived for the last plan, for the same configuration and
// namespaces, and is still valid.
func (d *decision) reuse(last *decision) {
	d.pools, d.namespaceLabels = last.pools, last.namespaceLabels
	changes := d.keepNodes(last.nodes)
	if len(changes) > maxNodeChanges {
		return
	}
	d.derived = last.derived
	if len(changes) == 0 {
		d.candidatesByPool = last.candidatesByPool
		if slices.EqualFunc(d.peerings, last.peerings, func(a, b Peering) bool { return a.Config.Name == b.Config.Name }) {
			d.routesByScope = last.routesByScope
		}
		return
	}
	for addr, a := range d.derived {
		a.ranks = nil
		if !d.staysRanked(a, changes) {
			delete(d.derived, addr)
		}
	}
}

// keepNodes replaces the nodes that have not changed by the same ones of the last plan, and
// returns the others.
func (d *decision) keepNodes(last []*clusterNode) (changes []nodeChange) {
	for i, j := 0, 0; i < len(d.nodes) || j < len(last); {
		switch {
		case j == len(last) || i < len(d.nodes) && d.nodes[i].name < last[j].name:
			changes = append(changes, nodeChange{after: d.nodes[i]})
			i++
		case i == len(d.nodes) || last[j].name < d.nodes[i].name:
			changes = append(changes, nodeChange{before: last[j]})
			j++
		default:
			if d.nodes[i].equal(last[j]) {
				d.nodes[i] = last[j]
			} else {
				changes = append(changes, nodeChange{last[j], d.nodes[i]})
			}
			i, j = i+1, j+1
		}
	}
	return changes
}

// equal reports whether plans do not depend on which of the nodes of one name is used.
func (m *clusterNode) equal(o *clusterNode) bool {
	return m.refusal == o.refusal && m.removal == o.removal && m.proxyNotReady == o.proxyNotReady && m.leaving == o.leaving &&
		maps.Equal(m.labels, o.labels) && slices.EqualFunc(m.interfaces, o.interfaces, equalInterfaces)
}

func equalInterfaces(a, b l2.Interface) bool {
	return a.Name == b.Name && a.MAC == b.MAC && a.KernelAnswers == b.KernelAnswers && a.VRF == b.VRF && slices.Equal(a.Prefixes, b.Prefixes)
}

// staysRanked reports whether the ranking of an address is the same after the changes.
func (d *decision) staysRanked(a *derivedAddress, changes []nodeChange) bool {
	if a.ranking == nil || d.poolCandidates(a.held.pool) == nil {
		return false
	}
	nodes := a.ranking.nodes
	for _, c := range changes {
		if c.before != nil && slices.Contains(nodes, c.before) {
			return false
		}
		if c.after == nil {
			continue
		}
		d.ranked = d.ranked[:0]
		if !d.addRanked(a.held, d.candidate(a.held.pool, c.after.name)) {
			return false
		}
		if len(d.ranked) == 0 {
			continue // it is not eligible
		}
		// A node that is about to be removed does not count beside others (bestRanked).
		if a.held.localNodes == nil && c.after.removal != "" && nodes[0].removal == "" {
			continue
		}
		last := nodes[len(nodes)-1]
		if a.ranking.complete || a.held.localNodes != nil || c.after.removal != "" || last.removal != "" {
			return false
		}
		d.addRanked(a.held, d.candidate(a.held.pool, last.name))
		setScores(d.ranked)
		if len(d.ranked) != 2 || compareRank(d.ranked[0], d.ranked[1]) > 0 {
			return false
		}
	}
	return true
}

// retainDerived removes what was derived for other addresses, once it is most of all.
func (d *decision) retainDerived(held []heldAddress) {
	if len(d.derived) <= 2*len(held)+maxRanked {
		return
	}
	derived := make(map[netip.Addr]*derivedAddress, len(held))
	for _, h := range held {
		if a := d.derived[h.addr]; a != nil {
			derived[h.addr] = a
		}
	}
	d.derived = derived
}
