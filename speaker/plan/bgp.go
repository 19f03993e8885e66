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

// selectAdvertisers returns the routes by which this node advertises the address,
// nil if it must not, and why no node advertises it, if none does.
func (d *decision) selectAdvertisers(h heldAddress) (ownRoutes *nodeRoutes, refusal v1alpha1.Refusal) {
	routes := d.routesOfScope(h.routeScope())
	if routes == nil {
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	}
	advertised, requireAll := false, d.anyServesAll(h, routes)
	for i, m := range d.nodes {
		// While one node serves all Services of the address, no other attracts packets.
		if any, all := h.servedBy(m.name); routes[i].refusal.Reason != "" || !any || requireAll && !all {
			continue
		}
		advertised = true
		// The routers of a node that is drained have had the time to select the routes of others.
		if m.name == d.Node && (m.removal == "" || !d.Local.Drained || !d.othersStay(h, routes)) {
			ownRoutes = &routes[i]
		}
	}
	if advertised {
		return ownRoutes, v1alpha1.Refusal{}
	}
	var states []NodeState
	for i, m := range d.nodes {
		_, r := d.advertisedRoutes(h, i)
		states = append(states, NodeState{Node: m.name, Reason: r.Reason, Message: r.Message})
	}
	if h.withoutEndpoints && slices.ContainsFunc(states, func(s NodeState) bool { return s.Reason == v1alpha1.NoEndpoints }) {
		return nil, withdrawnWithoutEndpoints
	}
	return nil, summarizeRefusals(h.pool, states)
}

// anyServesAll reports whether a node that has routes serves all Services of the
// address.
func (d *decision) anyServesAll(h heldAddress, routes []nodeRoutes) bool {
	for i, m := range d.nodes {
		if _, all := h.servedBy(m.name); all && routes[i].refusal.Reason == "" {
			return true
		}
	}
	return false
}

// othersStay reports whether a node that is not about to be removed may advertise the address.
func (d *decision) othersStay(h heldAddress, routes []nodeRoutes) bool {
	requireAll := d.anyServesAll(h, routes)
	for i, m := range d.nodes {
		any, all := h.servedBy(m.name)
		if m.removal == "" && routes[i].refusal.Reason == "" && any && (all || !requireAll) {
			return true
		}
	}
	return false
}

// advertisedRoutes returns what the i-th node advertises, or why nothing.
func (d *decision) advertisedRoutes(h heldAddress, i int) (routes []AdvertisedRoute, refusal v1alpha1.Refusal) {
	scoped := d.routesOfScope(h.routeScope())
	switch any, all := h.servedBy(d.nodes[i].name); {
	case scoped == nil:
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	case scoped[i].refusal.Reason != "":
		return nil, scoped[i].refusal
	case !any, !all && d.anyServesAll(h, scoped):
		return nil, h.missingEndpoints(d.nodes[i].name)
	case d.nodes[i].removal != "" && d.othersStay(h, scoped):
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NodeBeingRemoved, Message: d.nodes[i].removal + ", and another node can advertise it"}
	}
	for r, prefix := range scoped[i].routePrefixes(h.addr, d.aggregatableRanges(h)) {
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
