package plan

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
)

// routeScope is a set of addresses that each node advertises alike.
type routeScope struct {
	pool             string
	is6              bool
	withoutEndpoints bool
}

func (h heldAddress) routeScope() routeScope {
	return routeScope{h.pool, h.addr.Is6(), h.withoutEndpoints}
}

// nodeRoutes are the routes that a node may advertise for an address of a scope.
type nodeRoutes struct {
	refusal     v1alpha1.Refusal // why there are none
	routes      []peerRoute
	peerIndexes []int // of the routes' peers, into decision.peerings; of this node only
}

// peerRoute is how a route is advertised to a peer, by one BGPAdvertisement or by
// several with the same prefix length.
type peerRoute struct {
	peer          string
	peerIndex     int // into decision.peerings; of this node only
	advertisement config.BGPAdvertisement
	attributes    bgp.Attributes
}

// routesOfScope returns the routes of all nodes, in the order of d.nodes; nil if no
// BGPAdvertisement covers the pool.
func (d *decision) routesOfScope(s routeScope) []nodeRoutes {
	if known, ok := d.routesByScope[s]; ok {
		return known
	}
	var ads []config.BGPAdvertisement
	for _, ad := range d.Config.BGPAdvertisements {
		if ad.Covers(s.pool) {
			ads = append(ads, ad)
		}
	}
	var nodes []nodeRoutes
	if len(ads) > 0 {
		nodes = make([]nodeRoutes, len(d.nodes))
		for i, m := range d.nodes {
			nodes[i] = d.routesOfNode(s, m, ads)
		}
	}
	d.routesByScope[s] = nodes
	return nodes
}

// routesOfNode returns the routes of one node under the BGPAdvertisements of a pool.
func (d *decision) routesOfNode(s routeScope, m *clusterNode, ads []config.BGPAdvertisement) (routes nodeRoutes) {
	ads = slices.DeleteFunc(slices.Clone(ads), func(ad config.BGPAdvertisement) bool { return !ad.SelectsNode(m.labels) })
	if len(ads) == 0 {
		routes.refusal = v1alpha1.Refusal{Reason: v1alpha1.NodeNotSelected, Message: "is selected by no BGPAdvertisement of the pool"}
		return routes
	}
	if m.refusal.Reason != "" && !m.leaving {
		routes.refusal = m.refusal
		return routes
	}
	routes.routes = d.routesToPeers(s, m, ads)
	if s.withoutEndpoints && len(routes.routes) > 0 {
		kept := slices.DeleteFunc(ads, func(ad config.BGPAdvertisement) bool { return !ad.WithoutEndpoints })
		if routes.routes = d.routesToPeers(s, m, kept); len(routes.routes) == 0 {
			routes.refusal = v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: "does not advertise it: no endpoint is ready or serving"}
			return routes
		}
	}
	if m.name == d.Node {
		for i := range routes.routes {
			routes.routes[i].peerIndex = slices.IndexFunc(d.peerings, func(s Peering) bool { return s.Config.Name == routes.routes[i].peer })
			routes.peerIndexes = append(routes.peerIndexes, routes.routes[i].peerIndex)
		}
		routes.peerIndexes = slices.Compact(routes.peerIndexes) // routes to the same peer are adjacent
	}
	if len(routes.routes) == 0 {
		routes.refusal = v1alpha1.Refusal{
			Reason: v1alpha1.NoPeer, Message: "is selected by no BGPPeer for the address family that a BGPAdvertisement of the pool names",
		}
	}
	return routes
}

// routesToPeers returns the routes that these advertisements make for the peers of a node.
func (d *decision) routesToPeers(s routeScope, m *clusterNode, ads []config.BGPAdvertisement) (all []peerRoute) {
	for _, peer := range d.Config.BGPPeers {
		if carried := s.is6 && peer.IPv6 || !s.is6 && peer.IPv4; carried && peer.SelectsNode(m.labels) {
			all = append(all, peerRoutes(peer, ads, s.is6, m.leaving)...)
		}
	}
	return all
}

