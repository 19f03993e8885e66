package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// someRouting is a cluster that speaks BGP, without Services.
func someRouting(t *rapid.T) (s Snapshot, objects config.Objects) {
	s.Interfaces = map[string][]l2.Interface{}
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		n := node(fmt.Sprintf("node-%d", i))
		if rapid.Bool().Draw(t, "labelled") {
			n.Labels["rack"] = "a"
		}
		if rapid.IntRange(0, 4).Draw(t, "excluded") == 0 {
			n.Labels[corev1.LabelNodeExcludeBalancers] = ""
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

// plainlyTelling are the nodes that could tell an address, whoever holds it.
func plainlyTelling(s Snapshot, objects config.Objects) (could []*corev1.Node) {
	for _, n := range s.Nodes {
		selects := func(selectors []metav1.LabelSelector) bool { return selectors == nil || n.Labels["rack"] == "a" }
		for _, ad := range objects.BGPAdvertisements {
			for _, p := range objects.BGPPeers {
				named := ad.Spec.Peers == nil || slices.Contains(ad.Spec.Peers, p.Name)
				if named && selects(ad.Spec.NodeSelectors) && selects(p.Spec.NodeSelectors) && Excluded(n) == "" && !slices.Contains(could, n) {
					could = append(could, n)
				}
			}
		}
	}
	return could
}

// peersTold are the peers that the plan tells of the address, by whatever route.
// Those that only learn an aggregate for another address have better routes for
// this one.
func peersTold(p Plan, addr netip.Addr) (peers []string) {
	for _, i := range p.Routed[addr] {
		for prefix := range p.BGP[i].Peer.Routes {
			if prefix.Contains(addr) {
				peers = append(peers, p.BGP[i].Config.Name)
				break
			}
		}
	}
	return peers
}

// TestRouteLaws: over random clusters, an address is told by exactly the nodes
// that serve all of its Services or, if there is none, any; they are those that
// Explain names; and it is unannounced if and only if no node tells it.
func TestRouteLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, objects := someRouting(t)
		s.Config, _ = config.Parse(objects)
		for i := range rapid.IntRange(1, 3).Draw(t, "sharers") {
			svc := service(fmt.Sprintf("s%d", i), "203.0.113.5", "p")
			s.Slices = append(s.Slices, someEndpoints(t, svc, s.Nodes)...)
			s.Services = append(s.Services, svc)
		}
		addr := netip.MustParseAddr("203.0.113.5")
		want := plainlyServing(s, s.Services, plainlyTelling(s, objects))
		verdict := Explain(s, rapid.SampledFrom(s.Services).Draw(t, "explained"))[0]
		var tellers []string
		refusals := 0
		for _, n := range s.Nodes {
			s.Node = n.Name
			plan := Decide(s)
			peers := peersTold(plan, addr)
			if len(peers) > 0 {
				tellers = append(tellers, n.Name)
			}
			var explained []string
			for _, standing := range verdict.Nodes {
				if standing.Node == n.Name {
					for _, told := range standing.Tells {
						explained = append(explained, told.Peer)
					}
				}
			}
			if !slices.Equal(peers, explained) {
				t.Fatalf("%s tells %v, and Explain says %v", n.Name, peers, explained)
			}
			if _, refused := plan.Unannounced[addr]; refused {
				refusals++
			}
		}
		if !slices.Equal(tellers, want) {
			t.Fatalf("%v tell the address, want %v", tellers, want)
		}
		if (len(tellers) == 0) != (refusals == 1) || refusals > 1 {
			t.Fatalf("%v tell the address, and %d say that nobody can", tellers, refusals)
		}
		if (len(tellers) == 0) != (verdict.Refusal.Reason != "") {
			t.Fatalf("%v tell the address, and Explain says %q", tellers, verdict.Refusal.Reason)
		}
	})
}

