package plan

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// LocalFacts is the part of a Snapshot that only the node itself knows.
type LocalFacts struct {
	// Interfaces are the node's interfaces, as the kernel has them now.
	Interfaces []l2.Interface
	// Held are the addresses that the node announces on interfaces now.
	Held map[netip.Addr]bool
	// Restored are the addresses that the node announced on interfaces before its speaker
	// was restarted; nil after the first plan.
	Restored *netipx.IPSet
	// HeldOn has the interfaces of the addresses in Held.
	HeldOn map[netip.Addr][]string
	// Lapsed are the addresses in Held that this node has not been eligible for, for
	// failover.LeaveTimeout.
	Lapsed map[netip.Addr]bool
	// Failover is what is known about the other nodes on the segments.
	Failover failover.View
	// PeerFresh has the peers whose BFD sessions are Up, each with whether it has contact
	// with the API server; Stale is whether this node has none.
	PeerFresh map[failover.Peer]bool
	Stale     bool
	// Settled is whether this node has been up for its hold-down (failover.NextHoldDown).
	Settled bool
	// Reports are what the nodes of NeededReports announce on interfaces, according to
	// their Speakers. A report that has not been read is missing; one that could not be read
	// in time is empty.
	Reports map[string][]AnnouncedGroup
	// Claimants are the other hosts that claim addresses of the last plan, by address.
	Claimants map[netip.Addr][]l2.Claimant
	// Gateways are the node's default gateways, by family: "IPv4", "IPv6".
	Gateways map[string]netip.Addr
	// Routers are the link-local addresses of discovered routers, by interface.
	Routers map[string]netip.Addr
	// Passwords are the passwords of BGP peers, by the name of their Secret.
	Passwords map[string]bgp.Secret
	// DataPathReady are the addresses that the node's data path serves; if nil, all.
	DataPathReady map[netip.Addr]bool
	// DataPathLate are those for which kube-proxy does not answer on this node, but does on
	// others. They are announced if no other node announces them.
	DataPathLate map[netip.Addr]bool
	// Advertised are the addresses that the node already advertises by BGP. They, and those
	// in Held, never wait for the data path again.
	Advertised map[netip.Addr][]int
	// Reprogrammed are addresses of Services that are not under externalTrafficPolicy: Local
	// any more, but for which kube-proxy has not replaced its rules yet.
	Reprogrammed map[netip.Addr]bool
	// ProxyReady is whether kube-proxy has answered on this node. Addresses of
	// Services without a health check of their own wait for nothing else.
	ProxyReady bool
	// Drained is whether the node has been excluded, or about to be removed, for the drain
	// delay, so that its routers have had the time to select other paths.
	Drained bool
	// Leaving is whether the node is about to withdraw all its routes.
	Leaving bool
}

// Peering is this node's session with one peer.
type Peering struct {
	Config config.BGPPeer
	// Peer is the desired session with its routes.
	Peer bgp.Peer
	// Multihop is whether the router is not a neighbor on an interface of the
	// node. Its BFD session is then a multihop one, too.
	Multihop bool
	// Interface is the only interface with the subnet of a neighbor; "" if there are
	// several or none.
	Interface string
	// Problem, if set, is why there must be no session.
	Problem v1alpha1.Refusal
}

// newPeerings returns the node's sessions, in the order of the configuration. The
// first of two that lead to the same router is used. Parameter routes is about the
// number of routes to allocate memory for.
func newPeerings(c config.Config, node *corev1.Node, local LocalFacts, routes int) (all []Peering) {
	type end struct {
		addr    netip.AddrPort
		passive bool // a passive session is identified by the peer's address only
	}
	taken := map[end]string{}
	addrs := internalAddresses(node)
	for _, p := range c.BGPPeers {
		if !p.SelectsNode(node.Labels) {
			continue
		}
		peering := Peering{Config: p, Peer: bgp.Peer{
			Name: p.Name, Session: newSession(p, node), NodeAddresses: addrs, Routes: make(bgp.Routes, routes),
		}}
		transport, problem := newTransport(p, local)
		peering.Peer.Transport, peering.Problem = transport, problem
		peering.Multihop = !transport.Address.IsLinkLocalUnicast() &&
			(p.EBGPMultiHop || p.TTLSecurity > 1 || p.Internal() && !isOnLink(transport.Address, local.Interfaces))
		if !peering.Multihop {
			peering.Interface = interfaceOf(transport.Address, local.Interfaces)
		}
		if problem.Reason == "" {
			e := end{netip.AddrPortFrom(transport.Address, transport.Port), p.Passive}
			if other, clashes := taken[e]; clashes {
				peering.Problem = v1alpha1.Refusal{
					Reason: v1alpha1.DuplicatePeer, Message: fmt.Sprintf("older BGPPeer %q connects to %s, too", other, e.addr),
				}
			} else {
				taken[e] = p.Name
			}
		}
		all = append(all, peering)
	}
	return all
}

// isOnLink reports whether the address is in a subnet of an interface, so that there
// is no router between it and the node.
func isOnLink(addr netip.Addr, interfaces []l2.Interface) bool {
	return slices.ContainsFunc(interfaces, func(i l2.Interface) bool { return i.VRF == "" && i.Contains(addr) })
}