// peerRoutes returns the routes that these advertisements make for the peer: one for
// each prefix length, with the attributes of the first advertisement of that length
// and the communities of all.
func peerRoutes(peer config.BGPPeer, ads []config.BGPAdvertisement, is6, leaving bool) (all []peerRoute) {
	var communities [][]string
	for _, ad := range ads {
		if !ad.AdvertisedTo(peer.Name) {
			continue
		}
		i := slices.IndexFunc(all, func(r peerRoute) bool {
			return is6 && r.advertisement.Length6 == ad.Length6 || !is6 && r.advertisement.Length4 == ad.Length4
		})
		if i < 0 {
			i = len(all)
			all = append(all, peerRoute{peer: peer.Name, advertisement: ad, attributes: bgp.Attributes{
				LocalPref: ad.LocalPref, MED: ad.MED, HasMED: ad.HasMED, Prepend: ad.ASPathPrepend,
			}})
			communities = append(communities, nil)
		}
		communities[i] = append(communities[i], ad.Communities...)
	}
	for i := range all {
		if leaving {
			communities[i] = append(communities[i], config.GracefulShutdown)
			// RFC 8326 section 4.2: for internal peers that do not know the community.
			all[i].attributes.LocalPref = 0
		}
		slices.Sort(communities[i])
		all[i].attributes.Communities = strings.Join(slices.Compact(communities[i]), " ")
	}
	return all
}

// selectAdvertisers returns the routes by which this node advertises the address, nil if it
// must not, the node that may advertise it in place of this one, if there is any, and why no
// node advertises the address, if none does.
func (d *decision) selectAdvertisers(h heldAddress) (ownRoutes *nodeRoutes, successor string, refusal v1alpha1.Refusal) {
	a := d.addressRoutes(h)
	if a.routes == nil {
		return nil, "", v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	}
	advertised := false
	for i := range a.relevantNodes() {
		serves := a.serves(i)
		if !serves && !a.servesTerminating(i) {
			continue
		}
		advertised = true // by the node or by its successor
		m := d.nodes[i]
		if m.name != d.Node {
			continue
		}
		ownRoutes = &a.routes[i]
		if h.localNodes == nil && m.removal == "" {
			continue
		}
		if s := a.successorOf(i); s != nil {
			successor = s.name
			if a.yieldsTo(s, m, serves) {
				ownRoutes = nil
			}
		}
	}
	if advertised {
		return ownRoutes, successor, v1alpha1.Refusal{}
	}
	var states []NodeState
	for i, m := range d.nodes {
		_, r := a.advertisedBy(i)
		states = append(states, NodeState{Node: m.name, Reason: r.Reason, Message: r.Message})
	}
	if h.withoutEndpoints && slices.ContainsFunc(states, func(s NodeState) bool { return s.Reason == v1alpha1.NoEndpoints }) {
		return nil, "", withdrawnWithoutEndpoints
	}
	return nil, "", summarizeRefusals(h.pool, states)
}

// addressRoutes are the routes that the nodes may advertise for one address.
type addressRoutes struct {
	*decision
	heldAddress
	routes []nodeRoutes // in the order of the nodes; nil if no BGPAdvertisement covers the pool
	// requireAll is whether a node that has routes serves all Services of the address. While
	// one does, no node that serves only some of them attracts packets.
	requireAll bool
}

func (d *decision) addressRoutes(h heldAddress) addressRoutes {
	a := addressRoutes{decision: d, heldAddress: h, routes: d.routesOfScope(h.routeScope())}
	if a.routes == nil {
		return a
	}
	for i := range a.relevantNodes() {
		if _, all := h.servedBy(d.nodes[i].name); all && a.routes[i].refusal.Reason == "" {
			a.requireAll = true
			break
		}
	}
	return a
}

// relevantNodes yields indexes of nodes, among which are this one, one that has routes if any
// has, and all that have endpoints of the Services if they can serve only there. It yields all
// nodes where that is not known.
func (a *addressRoutes) relevantNodes() iter.Seq[int] {
	return func(yield func(int) bool) {
		if a.localNodes == nil {
			first := slices.IndexFunc(a.routes, func(r nodeRoutes) bool { return r.refusal.Reason == "" })
			if own, ok := a.nodeIndexes[a.Node]; ok && !yield(own) || first < 0 {
				return
			}
			yield(first)
			return
		}
		names, known := a.endpointNodes()
		if !known {
			for i := range a.nodes {
				if !yield(i) {
					return
				}
			}
			return
		}
		for _, name := range names {
			if i, ok := a.nodeIndexes[name]; ok && !yield(i) {
				return
			}
		}
	}
}

// serves reports whether the i-th node may advertise the address.
func (a *addressRoutes) serves(i int) bool {
	any, all := a.servedBy(a.nodes[i].name)
	return a.routes[i].refusal.Reason == "" && any && (all || !a.requireAll)
}

