package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// candidateNode is a node with what the L2Advertisements of a pool select of it.
type candidateNode struct {
	*clusterNode
	selected        bool
	weight          int32    // of the node's score
	bySubnet        bool     // announces on interfaces in a subnet that contains the address
	namedInterfaces []string // announces on these, whatever their subnet
}

// poolCandidates returns all nodes as candidates for the addresses of a pool, nil if no
// L2Advertisement covers the pool.
func (d *decision) poolCandidates(pool string) []candidateNode {
	if known, ok := d.candidatesByPool[pool]; ok {
		return known
	}
	var all []candidateNode
	for _, ad := range d.Config.L2Advertisements {
		if !ad.Covers(pool) {
			continue
		}
		if all == nil {
			all = make([]candidateNode, len(d.nodes))
			for i, m := range d.nodes {
				all[i].clusterNode, all[i].weight = m, -1
			}
		}
		for i := range all {
			if ad.SelectsNode(all[i].labels) {
				all[i].selected = true
				all[i].bySubnet = all[i].bySubnet || len(ad.Interfaces) == 0
				all[i].namedInterfaces = append(all[i].namedInterfaces, ad.Interfaces...)
				all[i].weight = max(all[i].weight, ad.NodeWeight(all[i].labels))
			}
		}
	}
	for i := range all {
		if all[i].weight < 0 {
			all[i].weight = 1
		}
	}
	d.candidatesByPool[pool] = all
	return all
}

// eligibleNode is a node that may own the address, with the interfaces it may use.
type eligibleNode struct {
	*clusterNode
	servesAll   bool // serves all Services that hold the address
	weight      int32
	hash, score uint64 // the score is set only if the nodes differ in weight
	interfaces  []l2.Interface
}

// rankNodes returns the eligible nodes of each segment, best first, or why there is none.
// It calls observe, unless nil, with the state of every node, in order of names; the
// owners are then the best nodes, whether or not they are live.
func (d *decision) rankNodes(h heldAddress, observe func(NodeState)) (segments [][]segmentNode, refusal v1alpha1.Refusal) {
	candidates := d.poolCandidates(h.pool)
	if candidates == nil {
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	}
	states, eligible := d.nodeStates[:0], d.eligible[:0]
	defer func() { d.nodeStates, d.eligible = states, eligible }()
	for _, c := range candidates {
		r, interfaces := c.checkEligibility(h)
		if r.Reason == "" {
			_, servesAll := h.servedBy(c.name)
			eligible = append(eligible, eligibleNode{
				clusterNode: c.clusterNode, servesAll: servesAll, weight: c.weight, hash: config.RendezvousScore(c.seed, h.addr), interfaces: interfaces,
			})
		}
		states = append(states, NodeState{Node: c.name, Reason: r.Reason, Message: r.Message})
	}
	setScores(eligible)
	segments = segmentsOf(eligible, h.addr)
	for i, nodes := range segments {
		segments[i] = withoutRemoved(nodes)
	}
	if len(segments) == 0 {
		refusal = summarizeRefusals(h.pool, states)
	}
	for i, s := range states {
		if observe == nil {
			break
		}
		c := candidates[i]
		s.Selected, s.Weight, s.Score = c.selected, c.weight, config.WeightedScore(config.RendezvousScore(c.seed, h.addr), c.weight)
		if s.Interfaces = ownedInterfaces(segments, s.Node); s.Reason == "" && len(s.Interfaces) == 0 {
			s.Reason, s.Message = notOwnerRefusal(h, s.Node, eligible, segments)
		}
		observe(s)
	}
	return segments, refusal
}

// setScores sets the scores of the nodes, unless all are of one weight: these rank by the
// hash, which is faster.
func setScores(nodes []eligibleNode) {
	if !slices.ContainsFunc(nodes, func(n eligibleNode) bool { return n.weight != nodes[0].weight }) {
		return
	}
	for i, n := range nodes {
		nodes[i].score = config.WeightedScore(n.hash, n.weight)
	}
}

// ownedInterfaces returns the interfaces of the segments on which the node is the best one,
// sorted.
func ownedInterfaces(segments [][]segmentNode, node string) (names []string) {
	for _, nodes := range segments {
		if nodes[0].name == node {
			names = append(names, nodes[0].names...)
		}
	}
	slices.Sort(names)
	return names
}

// withoutRemoved returns the nodes of a segment without those that are about to be removed,
// unless all are that serve the address.
func withoutRemoved(nodes []segmentNode) []segmentNode {
	stays := func(n segmentNode) bool { return n.removal == "" && n.servesAll == nodes[0].servesAll }
	if !slices.ContainsFunc(nodes, stays) {
		return nodes
	}
	return slices.DeleteFunc(nodes, func(n segmentNode) bool { return n.removal != "" })
}

