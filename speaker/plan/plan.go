// Package plan decides, from one Snapshot, which node announces which address, on which
// interfaces and to which BGP peers, and why. It is pure: no context, clock, logger, lock
// or client. Every node's speaker decides on the same Snapshot, except for what only the
// node itself knows (Local), and so all arrive at the same owners without communicating
// with each other.
//
// plan.go is the entry: Decide for this node, Explain for one Service on all nodes.
// nodes.go has what is known of each node, local.go what only this one knows, kernel.go
// for which addresses its kernel answers.
// ownership.go decides which addresses in the status of a Service are its own, and which
// pool applies to them. l2.go elects the owner on each segment, conflict.go judges the
// claims of other hosts, bgp.go chooses routes and attributes, peerings.go sessions,
// sharing.go groups the Services that share an address, trafficpolicy.go applies
// externalTrafficPolicy and the data path's readiness, and endpoints.go decides which
// addresses have endpoints.
package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Snapshot is everything that a decision depends on.
type Snapshot struct {
	Node   string // name of this speaker's node
	Config config.Config
	// ConfigState identifies Config. The zero State stands for any.
	ConfigState config.State
	Services    []*corev1.Service
	Slices      []*discoveryv1.EndpointSlice
	Nodes       []*corev1.Node
	Namespaces  []*corev1.Namespace       // only their labels are read
	Interfaces  map[string][]l2.Interface // by node, as its L2Node has them
	TakenOver   map[string][]string       // nodes whose addresses a node announces, by that node
	// ProxyNotReady are the nodes without an answer from kube-proxy, according to their L2Nodes.
	ProxyNotReady map[string]bool
	Local         LocalFacts
}

// Plan is what one node announces.
type Plan struct {
	// L2 are the addresses that this node answers for, or would without a conflict, and the
	// control addresses of conflicts, which are never announced.
	L2 map[netip.Addr]l2.Claim
	// NodeMACs are those of the nodes that may announce on interfaces.
	NodeMACs map[string]bool
	// Neighbors are the nodes that this one observes.
	Neighbors map[failover.Peer]Neighbor
	// HigherRanked are the eligible nodes that rank above this one, best first, for each
	// address of L2 that this node announces although there are such nodes.
	HigherRanked map[netip.Addr][]string
	// Ineligible are the addresses in LocalFacts.Held that this node is not eligible for.
	Ineligible map[netip.Addr]bool
	// NeededReports are the nodes with claims that are judged by what their speakers
	// announce, each with the time when the newest of these claims began.
	NeededReports map[string]time.Time
	// BGP are this node's sessions with the routes advertised over them.
	BGP []Peering
	// AwaitingDataPath are the addresses that this node may announce once its own
	// data path serves them, each with the health check ports of kube-proxy
	// that must answer. Without ports, a running kube-proxy is enough.
	AwaitingDataPath map[netip.Addr][]uint16
	// Advertised are the addresses that the routes in BGP are for, each with the
	// peers (indexes into BGP) that the routes are advertised to.
	Advertised map[netip.Addr][]int
	// RouteSuccessors are the nodes that may advertise addresses of BGP in place of this one, where
	// it depends on them for how long this node keeps its routes: under externalTrafficPolicy:
	// Local, and on a node that is about to be removed.
	RouteSuccessors map[netip.Addr]string
	// Unannounced are the addresses that no node can announce. Each is in exactly
	// one of all nodes' plans. It also has those that this node owns and withholds
	// because of a conflict.
	Unannounced map[netip.Addr]v1alpha1.Refusal
	// Warnings are about addresses of L2 that this node announces, on interfaces or by
	// BGP, although another host claims them, about announced addresses without endpoints, and
	// about addresses for which the kernel of this node answers, whichever node announces them.
	// Each of those without endpoints is in exactly one of all nodes' plans.
	Warnings map[netip.Addr]v1alpha1.Refusal
	// Services maps the addresses of L2, Advertised and AwaitingDataPath to their
	// Service: to the oldest one of those that share an address.
	Services map[netip.Addr]*corev1.Service
}

