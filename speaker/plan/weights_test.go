package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

func weigh(key, value string, weight int32) v1alpha1.NodeWeight {
	return v1alpha1.NodeWeight{NodeSelector: matchLabel(key, value)[0], Weight: weight}
}

// byLabel are the weights of nodes with the label w.
var byLabel = []v1alpha1.NodeWeight{weigh("w", "0", 0), weigh("w", "1", 1), weigh("w", "2", 2), weigh("w", "50", 50), weigh("w", "100", 100)}

// drawWeight draws the weight of the node, 1 if it has no label, and sets the label.
func drawWeight(t *rapid.T, n *corev1.Node) int32 {
	i := rapid.IntRange(-1, len(byLabel)-1).Draw(t, "weight")
	if i < 0 {
		delete(n.Labels, "w")
		return 1
	}
	n.Labels["w"] = fmt.Sprint(byLabel[i].Weight)
	return byLabel[i].Weight
}

// TestNodeWeight checks which weight a node with the labels rack=a and size=big has.
func TestNodeWeight(t *testing.T) {
	spec := func(weights ...v1alpha1.NodeWeight) v1alpha1.L2AdvertisementSpec {
		return v1alpha1.L2AdvertisementSpec{NodeWeights: weights}
	}
	elsewhere := spec(weigh("rack", "a", 50))
	elsewhere.NodeSelectors = matchLabel("rack", "b")
	of := func(pool string) v1alpha1.L2AdvertisementSpec {
		s := spec(weigh("rack", "a", 50))
		s.IPAddressPools = []string{pool}
		return s
	}
	for _, row := range []struct {
		name string
		ads  []v1alpha1.L2AdvertisementSpec
		want int32
	}{
		{"no weights", []v1alpha1.L2AdvertisementSpec{spec()}, 1},
		{"selects another node", []v1alpha1.L2AdvertisementSpec{spec(weigh("rack", "b", 50))}, 1},
		{"selects it", []v1alpha1.L2AdvertisementSpec{spec(weigh("rack", "a", 50))}, 50},
		{"0", []v1alpha1.L2AdvertisementSpec{spec(weigh("rack", "a", 0))}, 0},
		{"the largest", []v1alpha1.L2AdvertisementSpec{spec(weigh("rack", "a", 7), weigh("size", "big", 9), weigh("rack", "a", 0))}, 9},
		{"an empty selector", []v1alpha1.L2AdvertisementSpec{spec(v1alpha1.NodeWeight{Weight: 4})}, 4},
		{"two advertisements", []v1alpha1.L2AdvertisementSpec{spec(weigh("rack", "a", 7)), spec(weigh("size", "big", 5))}, 7},
		{"0, and an advertisement without weights", []v1alpha1.L2AdvertisementSpec{spec(weigh("rack", "a", 0)), spec()}, 0},
		{"an advertisement that does not select it", []v1alpha1.L2AdvertisementSpec{spec(), elsewhere}, 1},
		{"of another pool", []v1alpha1.L2AdvertisementSpec{spec(), of("q")}, 1},
		{"of the pool", []v1alpha1.L2AdvertisementSpec{spec(), of("p")}, 50},
	} {
		t.Run(row.name, func(t *testing.T) {
			var ads []*v1alpha1.L2Advertisement
			for i, spec := range row.ads {
				ads = append(ads, l2ad(fmt.Sprint("ad-", i), spec))
			}
			svc := service("s", "192.0.2.77", "p")
			s := Snapshot{
				Config: parseL2(ads...), Services: []*corev1.Service{svc},
				Nodes: []*corev1.Node{node("a", labelled("rack", "a"), labelled("size", "big"))},
			}
			if got := Explain(s, svc)[0].Nodes[0]; !got.Selected || got.Weight != row.want {
				t.Errorf("got %+v, want the weight %d", got, row.want)
			}
		})
	}
}

// weightedSnapshot returns nodes on one segment, and Services with an address each.
func weightedSnapshot(nodes []*corev1.Node, services int) Snapshot {
	s := Snapshot{Nodes: nodes, Interfaces: map[string][]l2.Interface{}, Config: parseL2(l2ad("all", v1alpha1.L2AdvertisementSpec{NodeWeights: byLabel}))}
	for _, n := range nodes {
		s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", "10.0.0.0/8")}
	}
	for i := range services {
		s.Services = append(s.Services, service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), "p"))
	}
	return s
}

