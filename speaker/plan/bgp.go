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
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Local is what only the node itself knows.
type Local struct {
	// Interfaces of the node, as they are.
	Interfaces []l2.Interface
	// Gateways of the node, by family: "IPv4", "IPv6".
	Gateways map[string]netip.Addr
	// Routers heard on links, with their link-local addresses.
	Routers map[string]netip.Addr
	// Passwords by the name of their Secret.
	Passwords map[string]bgp.Secret
	// Open are the addresses that the node's data path serves; if nil, all.
	Open map[netip.Addr]bool
	// Routed are the addresses that the node announces by BGP already. They wait
	// for nothing, whatever would be asked today.
	Routed map[netip.Addr][]int
	// Proxy: kube-proxy is there, which is all that addresses of Services wait
	// for that have no health check of their own.
	Proxy bool
	// Drained: the node has been excluded for so long that its routers have
	// had the time to look for other ways.
	Drained bool
	// Leaving: the node is about to withdraw all its routes.
	Leaving bool
}

// Peering is this node's session with one peer.
type Peering struct {
	Config config.BGPPeer
	// Peer is what the session shall be, with its routes.
	Peer bgp.Peer
	// Beyond: the router is not on a link of the node, and so is its BFD.
	Beyond bool
	// Problem, if set, says why there shall be none.
	Problem v1alpha1.Refusal
}

// peerings are the node's sessions, in the order of the configuration. The
// first of two that lead to the same router is used. About so many routes are to
// be expected.
func peerings(c config.Config, node *corev1.Node, local Local, routes int) (all []Peering) {
	type end struct {
		addr netip.AddrPort
		// Passive ones listen; only the address tells who connects.
		passive bool
	}
	taken := map[end]string{}
	for _, p := range c.BGPPeers {
		if !p.SelectsNode(node.Labels) {
			continue
		}
		peering := Peering{Config: p, Peer: bgp.Peer{Name: p.Name, Session: session(p, node), Routes: make(bgp.Routes, routes)}}
		transport, problem := transport(p, local)
		peering.Peer.Transport, peering.Problem = transport, problem
		peering.Beyond = !transport.Address.IsLinkLocalUnicast() &&
			(p.EBGPMultiHop || p.TTLSecurity > 1 || p.Internal() && !onInterface(transport.Address, local.Interfaces))
		if problem.Reason == "" {
			e := end{netip.AddrPortFrom(transport.Address, transport.Port), p.Passive}
			if other, clashes := taken[e]; clashes {
				peering.Problem = v1alpha1.Refusal{Reason: v1alpha1.DuplicatePeer, Message: fmt.Sprintf("BGPPeer %q is older and leads to %s, too", other, e.addr)}
			} else {
				taken[e] = p.Name
			}
		}
		all = append(all, peering)
	}
	return all
}

// onInterface reports whether no router is between the node and the address.
func onInterface(addr netip.Addr, links []l2.Interface) bool {
	return slices.ContainsFunc(links, func(l l2.Interface) bool { return l.Contains(addr) })
}

func session(p config.BGPPeer, node *corev1.Node) bgp.Session {
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

// routerID is the node's IPv4 address or, in a cluster without IPv4, a number
// made of its name: RFC 6286 asks only that it be unique in the AS and not 0.
func routerID(node *corev1.Node) netip.Addr {
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() {
			return ip
		}
	}
	h := fnv.New32a()
	h.Write([]byte(node.Name))
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, h.Sum32()|1)))
}

// anyDistance is the TTL of sessions over several hops.
const anyDistance = 255

