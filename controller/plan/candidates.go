package plan

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// candidateNode is a node with what makes it a candidate for the addresses of a pool: an
// L2Advertisement of the pool that selects the node, with an interface that it names or
// that has a subnet with the address; or a BGPAdvertisement of the pool that selects the
// node, with a peer that selects the node and has the address family.
//
// Not considered are endpoints under externalTrafficPolicy: Local, which the controller
// does not watch, and the exclusion of a node, which still announces until another node
// does. Interfaces and their subnets are reported by the node itself.
type candidateNode struct {
	name       string
	seed       uint64 // of the rank
	config     config.Config
	l2ads      []int                      // that select the node, indexes into the Config
	bgpads     []int                      // likewise
	peers      map[string]*config.BGPPeer // that select the node
	interfaces []string                   // as reported
	subnets    map[string][]netip.Prefix
	routes     [2][]int // BGPAdvertisements that apply to any peer, by family
	// kernelAnswers are the interfaces on which the kernel answers for the IPv4 addresses
	// of all Services.
	kernelAnswers []string
}

// newCandidateNode returns the node with the objects that select it. The interfaces must be
// within their bounds.
func newCandidateNode(c config.Config, node *corev1.Node, interfaces []v1alpha1.Interface) *candidateNode {
	n := &candidateNode{
		name: node.Name, seed: config.RankSeed(node.Name), config: c, peers: map[string]*config.BGPPeer{}, subnets: map[string][]netip.Prefix{},
	}
	has := labels.Set(node.Labels)
	for i := range c.L2Advertisements {
		if c.L2Advertisements[i].SelectsNode(has) {
			n.l2ads = append(n.l2ads, i)
		}
	}
	for i := range c.BGPAdvertisements {
		if c.BGPAdvertisements[i].SelectsNode(has) {
			n.bgpads = append(n.bgpads, i)
		}
	}
	var peers []string
	for i := range c.BGPPeers {
		if c.BGPPeers[i].SelectsNode(has) {
			peers = append(peers, c.BGPPeers[i].Name)
			n.peers[c.BGPPeers[i].Name] = &c.BGPPeers[i]
		}
	}
	for _, i := range interfaces {
		if i.VRF != "" {
			continue
		}
		if _, known := n.subnets[i.Name]; !known {
			n.interfaces, n.subnets[i.Name] = append(n.interfaces, i.Name), nil
		}
		if i.KernelAnswers {
			n.kernelAnswers = append(n.kernelAnswers, i.Name)
		}
		for _, text := range i.Addresses {
			p, _ := config.ReportedSubnet(text)
			n.subnets[i.Name] = append(n.subnets[i.Name], p)
		}
	}
	n.routes = n.bgpAdvertisements(peers)
	return n
}

// familyIndex is 0 for IPv4 and 1 for IPv6.
func familyIndex(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// bgpAdvertisements returns the BGPAdvertisements, by address family, under which the
// node may advertise routes to one of the peers. Names of other peers are ignored.
func (n *candidateNode) bgpAdvertisements(peers []string) (ads [2][]int) {
	selected := map[string]*config.BGPPeer{} // a report may repeat a name
	for _, name := range peers {
		if p := n.peers[name]; p != nil {
			selected[name] = p
		}
	}
	for _, i := range n.bgpads {
		var families [2]bool
		for name, p := range selected {
			if n.config.BGPAdvertisements[i].AdvertisedTo(name) {
				families[0], families[1] = families[0] || p.IPv4, families[1] || p.IPv6
			}
		}
		for family, carried := range families {
			if carried {
				ads[family] = append(ads[family], i)
			}
		}
	}
	return ads
}

// announcesOn reports whether the node is a candidate for the address of one of the
// pools on one of the interfaces.
func (n *candidateNode) announcesOn(addr netip.Addr, pools, interfaces []string) bool {
	return slices.ContainsFunc(n.l2ads, func(i int) bool {
		ad := &n.config.L2Advertisements[i]
		return slices.ContainsFunc(pools, ad.Covers) && slices.ContainsFunc(interfaces, func(name string) bool {
			if len(ad.Interfaces) > 0 {
				_, named := slices.BinarySearch(ad.Interfaces, name)
				return named
			}
			return slices.ContainsFunc(n.subnets[name], func(p netip.Prefix) bool { return p.Contains(addr) })
		})
	})
}

// kernelAnswersFor reports whether the node's kernel answers for the IPv4 address of a
// Service on the segment of the address.
func (n *candidateNode) kernelAnswersFor(addr netip.Addr) bool {
	return slices.ContainsFunc(n.kernelAnswers, func(name string) bool {
		return slices.ContainsFunc(n.subnets[name], func(p netip.Prefix) bool { return p.Contains(addr) })
	})
}

// announces reports whether the node is a candidate for the address of one of the
// pools, by any protocol.
func (n *candidateNode) announces(addr netip.Addr, pools []string) bool {
	return n.announcesOn(addr, pools, n.interfaces) || anyCovers(n.config.BGPAdvertisements, n.routes[familyIndex(addr)], pools)
}

// anyCovers reports whether one of the advertisements, which are indexes, covers one of
// the pools.
func anyCovers(all []config.BGPAdvertisement, ads []int, pools []string) bool {
	return slices.ContainsFunc(ads, func(i int) bool { return slices.ContainsFunc(pools, all[i].Covers) })
}

// reportingNode returns the node that reports an address that no node announces: the one
// of the highest rank, as in the speakers' plans.
func (r *speakerReports) reportingNode(addr netip.Addr) (node *candidateNode) {
	var best uint64
	for _, n := range r.candidates {
		if s := config.RendezvousScore(n.seed, addr); node == nil || s >= best {
			node, best = n, s
		}
	}
	return node
}

// applicablePools returns the pools of which one applies to the address in the speakers'
// plans: the assigned one, the one that contains the address, and those of other Services
// that share the address.
func (d *decision) applicablePools(h allocator.Held) []string {
	pools := []string{h.Pool}
	if p := d.reports.pools.Named(h.Pool); p == nil || !p.Contains(h.Addr) {
		if p := d.reports.pools.Containing(h.Addr); p != nil {
			pools = append(pools, p.Name)
		}
	}
	return append(pools, d.sharedPools[h.Addr]...)
}

// newSharedPools returns the pools from which shared addresses are assigned, if there are
// several for an address: pools that have changed select only some of the Services.
func newSharedPools(services []*serviceState, result allocator.Result) map[netip.Addr][]string {
	pools := map[netip.Addr][]string{}
	for _, svc := range services {
		if svc.terms == "" {
			continue
		}
		for _, h := range svc.assignmentIn(result).Held {
			if !slices.Contains(pools[h.Addr], h.Pool) {
				pools[h.Addr] = append(pools[h.Addr], h.Pool)
			}
		}
	}
	for addr, names := range pools {
		if len(names) == 1 {
			delete(pools, addr)
		}
	}
	return pools
}