// servesTerminating reports whether the i-th node, which does not serve the address any more,
// keeps its routes until a successor serves it: its kube-proxy still forwards all packets.
func (a *addressRoutes) servesTerminating(i int) bool {
	return a.routes[i].refusal.Reason == "" && a.forwardedBy(a.nodes[i].name)
}

// successorOf returns a node that may advertise the address in place of the i-th one, nil if
// there is none. A node on which no speaker has run does not count. One that is about to be
// removed is chosen only if all others are. Of several, the one that the last plan had is kept,
// because the time since it is the successor counts.
func (a *addressRoutes) successorOf(i int) (successor *clusterNode) {
	last := a.Local.RouteSuccessors[a.addr].Node
	for j, m := range a.nodes {
		if _, hasRun := a.Interfaces[m.name]; j == i || !hasRun || !a.serves(j) {
			continue
		}
		stays := m.removal == ""
		if successor == nil || stays && successor.removal != "" || m.name == last && stays == (successor.removal == "") {
			successor = m
		}
	}
	return successor
}

// yieldsTo reports whether this node leaves the address to the successor. It keeps what it
// advertises until the successor's data path is ready, if only terminating endpoints are left
// on this node, or until routers have had the time to select the routes of others, if this node
// is about to be removed.
func (a *addressRoutes) yieldsTo(successor, own *clusterNode, serves bool) bool {
	if serves && (own.removal == "" || successor.removal != "") {
		return false
	}
	if _, advertised := a.Local.Advertised[a.addr]; !advertised {
		return true
	}
	known := a.Local.RouteSuccessors[a.addr]
	return known.Node == successor.name && (serves && known.Drained || !serves && known.Synced)
}

// advertisedBy returns what the i-th node advertises, or why nothing. A node that keeps its
// routes for a while, as only that node knows, counts as one that has yielded to its successor.
func (a *addressRoutes) advertisedBy(i int) (routes []AdvertisedRoute, refusal v1alpha1.Refusal) {
	switch m := a.nodes[i]; {
	case a.routes == nil:
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	case a.routes[i].refusal.Reason != "":
		return nil, a.routes[i].refusal
	case !a.serves(i) && (!a.servesTerminating(i) || a.successorOf(i) != nil):
		return nil, a.missingEndpoints(m.name)
	case m.removal != "":
		if s := a.successorOf(i); s != nil && s.removal == "" {
			return nil, v1alpha1.Refusal{Reason: v1alpha1.NodeBeingRemoved, Message: m.removal + ", and another node can advertise it"}
		}
	}
	for r, prefix := range a.routes[i].routePrefixes(a.addr, a.aggregatableRanges(a.heldAddress)) {
		routes = append(routes, AdvertisedRoute{r.peer, prefix, r.attributes})
	}
	return routes, v1alpha1.Refusal{}
}

// routePrefixes yields the routes for an address. Several routes to a peer may have the
// same prefix, because an aggregate is not possible: then the first one determines
// the attributes, and the communities of all are merged.
func (n *nodeRoutes) routePrefixes(addr netip.Addr, within []netipx.IPRange) iter.Seq2[peerRoute, netip.Prefix] {
	return func(yield func(peerRoute, netip.Prefix) bool) {
		for i, r := range n.routes {
			prefix := r.advertisement.Prefix(addr, within)
			same := func(o peerRoute) bool { return o.peer == r.peer && o.advertisement.Prefix(addr, within) == prefix }
			if slices.ContainsFunc(n.routes[:i], same) {
				continue
			}
			for _, o := range n.routes[i+1:] {
				if same(o) {
					r.attributes.Communities = mergeCommunities(r.attributes.Communities, o.attributes.Communities)
				}
			}
			if !yield(r, prefix) {
				return
			}
		}
	}
}

// mergeCommunities returns the union of two sets of communities.
func mergeCommunities(a, b string) string {
	all := slices.Sorted(slices.Values(strings.Fields(a + " " + b)))
	return strings.Join(slices.Compact(all), " ")
}

// addRoutes adds the node's own routes of one address to the sessions.
func (p *Plan) addRoutes(addr netip.Addr, own *nodeRoutes, within []netipx.IPRange) {
	p.Advertised[addr] = own.peerIndexes
	for r, prefix := range own.routePrefixes(addr, within) {
		p.BGP[r.peerIndex].Peer.Routes[prefix] = r.attributes
	}
}
