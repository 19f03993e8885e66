package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// drawBGPSnapshot draws a cluster with BGP peers, without Services.
func drawBGPSnapshot(t *rapid.T) (s Snapshot, objects config.Objects) {
	s.Interfaces = map[string][]l2.Interface{}
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		n := node(fmt.Sprintf("node-%d", i))
		if rapid.Bool().Draw(t, "labelled") {
			n.Labels["rack"] = "a"
		}
		if rapid.IntRange(0, 4).Draw(t, "excluded") == 0 {
			n.Labels[corev1.LabelNodeExcludeBalancers] = ""
		}
		if rapid.IntRange(0, 9).Draw(t, "has the address") == 9 {
			fixture.WithNodeAddresses("203.0.113.5")(n)
		}
		s.Nodes, s.Interfaces[n.Name] = append(s.Nodes, n), nil
	}
	rack := []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "a"}}}
	for i := range rapid.IntRange(0, 3).Draw(t, "peers") {
		p := peer(fmt.Sprintf("peer-%d", i), fmt.Sprintf("192.0.2.%d", i+1))
		if rapid.Bool().Draw(t, "of the rack") {
			p.Spec.NodeSelectors = rack
		}
		objects.BGPPeers = append(objects.BGPPeers, p)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "advertisements") {
		ad := bgpad(fmt.Sprintf("ad-%d", i))
		if rapid.Bool().Draw(t, "to one peer") {
			ad.Spec.Peers = []string{"peer-0"}
		}
		if rapid.Bool().Draw(t, "by the rack") {
			ad.Spec.NodeSelectors = rack
		}
		objects.BGPAdvertisements = append(objects.BGPAdvertisements, ad)
	}
	s.Local.Drained = true
	return s, objects
}

// oracleAdvertisers returns the nodes that could advertise an address, whatever Services
// hold it.
func oracleAdvertisers(s Snapshot, objects config.Objects) (could []*corev1.Node) {
	for _, n := range s.Nodes {
		selects := func(selectors []metav1.LabelSelector) bool { return selectors == nil || n.Labels["rack"] == "a" }
		for _, ad := range objects.BGPAdvertisements {
			for _, p := range objects.BGPPeers {
				named := ad.Spec.Peers == nil || slices.Contains(ad.Spec.Peers, p.Name)
				selected := named && selects(ad.Spec.NodeSelectors) && selects(p.Spec.NodeSelectors)
				if selected && ExclusionReason(n) == "" && !slices.Contains(could, n) {
					could = append(could, n)
				}
			}
		}
	}
	return could
}

// advertisedPeers returns the peers that the plan advertises a route for the address
// to. A peer that learns only an aggregate for another address is not among them.
func advertisedPeers(p Plan, addr netip.Addr) (peers []string) {
	for _, i := range p.Advertised[addr] {
		for prefix := range p.BGP[i].Peer.Routes {
			if prefix.Contains(addr) {
				peers = append(peers, p.BGP[i].Config.Name)
				break
			}
		}
	}
	return peers
}