// interfaceOf returns the only interface that has a subnet with the address, or "".
func interfaceOf(addr netip.Addr, interfaces []l2.Interface) (name string) {
	for _, i := range interfaces {
		switch {
		case i.VRF != "" || !i.Contains(addr):
		case name != "":
			return ""
		default:
			name = i.Name
		}
	}
	return name
}

// newSession returns the parameters of the BGP OPEN message for the peer.
func newSession(p config.BGPPeer, node *corev1.Node) bgp.Session {
	s := bgp.Session{
		LocalASN: p.MyASN, PeerASN: p.PeerASN, RouterID: p.RouterID, IPv4: p.IPv4, IPv6: p.IPv6,
		HoldTime: p.HoldTime, KeepaliveTime: p.KeepaliveTime, RestartTime: p.RestartTime,
	}
	switch p.Dynamic {
	case "internal":
		s.Kind = bgp.Internal
	case "external":
		s.Kind = bgp.External
	}
	if !s.RouterID.IsValid() {
		s.RouterID = routerID(node)
	}
	return s
}

// internalAddresses returns the InternalIPs of the Node.
func internalAddresses(node *corev1.Node) (addrs []netip.Addr) {
	for _, a := range node.Status.Addresses {
		if ip, err := config.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addrs = append(addrs, ip)
		}
	}
	return addrs
}

// routerID returns the node's IPv4 address or, in a cluster without IPv4, a hash of
// its name. RFC 6286 requires only that it is unique in the AS and not 0.
func routerID(node *corev1.Node) netip.Addr {
	if addrs := internalAddresses(node); slices.ContainsFunc(addrs, netip.Addr.Is4) {
		return addrs[slices.IndexFunc(addrs, netip.Addr.Is4)]
	}
	h := fnv.New32a()
	h.Write([]byte(node.Name))
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, h.Sum32()|1)))
}

// multihopTTL is the TTL of sessions over several hops.
const multihopTTL = 255

// newTransport returns how to reach the peer, or why that is not known yet.
func newTransport(p config.BGPPeer, local LocalFacts) (bgp.Transport, v1alpha1.Refusal) {
	t := bgp.Transport{Address: p.Address, Port: p.Port, Passive: p.Passive, Source: p.Source, Hops: 1, RetryTime: p.ConnectTime}
	if vrf := vrfOf(p, local.Interfaces); vrf.VRF != "" {
		return t, v1alpha1.Refusal{
			Reason: v1alpha1.UnsupportedVRF, Message: fmt.Sprintf("the router is on interface %s of VRF %s: BGP in a VRF is not supported", vrf.Name, vrf.VRF),
		}
	}
	switch {
	case p.Interface != "":
		if t.Address = local.Routers[p.Interface]; !t.Address.IsValid() {
			return t, v1alpha1.Refusal{
				Reason:  v1alpha1.NoRouter,
				Message: fmt.Sprintf("no router found on interface %s: none has sent a router advertisement, or it no longer answers", p.Interface),
			}
		}
	case p.DefaultGateway != "":
		if t.Address = local.Gateways[p.DefaultGateway]; !t.Address.IsValid() {
			return t, v1alpha1.Refusal{Reason: v1alpha1.NoRouter, Message: fmt.Sprintf("no %s default gateway found on the node", p.DefaultGateway)}
		}
	}
	switch {
	case p.TTLSecurity > 0:
		t.Hops, t.TTLSecurity = p.TTLSecurity, true
	case p.EBGPMultiHop || p.Internal():
		t.Hops = multihopTTL
	}
	if p.PasswordSecret != "" {
		password := local.Passwords[p.PasswordSecret]
		if password == "" {
			return t, v1alpha1.Refusal{
				Reason:  v1alpha1.NoSecret,
				Message: fmt.Sprintf("Secret %q with the key \"password\" not found in Fairlead's namespace", p.PasswordSecret),
			}
		}
		t.Password = password
	}
	return t, v1alpha1.Refusal{}
}

// vrfOf returns the interface in a VRF by which alone the peer would be reached, if any.
func vrfOf(p config.BGPPeer, interfaces []l2.Interface) (vrf l2.Interface) {
	for _, i := range interfaces {
		switch {
		case i.Name != p.Interface && !i.Contains(p.Address):
		case i.VRF == "":
			return l2.Interface{}
		default:
			vrf = i
		}
	}
	return vrf
}

// routeScope is a set of addresses that each node advertises alike.
type routeScope struct {
	pool string
	is6  bool
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
	for _, peer := range d.Config.BGPPeers {
		if carried := s.is6 && peer.IPv6 || !s.is6 && peer.IPv4; carried && peer.SelectsNode(m.labels) {
			routes.routes = append(routes.routes, peerRoutes(peer, ads, s.is6, m.leaving)...)
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
	routes := d.routesOfScope(routeScope{h.pool, h.addr.Is6()})
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
	scoped := d.routesOfScope(routeScope{h.pool, h.addr.Is6()})
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