// NodeState is how one node announces one address, or why it does not.
type NodeState struct {
	Node       string
	Interfaces []string          // on which the node answers
	Routes     []AdvertisedRoute // to advertise by BGP
	Reason     v1alpha1.Reason   // why the node does neither; "" otherwise
	Message    string
	// Selected is whether an L2Advertisement of the pool selects the node. Weight and Score,
	// a config.WeightedScore, are then those of its rank.
	Selected bool
	Weight   int32
	Score    uint64
}

// AdvertisedRoute is a route that a node advertises to a BGP peer.
type AdvertisedRoute struct {
	Peer       string
	Prefix     netip.Prefix
	Attributes bgp.Attributes
}

// AddressState is how the cluster announces one address.
type AddressState struct {
	Addr  netip.Addr
	Pool  string // that applies to the address
	Nodes []NodeState
	// Ranked are the eligible nodes on interfaces, the owner by the API first. It is empty for
	// an address on several segments, which does not fail over by liveness.
	Ranked []string
	// NeverFailsBack is whether a node that has recovered does not take the address back.
	NeverFailsBack bool
	// Refusal is set if and only if no node announces the address. Warning is set if one does,
	// and the address has no endpoints.
	Refusal, Warning v1alpha1.Refusal
}

// Decide returns the plan of s.Node, the desired state of its announcements, sessions
// and routes. In the plans of all nodes for one snapshot, each address has exactly one
// owner on each segment, every node that may advertise an address to a BGP peer does
// so, and an address is unannounced if and only if no node is eligible by L2 or by BGP.
// An address of a node is always unannounced. The owner withholds an address that another
// host has.
func Decide(s Snapshot) Plan { return new(Planner).Decide(s) }

// decide returns the plan.
func (d *decision) decide() Plan {
	s := d.Snapshot
	var ofServices []netip.Addr // addresses that interfaces of this node have
	p := Plan{
		L2: map[netip.Addr]l2.Claim{}, NodeMACs: d.selectedMACs(), BGP: d.peerings, Warnings: map[netip.Addr]v1alpha1.Refusal{},
		NeededReports: d.neededReports,
		Neighbors:     map[failover.Peer]Neighbor{}, HigherRanked: map[netip.Addr][]string{}, Ineligible: map[netip.Addr]bool{},
		Advertised: make(map[netip.Addr][]int, len(s.Services)), AwaitingDataPath: map[netip.Addr][]uint16{},
		RouteSuccessors: map[netip.Addr]string{}, Unannounced: map[netip.Addr]v1alpha1.Refusal{},
		Services: make(map[netip.Addr]*corev1.Service, len(s.Services)),
	}
	local, answered := localAnswers(s.Local.Interfaces), []localAnswer(nil)
	held := heldAddresses(s.Services)
	defer d.retainDerived(held)
	for _, h := range held {
		if refusal := d.refuseNodeAddress(h.addr); refusal.Reason != "" {
			if d.reportingNode(h.addr) == s.Node {
				p.Unannounced[h.addr] = refusal
			}
			continue
		}
		if isOnInterface(h.addr, s.Local.Interfaces) {
			ofServices = append(ofServices, h.addr)
		}
		derived := d.derive(h)
		h = derived.held
		h.withoutEndpoints = d.lacksEndpoints(h)
		routes, successor, bgpRefusal := d.selectAdvertisers(h)
		if !d.exhaustive && d.concernsOthers(h.addr, derived.ranking) && routes == nil && local[h.addr] == nil &&
			!(h.withoutEndpoints && derived.ranking.nodes[0].name == s.Node) {
			continue
		}
		segments, l2Refusal := d.rankedSegments(derived)
		j, control := d.judgeClaims(h)
		own, do := d.ownClaim(&p, h, segments)
		serves := s.Local.dataPathServes(h, s.Node)
		if len(own) > 0 {
			p.L2[h.addr] = d.claimFor(h, own, do, j, serves)
			p.addJudgement(h.addr, j, routes != nil)
			if j.contested && control.IsValid() {
				p.addControl(control, own)
			}
		}
		switch {
		case routes != nil && serves:
			p.addRoutes(h.addr, routes, d.aggregatableRanges(h))
			if successor != "" {
				p.RouteSuccessors[h.addr] = successor
			}
		case routes != nil || !serves && (do == failover.Ask || do == failover.Wait):
			// The announcement attracts packets at once, so kube-proxy must be ready first.
			p.AwaitingDataPath[h.addr] = h.healthCheckPorts(s.Node)
		}
		if len(own) > 0 || routes != nil {
			p.Services[h.addr] = h.services[0]
		}
		// One node reports for all of them, so that the reports stay small.
		switch announced := len(segments) > 0 || bgpRefusal.Reason == ""; {
		case !announced && d.reportingNode(h.addr) == s.Node:
			p.Unannounced[h.addr] = combineRefusals(l2Refusal, bgpRefusal, h.pool)
		case announced && h.withoutEndpoints && d.warningNode(h, segments) == s.Node:
			p.addEndpointWarning(h.addr, h.endpointWarning(bgpRefusal))
		}
		answered = append(answered, d.answersOnSegment(h, local[h.addr])...)
	}
	for i := range p.BGP {
		p.BGP[i].Peer.ServiceAddresses = ofServices
	}
	p.addKernelWarnings(s.Node, answered)
	d.addNeighbors(&p)
	return p
}