func transport(p config.BGPPeer, local Local) (bgp.Transport, v1alpha1.Refusal) {
	t := bgp.Transport{Address: p.Address, Port: p.Port, Passive: p.Passive, Source: p.Source, Hops: 1, RetryTime: p.ConnectTime}
	switch {
	case p.Interface != "":
		if t.Address = local.Routers[p.Interface]; !t.Address.IsValid() {
			return t, v1alpha1.Refusal{Reason: v1alpha1.NoRouter, Message: fmt.Sprintf("no router advertises itself on link %s yet", p.Interface)}
		}
	case p.DefaultGateway != "":
		if t.Address = local.Gateways[p.DefaultGateway]; !t.Address.IsValid() {
			return t, v1alpha1.Refusal{Reason: v1alpha1.NoRouter, Message: fmt.Sprintf("the node has no %s default gateway", p.DefaultGateway)}
		}
	}
	switch {
	case p.TTLSecurity > 0:
		t.Hops, t.TTLSecurity = p.TTLSecurity, true
	case p.EBGPMultiHop || p.Internal():
		t.Hops = anyDistance
	}
	if p.PasswordSecret != "" {
		password := local.Passwords[p.PasswordSecret]
		if password == "" {
			return t, v1alpha1.Refusal{Reason: v1alpha1.NoSecret, Message: fmt.Sprintf("there is no Secret %q with a key \"password\" in Fairlead's namespace", p.PasswordSecret)}
		}
		t.Password = password
	}
	return t, v1alpha1.Refusal{}
}

// scope is what nodes' parts by BGP depend on.
type scope struct {
	pool string
	is6  bool
}

// part is a node's part by BGP in the addresses of a scope.
type part struct {
	refusal v1alpha1.Refusal
	ways    []way
	peers   []int // that are told, by their places among this node's sessions
}

// way is a peer that is told, by one advertisement or by several that agree on
// the length.
type way struct {
	peer       string
	to         int // the peer's place among this node's sessions
	by         config.BGPAdvertisement
	attributes bgp.Attributes
}

// partsOf are all nodes' parts, in the order of d.nodes; nil if no
// advertisement covers the pool.
func (d *decision) partsOf(s scope) []part {
	if known, ok := d.parts[s]; ok {
		return known
	}
	var ads []config.BGPAdvertisement
	for _, ad := range d.Config.BGPAdvertisements {
		if ad.Covers(s.pool) {
			ads = append(ads, ad)
		}
	}
	var parts []part
	if len(ads) > 0 {
		parts = make([]part, len(d.nodes))
		for i, m := range d.nodes {
			parts[i] = d.part(s, m, ads)
		}
	}
	d.parts[s] = parts
	return parts
}

func (d *decision) part(s scope, m *member, ads []config.BGPAdvertisement) (p part) {
	ads = slices.DeleteFunc(slices.Clone(ads), func(ad config.BGPAdvertisement) bool { return !ad.SelectsNode(m.labels) })
	if len(ads) == 0 {
		p.refusal = v1alpha1.Refusal{Reason: v1alpha1.NodeNotSelected, Message: "is selected by no BGPAdvertisement of the pool"}
		return p
	}
	if m.refusal.Reason != "" && !m.leaving {
		p.refusal = m.refusal
		return p
	}
	for _, peer := range d.Config.BGPPeers {
		if carried := s.is6 && peer.IPv6 || !s.is6 && peer.IPv4; carried && peer.SelectsNode(m.labels) {
			p.ways = append(p.ways, ways(peer, ads, s.is6, m.leaving)...)
		}
	}
	if m.name == d.Node {
		for i := range p.ways {
			p.ways[i].to = slices.IndexFunc(d.peerings, func(s Peering) bool { return s.Config.Name == p.ways[i].peer })
			p.peers = append(p.peers, p.ways[i].to)
		}
		p.peers = slices.Compact(p.peers) // the ways to a peer follow each other
	}
	if len(p.ways) == 0 {
		p.refusal = v1alpha1.Refusal{Reason: v1alpha1.NoPeer, Message: "has no BGPPeer that a BGPAdvertisement of the pool names and that carries the family"}
	}
	return p
}

