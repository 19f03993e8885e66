package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
)

// maxRanked is how many nodes of a ranking are kept for each address.
const maxRanked = 8

// ranking has the best nodes for an address on its only segment, best first.
type ranking struct {
	nodes    []*clusterNode
	complete bool // there are no more
}

// derivedAddress is what follows for an address from the cluster: from everything in a
// Snapshot but LocalFacts. It is valid for the same objects.
type derivedAddress struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice // of those under externalTrafficPolicy: Local
	held     heldAddress                  // without withoutEndpoints
	ranking  *ranking                     // nil without eligible nodes, and on several segments
	ranks    *rankedSegments              // nil until they are needed
}

// rankedSegments is the result of rankNodes.
type rankedSegments struct {
	segments [][]segmentNode
	refusal  v1alpha1.Refusal
}

// derive returns what follows for the address from the cluster.
func (d *decision) derive(h heldAddress) *derivedAddress {
	known := d.derived[h.addr]
	if known != nil && known.held.recorded == h.recorded && slices.Equal(known.services, h.services) &&
		slices.Equal(known.slices, d.localSlices(h.services)) {
		return known
	}
	known = &derivedAddress{services: slices.Clone(h.services), slices: slices.Clone(d.localSlices(h.services)), held: d.resolveAddress(h)}
	if r, ok := d.rank(known.held); ok {
		known.ranking = &r
	}
	d.derived[h.addr] = known
	return known
}

// rankedSegments returns the eligible nodes of each segment, best first, or why there is none.
func (d *decision) rankedSegments(a *derivedAddress) ([][]segmentNode, v1alpha1.Refusal) {
	if a.ranks == nil {
		a.ranks = &rankedSegments{}
		a.ranks.segments, a.ranks.refusal = d.rankNodes(a.held, nil)
	}
	return a.ranks.segments, a.ranks.refusal
}

// localSlices returns the EndpointSlices that decide on which nodes the Services are served.
// The result is valid until the next call.
func (d *decision) localSlices(services []*corev1.Service) []*discoveryv1.EndpointSlice {
	d.slices = d.slices[:0]
	for _, svc := range services {
		if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			d.slices = append(d.slices, d.endpoints[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]...)
		}
	}
	// The index of an informer does not have an order.
	slices.SortFunc(d.slices, func(a, b *discoveryv1.EndpointSlice) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return d.slices
}

// concernsOthers reports whether only other nodes announce the address on its segment, and
// observe each other for it: this node has nothing to do with it.
func (d *decision) concernsOthers(addr netip.Addr, r *ranking) bool {
	if r == nil || d.Local.Held[addr] || len(d.Local.Claimants[addr]) > 0 {
		return false
	}
	if _, answered := d.Local.Failover.Answered[addr]; answered {
		return false
	}
	acting := r.nodes[0].name
	if d.takenOver[acting] {
		return false
	}
	for i, n := range r.nodes {
		switch {
		case n.name == d.Node, d.gone[n.name], slices.Contains(d.TakenOver[acting], n.name):
			return false
		case i == failover.MaxSuccessors:
			return true
		}
	}
	return r.complete
}

// rank returns the ranking of an address. It is not ok if no node is eligible, or if the
// interfaces of the eligible nodes can be on several segments.
func (d *decision) rank(h heldAddress) (r ranking, ok bool) {
	candidates := d.poolCandidates(h.pool)
	d.ranked = d.ranked[:0]
	if names, known := h.endpointNodes(); known {
		for _, name := range names {
			if i, exists := d.nodeIndexes[name]; exists && candidates != nil && !d.addRanked(h, &candidates[i]) {
				return r, false
			}
		}
	} else {
		for i := range candidates {
			if !d.addRanked(h, &candidates[i]) {
				return r, false
			}
		}
	}
	if len(d.ranked) == 0 {
		return r, false
	}
	best, all := bestRanked(d.ranked)
	for _, n := range best {
		r.nodes = append(r.nodes, n.clusterNode)
	}
	return ranking{r.nodes, len(best) == all}, true
}

// addRanked adds a candidate to d.ranked if it is eligible. It returns false if one of its
// interfaces may be on another segment than that of the address.
func (d *decision) addRanked(h heldAddress, c *candidateNode) bool {
	if !c.selected || c.refusal.Reason != "" {
		return true
	}
	matches := false
	for _, i := range c.interfaces {
		if c.matches(i, h.addr) {
			if matches = true; !i.Contains(h.addr) {
				return false
			}
		}
	}
	if any, servesAll := h.servedBy(c.name); matches && any {
		hash := config.RendezvousScore(c.seed, h.addr)
		d.ranked = append(d.ranked, eligibleNode{clusterNode: c.clusterNode, servesAll: servesAll, weight: c.weight, hash: hash})
	}
	return true
}

// bestRanked returns the best of the nodes, best first, and the number of nodes that are
// ranked (withoutRemoved).
func bestRanked(nodes []eligibleNode) (best []eligibleNode, all int) {
	setScores(nodes)
	first := slices.MaxFunc(nodes, compareRank)
	stays := func(n eligibleNode) bool { return n.removal == "" && n.servesAll == first.servesAll }
	withRemoved := !slices.ContainsFunc(nodes, stays)
	for _, n := range nodes {
		if n.removal != "" && !withRemoved {
			continue
		}
		all++
		if len(best) == maxRanked && compareRank(n, best[maxRanked-1]) < 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(best, n, func(a, b eligibleNode) int { return compareRank(b, a) })
		best = slices.Insert(best, i, n)
		best = best[:min(len(best), maxRanked)]
	}
	return best, all
}
