package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// planHistory is a snapshot that changes. Objects that have changed are new ones, as in the
// caches of informers.
type planHistory struct {
	*rapid.T
	parser   config.Parser
	s        Snapshot
	services map[string]*corev1.Service
	slices   map[string][]*discoveryv1.EndpointSlice
	nodes    map[string]*corev1.Node
}

const historyNodes = 14

func newPlanHistory(t *rapid.T) *planHistory {
	h := &planHistory{
		T: t, services: map[string]*corev1.Service{}, slices: map[string][]*discoveryv1.EndpointSlice{}, nodes: map[string]*corev1.Node{},
	}
	h.s = Snapshot{
		Node: "node-0", Interfaces: map[string][]l2.Interface{}, TakenOver: map[string][]string{}, ProxyNotReady: map[string]bool{},
		Local: LocalFacts{
			Held: map[netip.Addr]bool{}, HeldOn: map[netip.Addr][]string{}, Claimants: map[netip.Addr][]l2.Claimant{},
			Failover: failover.View{
				Peers: map[failover.Peer]failover.Status{}, Verified: map[netip.Addr]failover.Holder{}, Answered: map[netip.Addr]failover.Peer{},
			},
			PeerFresh: map[failover.Peer]bool{}, WithoutEndpoints: map[EndpointFamily]bool{}, Settled: true,
		},
	}
	for i := range historyNodes {
		h.changeNode(fmt.Sprintf("node-%d", i), i)
	}
	for range 12 {
		h.changeService()
	}
	h.changeConfig()
	return h
}

func (h *planHistory) draw(n int, what string) int { return rapid.IntRange(0, n-1).Draw(h.T, what) }

func (h *planHistory) drawNode() string { return fmt.Sprintf("node-%d", h.draw(historyNodes, "node")) }

func (h *planHistory) drawAddr() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 100+h.draw(10, "address")))
}

func (h *planHistory) changeNode(name string, number int) {
	n := node(name)
	h.s.Interfaces = maps.Clone(h.s.Interfaces)
	iface := newInterface("eth0", fmt.Sprintf("192.0.2.%d/24", 1+number))
	iface.MAC = fmt.Sprintf("02:00:00:00:00:%02d", number)
	h.s.Interfaces[name] = []l2.Interface{iface}
	switch h.draw(24, "kind of node") {
	case 0, 1:
		notReady(n)
	case 2:
		labelled(corev1.LabelNodeExcludeBalancers, "")(n)
	case 3, 4:
		n.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted}}
	case 5:
		n.DeletionTimestamp = &metav1.Time{}
	case 6, 7:
		n.Labels["x"] = "y"
	case 8:
		delete(h.s.Interfaces, name)
	case 9:
		h.s.Interfaces[name] = []l2.Interface{newInterface("eth0", "198.51.100.1/24")}
	case 10:
		delete(h.nodes, name)
		return
	case 11:
		h.s.ProxyNotReady[name] = !h.s.ProxyNotReady[name]
	case 12, 13:
		drawWeight(h.T, n)
	}
	h.nodes[name] = n
}

func (h *planHistory) changeService() {
	name := fmt.Sprintf("s%d", h.draw(12, "service"))
	if h.draw(8, "delete") == 0 {
		delete(h.services, name)
		delete(h.slices, name)
		return
	}
	svc := service(name, h.drawAddr().String(), rapid.SampledFrom([]string{"lan", "bgp", "both"}).Draw(h.T, "pool"))
	h.services[name] = svc
	h.slices[name] = drawEndpoints(h.T, svc, slices.Collect(maps.Values(h.nodes)))
	h.s.Local.WithoutEndpoints[familyOf(svc, netip.MustParseAddr("192.0.2.1"))] = h.draw(6, "no endpoints") == 0
}