// notOwnerRefusal returns why an eligible node does not own the address.
func notOwnerRefusal(h heldAddress, node string, eligible []eligibleNode, segments [][]segmentNode) (v1alpha1.Reason, string) {
	i := slices.IndexFunc(eligible, func(e eligibleNode) bool { return e.name == node })
	ranks := func(nodes []segmentNode) bool {
		return slices.ContainsFunc(nodes, func(n segmentNode) bool { return n.name == node })
	}
	if removal := eligible[i].removal; removal != "" && !slices.ContainsFunc(segments, ranks) {
		return v1alpha1.NodeBeingRemoved, removal + ", and another node can announce it"
	}
	if _, all := h.servedBy(node); !all && slices.ContainsFunc(eligible, func(e eligibleNode) bool { return e.servesAll }) {
		r := h.missingEndpoints(node)
		return r.Reason, r.Message
	}
	if eligible[i].proxyNotReady {
		return v1alpha1.NotOwner, "could announce it, but its kube-proxy does not answer, and another node ranks higher"
	}
	return v1alpha1.NotOwner, "could announce it, but another node ranks higher"
}

// matches reports whether an advertisement that selects the candidate permits it to
// announce the address on its interface.
func (c *candidateNode) matches(i l2.Interface, addr netip.Addr) bool {
	return i.VRF == "" && (slices.Contains(c.namedInterfaces, i.Name) || c.bySubnet && i.Contains(addr))
}

// checkEligibility returns why the candidate must not own the address, or the
// interfaces on which it may. summarizeRefusals relies on the order of the checks.
func (c candidateNode) checkEligibility(h heldAddress) (v1alpha1.Refusal, []l2.Interface) {
	if !c.selected {
		return v1alpha1.Refusal{Reason: v1alpha1.NodeNotSelected, Message: "is selected by no L2Advertisement of the pool"}, nil
	}
	if c.refusal.Reason != "" {
		return c.refusal, nil
	}
	interfaces := c.interfaces
	matches := func(i l2.Interface) bool { return c.matches(i, h.addr) }
	// As a rule all interfaces match, and nothing is allocated.
	if slices.ContainsFunc(interfaces, func(i l2.Interface) bool { return !matches(i) }) {
		interfaces = nil
		for _, i := range c.interfaces {
			if matches(i) {
				interfaces = append(interfaces, i)
			}
		}
	}
	if len(interfaces) == 0 {
		return c.noInterface(), nil
	}
	if any, _ := h.servedBy(c.name); !any {
		return h.missingEndpoints(c.name), nil
	}
	return v1alpha1.Refusal{}, interfaces
}

// noInterface returns why the candidate has no interface for an address.
func (c candidateNode) noInterface() v1alpha1.Refusal {
	refusal := v1alpha1.Refusal{Reason: v1alpha1.NoInterface}
	switch {
	case len(c.interfaces) == 0:
		refusal.Message = "has not reported any interfaces: check that a speaker runs there"
	case !c.bySubnet:
		refusal.Message = "does not have a usable interface named " + strings.Join(c.namedInterfaces, ", ")
		for _, i := range c.interfaces {
			if i.VRF != "" && slices.Contains(c.namedInterfaces, i.Name) {
				refusal.Message = fmt.Sprintf("has %s in VRF %s, where addresses cannot be announced", i.Name, i.VRF)
			}
		}
	default:
		var reported []string
		for _, i := range c.interfaces {
			for _, p := range i.Prefixes {
				text := i.Name + " " + p.Masked().String()
				if i.VRF != "" {
					text += fmt.Sprintf(" (in VRF %s, where addresses cannot be announced)", i.VRF)
				}
				reported = append(reported, text)
			}
		}
		refusal.Message = "has only " + strings.Join(reported, ", ")
	}
	return refusal
}

// compareRank orders nodes for one address; the last one owns it. A node that serves
// all Services of the address ranks above one that does not, and one with a kube-proxy that
// answers above one without.
func compareRank(a, b eligibleNode) int {
	switch {
	case a.servesAll && !b.servesAll:
		return 1
	case b.servesAll && !a.servesAll:
		return -1
	case b.proxyNotReady && !a.proxyNotReady:
		return 1
	case a.proxyNotReady && !b.proxyNotReady:
		return -1
	}
	return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.hash, b.hash), strings.Compare(a.name, b.name))
}

// selectedBySubnet reports whether every interface has been chosen for its subnet.
func selectedBySubnet(eligible []eligibleNode, addr netip.Addr) bool {
	return !slices.ContainsFunc(eligible, func(e eligibleNode) bool {
		return slices.ContainsFunc(e.interfaces, func(i l2.Interface) bool { return !i.Contains(addr) })
	})
}

// segmentMember is an interface of an eligible node.
type segmentMember struct {
	eligibleNode
	iface l2.Interface
}

// groupBySegment groups the interfaces that may be on one segment: those with a
// common name or a common subnet, transitively. Too large a group leaves a segment
// without an owner, and too small a group gives it two. The second is worse: two
// nodes would answer for one address.
func groupBySegment(eligible []eligibleNode) (groups [][]segmentMember) {
	for _, e := range eligible {
		for _, i := range e.interfaces {
			joined := []segmentMember{{e, i}}
			rest := groups[:0]
			for _, g := range groups {
				if slices.ContainsFunc(g, func(s segmentMember) bool { return sameSegment(s.iface, i) }) {
					joined = append(g, joined...)
				} else {
					rest = append(rest, g)
				}
			}
			groups = append(rest, joined)
		}
	}
	return groups
}

// sameSegment reports whether two interfaces may be on one segment.
func sameSegment(a, b l2.Interface) bool {
	return a.Name == b.Name || slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(b.Prefixes, p.Overlaps)
	})
}