// ways are the routes that the peer is told by these advertisements: one for
// each prefix length, with the attributes of the first of that length and the
// communities of all.
func ways(peer config.BGPPeer, ads []config.BGPAdvertisement, is6, leaving bool) (all []way) {
	var communities [][]string
	for _, ad := range ads {
		if !ad.AdvertisedTo(peer.Name) {
			continue
		}
		i := slices.IndexFunc(all, func(w way) bool {
			return is6 && w.by.Length6 == ad.Length6 || !is6 && w.by.Length4 == ad.Length4
		})
		if i < 0 {
			i = len(all)
			all = append(all, way{peer: peer.Name, by: ad, attributes: bgp.Attributes{
				LocalPref: ad.LocalPref, MED: ad.MED, HasMED: ad.HasMED, Prepend: ad.ASPathPrepend,
			}})
			communities = append(communities, nil)
		}
		communities[i] = append(communities[i], ad.Communities...)
	}
	for i := range all {
		if leaving {
			communities[i] = append(communities[i], config.GracefulShutdown)
			all[i].attributes.LocalPref = 0 // RFC 8326 section 4.2: for internal peers that do not know the community
		}
		slices.Sort(communities[i])
		all[i].attributes.Communities = strings.Join(slices.Compact(communities[i]), " ")
	}
	return all
}

// tell returns this node's part in announcing the address, nil if it has none,
// and why no node announces it, if none does.
func (d *decision) tell(h holding) (own *part, why v1alpha1.Refusal) {
	parts := d.partsOf(scope{h.pool, h.addr.Is6()})
	if parts == nil {
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	}
	told, whole := false, d.wholly(h, parts)
	for i, m := range d.nodes {
		if any, all := h.serves(m.name); parts[i].refusal.Reason != "" || !any || whole && !all {
			continue
		}
		told = true
		if m.name == d.Node {
			own = &parts[i]
		}
	}
	if told {
		return own, v1alpha1.Refusal{}
	}
	var standings []Standing
	for i, m := range d.nodes {
		_, r := d.standing(h, i)
		standings = append(standings, Standing{Node: m.name, Reason: r.Reason, Message: r.Message})
	}
	return nil, summarize(h.pool, standings)
}

// wholly reports whether a node with a part serves all Services that hold the
// address.
func (d *decision) wholly(h holding, parts []part) bool {
	for i, m := range d.nodes {
		if _, all := h.serves(m.name); all && parts[i].refusal.Reason == "" {
			return true
		}
	}
	return false
}

// standing is what the i-th node tells, or why nothing.
func (d *decision) standing(h holding, i int) (tells []Told, why v1alpha1.Refusal) {
	parts := d.partsOf(scope{h.pool, h.addr.Is6()})
	switch any, all := h.serves(d.nodes[i].name); {
	case parts == nil:
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	case parts[i].refusal.Reason != "":
		return nil, parts[i].refusal
	case !any, !all && d.wholly(h, parts):
		return nil, h.lacks(d.nodes[i].name)
	}
	for w, prefix := range parts[i].routes(h.addr, d.within(h)) {
		tells = append(tells, Told{w.peer, prefix, w.attributes})
	}
	return tells, v1alpha1.Refusal{}
}

// routes are the prefixes for an address, each with its way. Where ways to a peer
// come to the same prefix, because an aggregate cannot be made, the first gives
// the attributes and all give their communities.
func (p *part) routes(addr netip.Addr, within []netipx.IPRange) iter.Seq2[way, netip.Prefix] {
	return func(yield func(way, netip.Prefix) bool) {
		for i, w := range p.ways {
			prefix := w.by.Prefix(addr, within)
			same := func(o way) bool { return o.peer == w.peer && o.by.Prefix(addr, within) == prefix }
			if slices.ContainsFunc(p.ways[:i], same) {
				continue
			}
			for _, o := range p.ways[i+1:] {
				if same(o) {
					w.attributes.Communities = unite(w.attributes.Communities, o.attributes.Communities)
				}
			}
			if !yield(w, prefix) {
				return
			}
		}
	}
}

// unite is the union of two sets of communities.
func unite(a, b string) string {
	all := slices.Sorted(slices.Values(strings.Fields(a + " " + b)))
	return strings.Join(slices.Compact(all), " ")
}

// route adds the routes of one address, by this node's part, to the sessions.
func (p *Plan) route(addr netip.Addr, own *part, within []netipx.IPRange) {
	p.Routed[addr] = own.peers
	for w, prefix := range own.routes(addr, within) {
		p.BGP[w.to].Peer.Routes[prefix] = w.attributes
	}
}