// TestLawOutOfPool: whatever becomes of a pool, the addresses that it gave stay
// announced by the nodes that announced them, on links and to the same peers; and
// no route reaches beyond what is left of the pool.
func TestLawOutOfPool(t *testing.T) {
	by := map[string]v1alpha1.BGPAdvertisementSpec{
		"all":      {},
		"name":     {IPAddressPools: []string{"p", "q"}},
		"selector": {IPAddressPoolSelectors: matching("tier", "edge")},
	}
	rapid.Check(t, func(t *rapid.T) {
		s, objects := someRouting(t)
		for i, n := range s.Nodes {
			s.Interfaces[n.Name] = []l2.Interface{link("eth0", fmt.Sprintf("203.0.113.%d/16", i+1))}
		}
		lan := by[rapid.SampledFrom(slices.Sorted(maps.Keys(by))).Draw(t, "on links by")]
		objects.L2Advertisements = []*v1alpha1.L2Advertisement{l2ad("lan", v1alpha1.L2AdvertisementSpec{IPAddressPools: lan.IPAddressPools, IPAddressPoolSelectors: lan.IPAddressPoolSelectors})}
		for _, ad := range objects.BGPAdvertisements {
			scope := by[rapid.SampledFrom(slices.Sorted(maps.Keys(by))).Draw(t, "by BGP by")]
			ad.Spec.IPAddressPools, ad.Spec.IPAddressPoolSelectors = scope.IPAddressPools, scope.IPAddressPoolSelectors
			ad.Spec.AggregationLength = num(rapid.SampledFrom([]int32{24, 28, 32}).Draw(t, "length"))
		}
		old, other := pool("p", "203.0.113.0/24"), pool("q", "203.0.114.0/24")
		old.Labels, other.Labels = map[string]string{"tier": "edge"}, map[string]string{"tier": "edge"}
		objects.Pools = []*v1alpha1.IPAddressPool{old, other}
		var addrs []netip.Addr
		for i := range rapid.IntRange(1, 6).Draw(t, "services") {
			a, b := fmt.Sprintf("203.0.113.%d", 10+40*i), fmt.Sprintf("203.0.114.%d", 10+40*i)
			svc := service(fmt.Sprintf("s%d", i), a, "p")
			s.Slices = append(s.Slices, someEndpoints(t, svc, s.Nodes)...)
			if addrs = append(addrs, netip.MustParseAddr(a)); rapid.Bool().Draw(t, "being renumbered") {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: b})
				svc.Annotations[v1alpha1.AnnotationAllocatedFrom] += "," + b + "=q"
				addrs = append(addrs, netip.MustParseAddr(b))
			}
			s.Services = append(s.Services, svc)
		}
		s.Config, _ = config.Parse(objects)
		before := announcing(s, addrs)
		changed := changedPool(t, old)
		objects.Pools = []*v1alpha1.IPAddressPool{changed, other}
		if rapid.Bool().Draw(t, "another pool takes what is free") {
			objects.Pools = append(objects.Pools, pool("r", "203.0.113.128/25"))
		}
		s.Config, _ = config.Parse(objects)
		if after := announcing(s, addrs); !maps.Equal(before, after) {
			t.Fatalf("before: %v\nafter:  %v", before, after)
		}
		checkReach(t, s)
	})
}

// changedPool is shrunk, or deleted and held back by its finalizer, or both.
func changedPool(t *rapid.T, from *v1alpha1.IPAddressPool) *v1alpha1.IPAddressPool {
	changed := from.DeepCopy()
	changed.Spec.Addresses = rapid.SampledFrom([][]v1alpha1.AddressRange{
		{"203.0.113.0/24"}, {"203.0.113.0/25"}, {"203.0.113.60-203.0.113.100"}, {"198.51.100.0/24"}, {"nonsense"},
	}).Draw(t, "becomes")
	if rapid.Bool().Draw(t, "deleted") {
		changed.DeletionTimestamp = &metav1.Time{}
	}
	return changed
}

// announcing says "NODE ADDRESS WHERE" of all nodes and addresses.
func announcing(s Snapshot, addrs []netip.Addr) map[string]bool {
	all := map[string]bool{}
	for _, n := range s.Nodes {
		s.Node = n.Name
		p := Decide(s)
		for addr, claim := range p.L2 {
			all[fmt.Sprint(n.Name, addr, claim.Interfaces)] = true
		}
		for _, addr := range addrs {
			for _, peer := range peersTold(p, addr) {
				all[fmt.Sprint(n.Name, addr, peer)] = true
			}
		}
	}
	return all
}

// checkReach: a route is for one address, or for part of one pool.
func checkReach(t *rapid.T, s Snapshot) {
	for _, n := range s.Nodes {
		s.Node = n.Name
		for _, peering := range Decide(s).BGP {
			for prefix := range peering.Peer.Routes {
				inside := prefix.IsSingleIP()
				for _, p := range s.Config.Pools {
					for _, r := range p.Ranges {
						inside = inside || r.Contains(prefix.Addr()) && r.Contains(lastOf(prefix))
					}
				}
				if !inside {
					t.Fatalf("%s tells %s, which is in no pool", n.Name, prefix)
				}
			}
		}
	}
}

// lastOf is the last address of an IPv4 prefix.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}