func (h *planHistory) changeConfig() {
	only := func(pools ...string) func(*v1alpha1.BGPAdvertisementSpec) {
		return func(s *v1alpha1.BGPAdvertisementSpec) { s.IPAddressPools = pools }
	}
	lan := l2ad("lan", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"lan", "both"}})
	switch h.draw(5, "advertisement") {
	case 0:
		lan.Spec.NodeSelectors = matchLabel("x", "y")
	case 1:
		lan.Spec.NodeWeights = byLabel
	case 2:
		lan.Spec.Interfaces = []string{"eth0"}
	}
	lanPool := newPool("lan", "192.0.2.0/24")
	lanPool.Spec.ServiceAllocation = drawAllocation(h.T)
	lan.Generation = int64(h.draw(1<<30, "generation"))
	lanPool.Generation = lan.Generation
	h.s.Config, _, h.s.ConfigState = h.parser.Parse(config.Objects{
		Pools:             []*v1alpha1.IPAddressPool{lanPool, newPool("bgp", "203.0.113.0/24"), newPool("both", "198.51.100.0/24")},
		L2Advertisements:  []*v1alpha1.L2Advertisement{lan},
		BGPPeers:          []*v1alpha1.BGPPeer{peer("a", "203.0.113.1"), peer("b", "203.0.113.2")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("bgp", only("bgp", "both"))},
	})
}

func (h *planHistory) changeLocal() {
	l, addr := &h.s.Local, h.drawAddr()
	peer := failover.Peer{Interface: "eth0", Node: h.drawNode()}
	switch h.draw(9, "fact") {
	case 0:
		l.Held[addr], l.HeldOn[addr] = true, []string{"eth0"}
	case 1:
		delete(l.Held, addr)
		delete(l.HeldOn, addr)
	case 2, 3:
		l.Failover.Peers[peer] = failover.Status{State: rapid.SampledFrom([]failover.State{failover.Live, failover.Gone, failover.Leaving}).Draw(h.T, "state")}
	case 4:
		delete(l.Failover.Peers, peer)
	case 5:
		l.Failover.Answered[addr] = peer
	case 6:
		l.Failover.Verified[addr] = failover.Holder{Peer: peer}
	case 7:
		l.Claimants[addr] = []l2.Claimant{claimant(fmt.Sprintf("02:00:00:00:00:%02d", h.draw(historyNodes+2, "claimant")), time.Minute)}
	case 8:
		h.s.TakenOver[peer.Node] = []string{h.drawNode(), h.drawNode()}
	}
}

// snapshot returns the present state, with the objects in any order.
func (h *planHistory) snapshot() Snapshot {
	s := h.s
	s.Nodes = rapid.Permutation(slices.SortedFunc(maps.Values(h.nodes), func(a, b *corev1.Node) int {
		return compareNames(a, b)
	})).Draw(h.T, "order of nodes")
	for _, name := range slices.Sorted(maps.Keys(h.services)) {
		s.Services, s.Slices = append(s.Services, h.services[name]), append(s.Slices, h.slices[name]...)
	}
	return s
}

func compareNames(a, b metav1.Object) int {
	switch {
	case a.GetName() < b.GetName():
		return -1
	case a.GetName() > b.GetName():
		return 1
	}
	return 0
}

// TestPlanner checks that a plan that is based on what was derived for the last one, and that
// leaves out the addresses that concern other nodes only, is that of a new decision on all
// addresses.
func TestPlanner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newPlanHistory(t)
		var p Planner
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				switch h.draw(10, "change") {
				case 0, 1, 2:
					i := h.draw(historyNodes, "changed node")
					h.changeNode(fmt.Sprintf("node-%d", i), i)
				case 3, 4, 5:
					h.changeService()
				case 6:
					h.changeConfig()
					h.s.Namespaces = []*corev1.Namespace{namespace("team", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "team"))}
				case 7:
					h.s.Namespaces = []*corev1.Namespace{namespace("team", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "team"))}
				default:
					h.changeLocal()
				}
			}
			s := h.snapshot()
			got := p.Decide(s)
			d := newDecision(s)
			d.exhaustive = true
			want := d.decide()
			for i := range want.BGP { // functions are not comparable
				want.BGP[i].Config, got.BGP[i].Config = config.BGPPeer{}, config.BGPPeer{}
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got\n%+v\nwant\n%+v", got, want)
			}
		}
	})
}
