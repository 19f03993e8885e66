package plan

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Neighbor is another node on the segment of an interface of this node.
type Neighbor struct {
	failover.Target
	// MAC of the node's interface on the segment, "" if it is not reported.
	MAC string
	// Local and Remote are the addresses of the two nodes for BFD: of one subnet, and
	// invalid if they do not have one in common.
	Local, Remote netip.Addr
}

// segmentNode is an eligible node with its interfaces on one segment.
type segmentNode struct {
	eligibleNode
	names []string // of the interfaces, sorted
}

// segmentsOf returns the eligible nodes of each segment, best first.
func segmentsOf(eligible []eligibleNode, addr netip.Addr) (segments [][]segmentNode) {
	if len(eligible) == 0 {
		return nil
	}
	if selectedBySubnet(eligible, addr) {
		// Subnets that contain one address are one segment, so there is one owner.
		var nodes []segmentNode
		for _, e := range eligible {
			n := segmentNode{eligibleNode: e}
			for _, i := range e.interfaces {
				n.names = append(n.names, i.Name)
			}
			nodes = append(nodes, n)
		}
		segments = [][]segmentNode{nodes}
	} else {
		// Interfaces chosen by name may be on several segments. Each has its own owner.
		for _, members := range groupBySegment(eligible) {
			var nodes []segmentNode
			for _, m := range members {
				i := slices.IndexFunc(nodes, func(n segmentNode) bool { return n.clusterNode == m.clusterNode })
				if i < 0 {
					i = len(nodes)
					nodes = append(nodes, segmentNode{eligibleNode: m.eligibleNode})
				}
				nodes[i].names = append(nodes[i].names, m.iface.Name)
			}
			segments = append(segments, nodes)
		}
	}
	for _, nodes := range segments {
		slices.SortFunc(nodes, func(a, b segmentNode) int { return compareRank(b.eligibleNode, a.eligibleNode) })
		for i := range nodes {
			slices.Sort(nodes[i].names)
		}
	}
	return segments
}

// ownClaim returns the interfaces on which this node announces the address or is about to,
// and what it does there. It adds the nodes that are to be observed, and those that rank
// higher, to the plan.
//
// An address on several segments, of interfaces chosen by name, does not fail over by
// liveness: its owners follow the API.
func (d *decision) ownClaim(p *Plan, h heldAddress, segments [][]segmentNode) (interfaces []string, do failover.Action) {
	if len(segments) > 1 {
		return ownedInterfaces(segments, d.Node), failover.Ask
	}
	var nodes []segmentNode
	if len(segments) > 0 {
		nodes = segments[0]
	}
	eligible := slices.ContainsFunc(nodes, func(n segmentNode) bool { return n.name == d.Node })
	if d.Local.Held[h.addr] && !eligible {
		if c := d.candidate(h.pool, d.Node); c == nil || !d.goesOn(h, c, nodes) {
			p.Ineligible[h.addr] = true
		}
	}
	a := d.failoverAddress(h, nodes)
	do, acting := a.Decide()
	if acting != "" {
		d.targets.Add(h.addr, a, acting)
	}
	for _, n := range nodes {
		if acting != d.Node || n.name == d.Node {
			break
		}
		p.HigherRanked[h.addr] = append(p.HigherRanked[h.addr], n.name)
	}
	if do == failover.None {
		return nil, do
	}
	if i := slices.IndexFunc(nodes, func(n segmentNode) bool { return n.name == d.Node }); i >= 0 {
		return nodes[i].names, do
	}
	return d.Local.HeldOn[h.addr], do // not eligible any more
}

// goesOn reports whether this node announces the address until one of the nodes does, however
// long that takes. One that is excluded, or not Ready, is not waited for, and neither is one
// that is about to be removed if the other node does not know that it is still there.
func (d *decision) goesOn(h heldAddress, own *candidateNode, nodes []segmentNode) bool {
	switch any, _ := h.servedBy(d.Node); {
	case own.refusal.Reason != "":
		return false
	case !any:
		return h.servedWhileTerminating(d.Node)
	case own.removal == "" || len(nodes) == 0:
		return false
	}
	for _, name := range d.Local.HeldOn[h.addr] {
		if _, known := d.Local.PeerFresh[failover.Peer{Interface: name, Node: nodes[0].name}]; known {
			return true
		}
	}
	return false
}