// TestRouteLaws checks for random clusters that an address is advertised by exactly the
// nodes that serve all of its Services or, if there is none, any of them or, if there is
// none, all of them by terminating endpoints; by none if it is an address of a node; that
// Explain names the same nodes; and that it is unannounced if and only if no node
// advertises it.
func TestRouteLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, objects := drawBGPSnapshot(t)
		s.Config, _ = config.Parse(objects)
		for i := range rapid.IntRange(1, 3).Draw(t, "sharers") {
			svc := service(fmt.Sprintf("s%d", i), "203.0.113.5", "p")
			s.Slices = append(s.Slices, drawEndpoints(t, svc, s.Nodes)...)
			s.Services = append(s.Services, svc)
		}
		addr := netip.MustParseAddr("203.0.113.5")
		var terminating []string
		could := oracleAdvertisers(s, objects)
		want := oracleServingNodes(s, s.Services, could)
		for _, n := range could {
			if len(want) == 0 && oracleForwards(s, n) { // no other node has an endpoint that is ready
				terminating = append(terminating, n.Name)
			}
		}
		want = append(want, terminating...)
		if oracleNodeAddress(s, addr) {
			want = nil
		}
		state := Explain(s, rapid.SampledFrom(s.Services).Draw(t, "explained"))[0]
		var advertisers []string
		refusals := 0
		for _, n := range s.Nodes {
			s.Node = n.Name
			plan := Decide(s)
			peers := advertisedPeers(plan, addr)
			if len(peers) > 0 {
				advertisers = append(advertisers, n.Name)
			}
			var explained []string
			for _, explainedNode := range state.Nodes {
				if explainedNode.Node == n.Name {
					for _, route := range explainedNode.Routes {
						explained = append(explained, route.Peer)
					}
				}
			}
			if !slices.Equal(peers, explained) {
				t.Fatalf("%s advertises to %v, and Explain returns %v", n.Name, peers, explained)
			}
			if _, refused := plan.Unannounced[addr]; refused {
				refusals++
			}
		}
		if !slices.Equal(advertisers, want) {
			t.Fatalf("%v advertise the address, want %v", advertisers, want)
		}
		if (len(advertisers) == 0) != (refusals == 1) || refusals > 1 {
			t.Fatalf("%v advertise the address, and %d report it as unannounced", advertisers, refusals)
		}
		if (len(advertisers) == 0) != (state.Refusal.Reason != "") {
			t.Fatalf("%v advertise the address, and Explain returns %q", advertisers, state.Refusal.Reason)
		}
	})
}

// TestLawOutOfPool checks that when a pool is shrunk, restricted, deleted or split in any
// way, the addresses that were allocated from it stay announced by the same nodes, on
// the same interfaces and to the same peers, if the advertisements that covered the
// pool also cover its parts; and that no route contains more than what is left of a
// pool.
func TestLawOutOfPool(t *testing.T) {
	by := map[string]v1alpha1.BGPAdvertisementSpec{
		"all":      {},
		"name":     {IPAddressPools: []string{"p", "q", "r"}},
		"selector": {IPAddressPoolSelectors: matchLabel("tier", "edge")},
	}
	rapid.Check(t, func(t *rapid.T) {
		s, objects := drawBGPSnapshot(t)
		for i, n := range s.Nodes {
			s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", fmt.Sprintf("203.0.113.%d/16", i+1))}
		}
		lan := by[rapid.SampledFrom(slices.Sorted(maps.Keys(by))).Draw(t, "on interfaces by")]
		objects.L2Advertisements = []*v1alpha1.L2Advertisement{l2ad("lan", v1alpha1.L2AdvertisementSpec{
			IPAddressPools: lan.IPAddressPools, IPAddressPoolSelectors: lan.IPAddressPoolSelectors,
		})}
		for _, ad := range objects.BGPAdvertisements {
			scope := by[rapid.SampledFrom(slices.Sorted(maps.Keys(by))).Draw(t, "by BGP by")]
			ad.Spec.IPAddressPools, ad.Spec.IPAddressPoolSelectors = scope.IPAddressPools, scope.IPAddressPoolSelectors
			ad.Spec.AggregationLength = ptrTo(rapid.SampledFrom([]int32{24, 28, 32}).Draw(t, "length"))
		}
		old, other := newPool("p", "203.0.113.0/24"), newPool("q", "203.0.114.0/24")
		old.Labels, other.Labels = map[string]string{"tier": "edge"}, map[string]string{"tier": "edge"}
		objects.Pools = []*v1alpha1.IPAddressPool{old, other}
		var addrs []netip.Addr
		for i := range rapid.IntRange(1, 6).Draw(t, "services") {
			a, b := fmt.Sprintf("203.0.113.%d", 10+40*i), fmt.Sprintf("203.0.114.%d", 10+40*i)
			svc := service(fmt.Sprintf("s%d", i), a, "p")
			s.Slices = append(s.Slices, drawEndpoints(t, svc, s.Nodes)...)
			if addrs = append(addrs, netip.MustParseAddr(a)); rapid.Bool().Draw(t, "being renumbered") {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: b})
				fixture.Recorded(strings.Split(svc.Annotations[v1alpha1.AnnotationAllocatedFrom], ",")[0], b+"=q")(svc)
				addrs = append(addrs, netip.MustParseAddr(b))
			}
			s.Services = append(s.Services, svc)
		}
		s.Config, _ = config.Parse(objects)
		before := allAnnouncements(s, addrs)
		changed := drawChangedPool(t, old)
		objects.Pools = []*v1alpha1.IPAddressPool{changed, other}
		if rapid.Bool().Draw(t, "another pool contains the rest") {
			rest := newPool("r", "203.0.113.128/25")
			rest.Labels, rest.Spec.ServiceAllocation = other.Labels, drawAllocation(t)
			objects.Pools = append(objects.Pools, rest)
		}
		s.Config, _ = config.Parse(objects)
		if after := allAnnouncements(s, addrs); !maps.Equal(before, after) {
			t.Fatalf("before: %v\nafter:  %v", before, after)
		}
		checkContained(t, s)
	})
}