// addJudgement adds the consequence of the claims of other hosts, routed being whether the
// address is announced by BGP in any case.
func (p *Plan) addJudgement(addr netip.Addr, j judgement, routed bool) {
	switch {
	case j.withhold && !routed:
		p.Unannounced[addr] = j.warning
	case j.warning.Reason != "":
		p.Warnings[addr] = j.warning
	}
}

// addEndpointWarning adds the warning that the address has no endpoints, unless there is a more
// severe one.
func (p *Plan) addEndpointWarning(addr netip.Addr, warning v1alpha1.Refusal) {
	if p.Warnings[addr].Reason != v1alpha1.AddressConflict {
		p.Warnings[addr] = warning
	}
}

// addControl adds a control address, which several contested addresses may have in common.
func (p *Plan) addControl(addr netip.Addr, interfaces []string) {
	all := slices.Concat(p.L2[addr].Interfaces, interfaces)
	slices.Sort(all)
	p.L2[addr] = l2.Claim{Interfaces: slices.Compact(all), Withhold: true}
}

// combineRefusals returns why an address of the pool is announced neither by L2 nor
// by BGP. A protocol without an advertisement for the pool is not mentioned.
func combineRefusals(l2, bgp v1alpha1.Refusal, pool string) v1alpha1.Refusal {
	switch none := v1alpha1.NoAdvertisement; {
	case l2.Reason == none && bgp.Reason == none:
		return v1alpha1.Refusal{Reason: none, Message: fmt.Sprintf("no L2Advertisement and no BGPAdvertisement covers pool %q", pool)}
	case bgp.Reason == none:
		return l2
	case l2.Reason == none:
		return bgp
	case bgp.Reason == v1alpha1.NoEndpoints && l2.Reason != bgp.Reason: // only endpoints are missing
		return v1alpha1.Refusal{Reason: bgp.Reason, Message: bgp.Message + "; by Layer 2: " + l2.Message}
	}
	return v1alpha1.Refusal{Reason: l2.Reason, Message: l2.Message + "; by BGP: " + bgp.Message}
}

// Explain returns the state of each address of one Service, on every node. The
// other Services that share an address are taken into account.
func Explain(s Snapshot, svc *corev1.Service) (states []AddressState) {
	d := newDecision(s)
	if !slices.Contains(s.Services, svc) {
		s.Services = append(slices.Clone(s.Services), svc)
	}
	wanted := AnnounceableAddresses(svc)
	held := slices.DeleteFunc(heldAddresses(s.Services), func(h heldAddress) bool { return !slices.Contains(h.services, svc) })
	slices.SortFunc(held, func(a, b heldAddress) int {
		return cmp.Compare(slices.Index(wanted, a.addr), slices.Index(wanted, b.addr))
	})
	for _, h := range held {
		states = append(states, d.explainAddress(d.resolveAddress(h)))
	}
	return states
}