// failoverAddress returns what this node knows about the address on the segment of the
// nodes.
func (d *decision) failoverAddress(h heldAddress, nodes []segmentNode) failover.Address {
	local := d.Local.Failover
	own := ""
	if names := d.ownInterfaces(h, nodes); len(names) > 0 {
		own = names[0]
	}
	a := failover.Address{
		Self: d.Node, Held: d.Local.Held[h.addr], Verified: local.Verified[h.addr], Holder: d.speakerWith(h),
		Serves: d.Local.dataPathServes(h, d.Node), Late: d.isLate(h.addr),
		Expected: local.Answered[h.addr].Node, Fresh: !d.Local.Stale, TakesBack: d.Local.Settled && !d.neverFailsBack(h.pool),
		PeerFresh: func(node string) (fresh, known bool) {
			fresh, known = d.Local.PeerFresh[failover.Peer{Interface: own, Node: node}]
			return fresh, known
		},
		ScoreOf:  func(node string) uint64 { return config.RendezvousScore(config.RankSeed(node), h.addr) },
		TookOver: func(reporter, node string) bool { return slices.Contains(d.TakenOver[reporter], node) },
		Lapsed:   d.Local.Lapsed[h.addr] || d.isDisconnected(h.addr),
	}
	timers := d.sessionTimers(h.pool)
	candidate := func(node string, score uint64) failover.Candidate {
		key := failover.Peer{Interface: own, Node: node}
		return failover.Candidate{Peer: key, Score: score, Status: local.Peers[key], Timers: timers}
	}
	for _, n := range nodes {
		a.Ranked = append(a.Ranked, candidate(n.name, n.hash))
	}
	if own == "" {
		return a
	}
	// A node that is about to be removed, or whose endpoints are terminating, or gone, may still
	// announce the address.
	mayHave := func(c candidateNode) bool {
		any, _ := h.servedBy(c.name)
		switch {
		case c.refusal.Reason != "" || h.servedWhileTerminating(c.name):
			return true
		case any:
			return c.removal != "" && !slices.ContainsFunc(nodes, func(n segmentNode) bool { return n.name == c.name })
		}
		return c.name == a.Expected || c.name == a.Holder
	}
	for _, c := range d.poolCandidates(h.pool) {
		if c.name != d.Node && c.selected && mayHave(c) &&
			slices.ContainsFunc(c.interfaces, func(i l2.Interface) bool { return c.matches(i, h.addr) }) {
			a.Others = append(a.Others, candidate(c.name, config.RendezvousScore(c.seed, h.addr)))
		}
	}
	return a
}

// ownInterfaces returns this node's interfaces on the segment of the nodes.
func (d *decision) ownInterfaces(h heldAddress, nodes []segmentNode) []string {
	if i := slices.IndexFunc(nodes, func(n segmentNode) bool { return n.name == d.Node }); i >= 0 {
		return nodes[i].names
	}
	return d.Local.HeldOn[h.addr]
}

// isDisconnected reports whether none of the interfaces on which this node announces the
// address works any more. When one is up again, another node may have taken the address over.
func (d *decision) isDisconnected(addr netip.Addr) bool {
	return !slices.ContainsFunc(d.Interfaces[d.Node], func(i l2.Interface) bool { return slices.Contains(d.Local.HeldOn[addr], i.Name) })
}

// neverFailsBack reports whether a node that has recovered does not take back addresses of
// the pool.
func (d *decision) neverFailsBack(pool string) bool {
	return slices.ContainsFunc(d.Config.L2Advertisements, func(ad config.L2Advertisement) bool { return ad.NeverFailsBack && ad.Covers(pool) })
}

// sessionTimers returns the parameters of the BFD sessions between nodes for addresses of
// the pool: of the advertisements that cover it, the one that detects a failure first.
func (d *decision) sessionTimers(pool string) (first failover.Timers) {
	for _, ad := range d.Config.L2Advertisements {
		if !ad.Covers(pool) {
			continue
		}
		timers := failover.Timers{Transmit: ad.BFD.Transmit, Receive: ad.BFD.Receive, Multiplier: ad.BFD.Multiplier}
		if first == (failover.Timers{}) || timers.Compare(first) < 0 {
			first = timers
		}
	}
	return first
}

// speakerWith returns a node that has the address according to its claims and its report,
// "" if there is none.
func (d *decision) speakerWith(h heldAddress) string {
	for _, k := range d.Local.Claimants[h.addr] {
		for _, n := range d.nodesWithMAC(h, k) {
			if n.candidate && n.announces {
				return n.name
			}
		}
	}
	return ""
}

// addNeighbors completes the targets by how the nodes are reached.
func (d *decision) addNeighbors(p *Plan) {
	for key, target := range d.targets {
		p.Neighbors[key] = d.neighbor(key, target)
	}
}

func (d *decision) neighbor(key failover.Peer, target failover.Target) Neighbor {
	n := Neighbor{Target: target}
	own := d.Interfaces[d.Node]
	i := slices.IndexFunc(own, func(i l2.Interface) bool { return i.Name == key.Interface })
	if i < 0 {
		return n
	}
	for _, theirs := range d.Interfaces[key.Node] {
		for _, mine := range own[i].Prefixes {
			for _, prefix := range theirs.Prefixes {
				// An address that both nodes have, as a virtual one, identifies neither.
				if mine.Masked() != prefix.Masked() || mine.IsSingleIP() ||
					slices.Contains(theirs.Prefixes, mine) || slices.Contains(own[i].Prefixes, prefix) {
					continue
				}
				if !n.Remote.IsValid() || n.Remote.Is6() && prefix.Addr().Is4() {
					n.MAC, n.Local, n.Remote = theirs.MAC, mine.Addr(), prefix.Addr()
				}
			}
		}
		if n.MAC == "" && sameSegment(own[i], theirs) {
			n.MAC = theirs.MAC
		}
	}
	n.MAC = strings.ToLower(n.MAC)
	if slices.ContainsFunc(d.Interfaces[key.Node], func(i l2.Interface) bool { return i.KernelAnswers }) {
		// The kernel answers whether the speaker runs or not.
		n.Announces, n.Succeeds, n.Outranks = only6(n.Announces), only6(n.Succeeds), only6(n.Outranks)
	}
	return n
}

func only6(addrs []netip.Addr) []netip.Addr { return slices.DeleteFunc(addrs, netip.Addr.Is4) }