// drawChangedPool returns the pool shrunk, restricted to other Services, deleted while
// its finalizer keeps it, or any of these together.
func drawChangedPool(t *rapid.T, from *v1alpha1.IPAddressPool) *v1alpha1.IPAddressPool {
	changed := from.DeepCopy()
	changed.Spec.Addresses = rapid.SampledFrom([][]v1alpha1.AddressRange{
		{"203.0.113.0/24"}, {"203.0.113.0/25"}, {"203.0.113.60-203.0.113.100"}, {"198.51.100.0/24"}, {"nonsense"},
	}).Draw(t, "becomes")
	changed.Spec.ServiceAllocation = drawAllocation(t)
	if rapid.Bool().Draw(t, "deleted") {
		changed.DeletionTimestamp = &metav1.Time{}
	}
	return changed
}

// drawAllocation draws which Services a pool may serve: all, those of the tests, others,
// or those of namespaces with a label.
func drawAllocation(t *rapid.T) *v1alpha1.ServiceAllocation {
	return rapid.SampledFrom([]*v1alpha1.ServiceAllocation{
		nil, {Namespaces: []string{"ns"}}, {Namespaces: []string{"other"}}, {NamespaceSelectors: matchLabel("team", "a")},
	}).Draw(t, "allocation")
}

// allAnnouncements returns all announcements of the addresses as "NODE ADDRESS WHERE".
func allAnnouncements(s Snapshot, addrs []netip.Addr) map[string]bool {
	all := map[string]bool{}
	for _, n := range s.Nodes {
		s.Node = n.Name
		p := Decide(s)
		for addr, claim := range p.L2 {
			all[fmt.Sprint(n.Name, addr, claim.Interfaces)] = true
		}
		for _, addr := range addrs {
			for _, peer := range advertisedPeers(p, addr) {
				all[fmt.Sprint(n.Name, addr, peer)] = true
			}
		}
	}
	return all
}

// checkContained checks that each route is for one address, or for part of one pool.
func checkContained(t *rapid.T, s Snapshot) {
	for _, n := range s.Nodes {
		s.Node = n.Name
		for _, peering := range Decide(s).BGP {
			for prefix := range peering.Peer.Routes {
				inside := prefix.IsSingleIP()
				for _, p := range s.Config.Pools {
					for _, r := range p.Ranges {
						inside = inside || r.Contains(prefix.Addr()) && r.Contains(lastAddr(prefix))
					}
				}
				if !inside {
					t.Fatalf("%s advertises %s, which is outside of all pools", n.Name, prefix)
				}
			}
		}
	}
}

// lastAddr returns the last address of an IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}