// TestLawWeights checks that a node that joins or leaves, or the weight of which changes,
// moves only addresses to it or from it, and that nodes of weight 0 own addresses only if
// all nodes are of weight 0.
func TestLawWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*corev1.Node
		var others int32 // the largest weight
		for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
			n := node(fmt.Sprintf("node-%d", i))
			others = max(others, drawWeight(t, n))
			nodes = append(nodes, n)
		}
		before, _ := ownersOf(weightedSnapshot(nodes, 20))
		joined := node("joined")
		weight := drawWeight(t, joined)
		with, _ := ownersOf(weightedSnapshot(append(slices.Clone(nodes), joined), 20))
		changed := joined.DeepCopy()
		next := drawWeight(t, changed)
		after, _ := ownersOf(weightedSnapshot(append(slices.Clone(nodes), changed), 20))
		for addr, is := range with {
			owns, was, will := is[0] == "joined", before[addr][0], after[addr][0]
			switch {
			case was != is[0] && !owns:
				t.Fatalf("a node joined, and %s moved from %s to %s", addr, was, is[0])
			case is[0] != will && (will == "joined") != (next > weight):
				t.Fatalf("the weight changed from %d to %d, and %s moved from %s to %s", weight, next, addr, is[0], will)
			case is[0] != will && !owns && will != "joined":
				t.Fatalf("%s moved from %s to %s, and neither has changed", addr, is[0], will)
			case owns && weight == 0 && others > 0 || !owns && weight > 0 && others == 0:
				t.Fatalf("%s is owned by %s, with the weights %d of the joined node and at most %d of the others", addr, is[0], weight, others)
			}
		}
	})
}

// TestLawOtherServices checks that no address moves because a Service that does not hold it,
// or an endpoint of one, comes or goes.
func TestLawOtherServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		if len(s.Services) == 0 {
			return
		}
		other := rapid.SampledFrom(s.Services).Draw(t, "other")
		without, changed := s, s
		without.Services = slices.DeleteFunc(slices.Clone(s.Services), func(svc *corev1.Service) bool { return svc == other })
		of := func(slice *discoveryv1.EndpointSlice) bool {
			return slice.Labels[discoveryv1.LabelServiceName] == other.Name
		}
		changed.Slices = append(slices.DeleteFunc(slices.Clone(s.Slices), of), drawEndpoints(t, other.DeepCopy(), s.Nodes)...)
		before, _ := ownersOf(s)
		for what, after := range map[string]Snapshot{"it was deleted": without, "its endpoints changed": changed} {
			owners, _ := ownersOf(after)
			for _, svc := range without.Services {
				addr := netip.MustParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
				if addr.String() != other.Status.LoadBalancer.Ingress[0].IP && !slices.Equal(before[addr], owners[addr]) {
					t.Fatalf("Service %s: %s, and %s moved from %v to %v", other.Name, what, addr, before[addr], owners[addr])
				}
			}
		}
	})
}

// TestLawUnweightedScores checks that what decides between two nodes with different views of
// the API does not depend on the API: the hash, not the weighted score by which they rank.
func TestLawUnweightedScores(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		s.Node = "node-0"
		d := newDecision(s)
		for _, h := range heldAddresses(s.Services) {
			h = d.resolveAddress(h)
			segments, _ := d.rankNodes(h, nil)
			if len(segments) == 0 {
				continue
			}
			a := d.failoverAddress(h, segments[0])
			for _, c := range slices.Concat(a.Ranked, a.Others) {
				if c.Score != a.ScoreOf(c.Node) {
					t.Fatalf("%s has the score %d for %s, and %d for all other nodes", c.Node, c.Score, h.addr, a.ScoreOf(c.Node))
				}
			}
		}
	})
}

// TestHigherRanked checks that a node that announces an address knows which nodes rank
// higher, by weight, and that one that announces none of its own accord does not.
func TestHigherRanked(t *testing.T) {
	s := weightedSnapshot([]*corev1.Node{
		node("a", labelled("w", "0")), node("b"), node("c", labelled("w", "100")), node("d", labelled("w", "100"), tainted(taintToBeDeleted)),
	}, 1)
	addr := netip.MustParseAddr("10.1.0.0")
	for _, row := range []struct {
		node string
		gone []string
		want []string
	}{{"a", []string{"b", "c"}, []string{"c", "b"}}, {"b", []string{"c"}, []string{"c"}}, {"c", []string{"b"}, nil}, {"a", []string{"c"}, nil}} {
		s.Node = row.node
		s.Local.Failover.Peers = map[failover.Peer]failover.Status{}
		for _, g := range row.gone {
			s.Local.Failover.Peers[failover.Peer{Interface: "eth0", Node: g}] = failover.Status{State: failover.Gone}
		}
		if got := Decide(s).HigherRanked[addr]; !slices.Equal(got, row.want) {
			t.Errorf("%s, without %v: got %v, want %v", row.node, row.gone, got, row.want)
		}
	}
}