// explainAddress returns the state of the address on every node.
func (d *decision) explainAddress(h heldAddress) AddressState {
	explained := AddressState{Addr: h.addr, Pool: h.pool}
	if refusal := d.refuseNodeAddress(h.addr); refusal.Reason != "" {
		explained.Refusal = refusal
		for _, m := range d.nodes {
			explained.Nodes = append(explained.Nodes, NodeState{Node: m.name, Reason: refusal.Reason, Message: refusal.Message})
		}
		return explained
	}
	owners := map[string]NodeState{}
	segments, l2Refusal := d.rankNodes(h, func(s NodeState) { owners[s.Node] = s })
	if len(segments) == 1 {
		for _, n := range segments[0] {
			explained.Ranked = append(explained.Ranked, n.name)
		}
	}
	explained.NeverFailsBack = d.neverFailsBack(h.pool)
	_, _, bgpRefusal := d.selectAdvertisers(h)
	if len(segments) == 0 && bgpRefusal.Reason != "" {
		explained.Refusal = combineRefusals(l2Refusal, bgpRefusal, h.pool)
	} else {
		explained.Warning = h.endpointWarning(bgpRefusal)
	}
	advertised := d.addressRoutes(h)
	for i, m := range d.nodes {
		state, covered := owners[m.name]
		state.Node = m.name
		routes, refusal := advertised.advertisedBy(i)
		state.Routes = routes
		switch {
		case len(state.Interfaces) > 0 || len(routes) > 0:
			// The node announces the address: why it does not by the other
			// protocol does not matter.
			state.Reason, state.Message = "", ""
		case !covered:
			// No L2Advertisement covers the pool, so only BGP explains anything.
			state.Reason, state.Message = refusal.Reason, refusal.Message
		}
		if state.Reason != v1alpha1.NoAdvertisement {
			explained.Nodes = append(explained.Nodes, state)
		}
	}
	return explained
}

// decision is a Snapshot with what was derived from it. The derived values are
// cached for the duration of one Decide or Explain.
type decision struct {
	Snapshot
	nodes            []*clusterNode // sorted by name
	nodeIndexes      map[string]int // into nodes, by name
	endpoints        map[types.NamespacedName][]*discoveryv1.EndpointSlice
	candidatesByPool map[string][]candidateNode  // computed on first use
	peerings         []Peering                   // of this node
	routesByScope    map[routeScope][]nodeRoutes // computed on first use
	pools            config.PoolIndex
	namespaceLabels  map[string]labels.Set      // computed on first use
	nodesByAddress   map[netip.Addr]string      // names of the nodes that have the addresses
	interfacesByMAC  map[string][]nodeInterface // computed on first use
	neededReports    map[string]time.Time
	targets          failover.Targets
	used             map[netip.Addr]bool // computed on first use
	nodeStates       []NodeState         // buffer reused for the next address
	eligible         []eligibleNode      // buffer reused for the next address
	ranked           []eligibleNode      // buffer reused for the next address
	slices           []*discoveryv1.EndpointSlice
	derived          map[netip.Addr]*derivedAddress
	exhaustive       bool            // all addresses are decided on, for tests
	takenOver        map[string]bool // nodes of which another one has taken addresses over
	gone             map[string]bool // nodes that this one has found gone on one of its interfaces
}

// newDecision returns the snapshot with its nodes, and with this node's sessions.
func newDecision(s Snapshot) *decision {
	d := &decision{
		Snapshot: s, endpoints: map[types.NamespacedName][]*discoveryv1.EndpointSlice{}, candidatesByPool: map[string][]candidateNode{},
		routesByScope: map[routeScope][]nodeRoutes{}, pools: config.NewPoolIndex(s.Config.Pools),
		nodesByAddress: make(map[netip.Addr]string, len(s.Nodes)), neededReports: map[string]time.Time{}, targets: failover.Targets{},
		derived: map[netip.Addr]*derivedAddress{}, takenOver: map[string]bool{}, gone: map[string]bool{},
	}
	for _, nodes := range s.TakenOver {
		for _, n := range nodes {
			d.takenOver[n] = true
		}
	}
	for peer, status := range s.Local.Failover.Peers {
		if status.IsGone() {
			d.gone[peer.Node] = true
		}
	}
	for _, slice := range s.Slices {
		key := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
		d.endpoints[key] = append(d.endpoints[key], slice)
	}
	// If no node at all is Ready, the control plane was unavailable and the nodes'
	// heartbeats are missing. Withdrawing all addresses would turn that into an
	// outage of the Services, so readiness does not count.
	anyReady := slices.ContainsFunc(s.Nodes, config.NodeReady)
	for _, n := range s.Nodes {
		d.addNodeAddresses(n)
		m := &clusterNode{
			name: n.Name, labels: n.Labels, seed: config.RankSeed(n.Name), removal: RemovalReason(n),
			proxyNotReady: s.ProxyNotReady[n.Name], interfaces: s.Interfaces[n.Name],
		}
		if reason := ExclusionReason(n); anyReady && !config.NodeReady(n) {
			m.refusal = v1alpha1.Refusal{Reason: v1alpha1.NodeNotReady, Message: "is not Ready"}
		} else if reason != "" {
			m.refusal = v1alpha1.Refusal{Reason: v1alpha1.NodeExcluded, Message: reason}
		}
		// This node goes on advertising, with the lowest preference, while its
		// speaker shuts down, until an excluded node is drained, or until it is removed.
		m.leaving = n.Name == s.Node && ((s.Local.Leaving || m.removal != "") && m.refusal.Reason == "" ||
			m.refusal.Reason == v1alpha1.NodeExcluded && !s.Local.Drained)
		d.nodes = append(d.nodes, m)
		if n.Name == s.Node {
			d.peerings = newPeerings(s.Config, n, s.Local, len(s.Services))
		}
	}
	slices.SortFunc(d.nodes, func(a, b *clusterNode) int { return strings.Compare(a.name, b.name) })
	d.nodeIndexes = make(map[string]int, len(d.nodes))
	for i, m := range d.nodes {
		d.nodeIndexes[m.name] = i
	}
	return d
}

// summarizeRefusals returns why no node is eligible: the reason of the nodes that
// passed the most checks.
func summarizeRefusals(pool string, states []NodeState) v1alpha1.Refusal {
	by := map[v1alpha1.Reason][]string{}
	for _, s := range states {
		by[s.Reason] = append(by[s.Reason], s.Node+" "+s.Message)
	}
	// Endpoints are checked last, so that only they are missing.
	if len(by[v1alpha1.NoEndpoints]) > 0 {
		return v1alpha1.Refusal{
			Reason: v1alpha1.NoEndpoints, Message: "externalTrafficPolicy is Local, and no eligible node has a ready endpoint",
		}
	}
	// L2: the nodes are selected and may announce, but are not on the segment.
	if nodes := by[v1alpha1.NoInterface]; len(nodes) > 0 {
		return v1alpha1.Refusal{
			Reason: v1alpha1.NoInterface, Message: "no eligible node has an interface for it: " + v1alpha1.Abbreviate(nodes, "; "),
		}
	}
	// BGP: likewise, but there is no peer to advertise the route to.
	if nodes := by[v1alpha1.NoPeer]; len(nodes) > 0 {
		return v1alpha1.Refusal{Reason: v1alpha1.NoPeer, Message: "no eligible node has a peer for it: " + v1alpha1.Abbreviate(nodes, "; ")}
	}
	nodes := slices.Concat(by[v1alpha1.NodeExcluded], by[v1alpha1.NodeNotReady], by[v1alpha1.NodeNotSelected])
	if len(nodes) == 0 {
		return v1alpha1.Refusal{Reason: v1alpha1.NoEligibleNode, Message: "no nodes in the cluster"}
	}
	return v1alpha1.Refusal{
		Reason:  v1alpha1.NoEligibleNode,
		Message: fmt.Sprintf("no node may announce pool %q: %s", pool, v1alpha1.Abbreviate(nodes, "; ")),
	}
}
