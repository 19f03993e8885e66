package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// drawSnapshot draws a snapshot in which all nodes are on one segment, some have a weight and
// some a kube-proxy that does not answer, some Services share an address, and some addresses
// are a node's own. Not all of the Services have a record of their own, and some records are
// of another pool than the one that contains the address.
func drawSnapshot(t *rapid.T) Snapshot {
	s := Snapshot{
		Interfaces: map[string][]l2.Interface{}, ProxyNotReady: map[string]bool{},
		Config: parseL2(
			l2ad("p", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}, NodeSelectors: matchLabel("x", "y")}),
			l2ad("q", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}, NodeWeights: byLabel})),
	}
	pools, _ := config.Parse(config.Objects{Pools: drawPools(t)})
	s.Config.Pools = pools.Pools
	if rapid.Bool().Draw(t, "namespace known") {
		s.Namespaces = []*corev1.Namespace{namespace("team", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "team"))}
	}
	for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
		n := node(fmt.Sprintf("node-%d", i))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			notReady(n)
		case 1:
			labelled("node.kubernetes.io/exclude-from-external-load-balancers", "true")(n)
		}
		if rapid.Bool().Draw(t, "selected") {
			n.Labels["x"] = "y"
		}
		drawWeight(t, n)
		s.ProxyNotReady[n.Name] = rapid.IntRange(0, 3).Draw(t, "kube-proxy") == 0
		if rapid.IntRange(0, 4).Draw(t, "speaker") > 0 {
			s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", fmt.Sprintf("192.0.2.%d/24", i+1))}
		}
		if rapid.IntRange(0, 9).Draw(t, "has an address") == 9 {
			fixture.WithNodeAddresses(fmt.Sprintf("192.0.2.%d", rapid.IntRange(100, 103).Draw(t, "own address")))(n)
		}
		s.Nodes = append(s.Nodes, n)
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "services") {
		addr := fmt.Sprintf("192.0.2.%d", 100+rapid.IntRange(0, i).Draw(t, "address"))
		svc := service(fmt.Sprintf("s%d", i), addr, rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "pool"))
		switch rapid.IntRange(0, 9).Draw(t, "proof") {
		case 6:
			copied(svc)
		case 7:
			replaced(svc)
		case 8:
			replaced(svc)
			managed(svc)
		case 9:
			copied(svc)
			managed(svc)
		}
		s.Slices = append(s.Slices, drawEndpoints(t, svc, s.Nodes)...)
		s.Services = append(s.Services, svc)
	}
	return s
}

// drawPools draws pools p and q, each of which may be missing, may contain one of two
// halves of the addresses, and may be for some Services only.
func drawPools(t *rapid.T) (pools []*v1alpha1.IPAddressPool) {
	halves := []v1alpha1.AddressRange{"192.0.2.0-192.0.2.102", "192.0.2.103-192.0.2.255"}
	for _, name := range []string{"p", "q"} {
		if rapid.IntRange(0, 3).Draw(t, "missing") == 3 {
			continue
		}
		p := newPool(name, "198.51.100.0/24")
		if len(halves) > 0 && rapid.IntRange(0, 3).Draw(t, "elsewhere") < 3 {
			n := rapid.IntRange(1, len(halves)).Draw(t, "halves")
			p.Spec.Addresses, halves = halves[:n], halves[n:]
		}
		p.Spec.ServiceAllocation = drawAllocation(t)
		pools = append(pools, p)
	}
	return pools
}

// drawEndpoints draws an age and a traffic policy for the Service and, under Local,
// the state of its endpoint on each node.
func drawEndpoints(t *rapid.T, svc *corev1.Service, nodes []*corev1.Node) []*discoveryv1.EndpointSlice {
	svc.CreationTimestamp = metav1.Unix(rapid.Int64Range(1, 3).Draw(t, "age"), 0)
	if rapid.Bool().Draw(t, "cluster") {
		return nil
	}
	local(svc)
	var each []string
	for _, n := range nodes {
		if state := rapid.SampledFrom([]string{"ready", "serving", "down", ""}).Draw(t, "endpoint"); state != "" {
			each = append(each, n.Name+" "+state)
		}
	}
	return []*discoveryv1.EndpointSlice{endpoints(svc.Name, each...)}
}

// ownersOf returns, from the plans of all nodes, the owners of each address and how
// many nodes report it as unannounced.
func ownersOf(s Snapshot) (owners map[netip.Addr][]string, unannounced map[netip.Addr]int) {
	owners, unannounced = map[netip.Addr][]string{}, map[netip.Addr]int{}
	for _, n := range s.Nodes {
		s.Node = n.Name
		plan := Decide(s)
		for a := range plan.L2 {
			owners[a] = append(owners[a], n.Name)
		}
		for a := range plan.Unannounced {
			unannounced[a]++
		}
	}
	return owners, unannounced
}

// TestLawOneOwner checks that in the plans of all nodes an address has exactly one
// owner, however many Services hold it, and none if and only if no node is
// eligible. Then exactly one node reports it, if a speaker runs. Explain agrees for
// each of the Services.
func TestLawOneOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		owners, unannounced := ownersOf(s)
		speakers := slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
			return s.Interfaces[n.Name] != nil && (config.NodeReady(n) || !slices.ContainsFunc(s.Nodes, config.NodeReady))
		})
		for _, svc := range s.Services {
			addr := netip.MustParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
			holders := oracleHolders(s, addr)
			eligible := oracleEligible(s, addr)
			want := min(len(eligible), 1)
			if len(owners[addr]) != want {
				t.Fatalf("%s has the owners %v, want %d", addr, owners[addr], want)
			}
			if want > 0 && !slices.Contains(eligible, owners[addr][0]) {
				t.Fatalf("%s owns %s, and eligible are %v", owners[addr][0], addr, eligible)
			}
			isReady := func(node string) bool { return !s.ProxyNotReady[node] }
			if want > 0 && !isReady(owners[addr][0]) && slices.ContainsFunc(eligible, isReady) {
				t.Fatalf("%s owns %s without kube-proxy, and eligible are %v", owners[addr][0], addr, eligible)
			}
			if reports := unannounced[addr]; (reports == 1) != (want == 0 && speakers && len(holders) > 0) || reports > 1 {
				t.Fatalf("%s: %d owners, %d nodes report that there is none", addr, want, reports)
			}
			states := Explain(s, svc)
			if slices.Contains(holders, svc) != (len(states) == 1) {
				t.Fatalf("%s: Service %s is explained as %+v", addr, svc.Name, states)
			}
			if len(states) == 0 {
				continue
			}
			state := states[0]
			var explained []string
			for _, n := range state.Nodes {
				if len(n.Interfaces) > 0 {
					explained = append(explained, n.Node)
				}
				if (n.Reason == v1alpha1.NotOwner) != (slices.Contains(eligible, n.Node) && len(n.Interfaces) == 0) {
					t.Fatalf("%s: Explain returns for %s %q (%s), and eligible are %v", addr, n.Node, n.Reason, n.Message, eligible)
				}
			}
			if !slices.Equal(explained, owners[addr]) || (state.Refusal.Reason == "") != (want == 1) {
				t.Fatalf("%s is owned by %v, and Explain returns %+v", addr, owners[addr], state)
			}
		}
	})
}

// oracleHolders returns the Services that hold the address, oldest first: those with a
// record, if any, and otherwise those that the managed fields support. Like the other
// oracle functions it is a second, simpler implementation of the rule.
func oracleHolders(s Snapshot, addr netip.Addr) []*corev1.Service {
	var recorded, supported []*corev1.Service
	for age := int64(0); age < 9; age++ {
		for _, svc := range s.Services { // generated in the order of their names
			held := slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.IP == addr.String() })
			if !held || !svc.CreationTimestamp.Equal(&metav1.Time{Time: time.Unix(age, 0)}) {
				continue
			}
			if strings.HasSuffix(svc.Annotations[v1alpha1.AnnotationAllocatedFrom], ",uid="+string(svc.UID)) {
				recorded = append(recorded, svc)
			} else if len(svc.ManagedFields) > 0 {
				supported = append(supported, svc)
			}
		}
	}
	if len(recorded) > 0 {
		return recorded
	}
	return supported
}

func oracleNodeAddress(s Snapshot, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
		return len(n.Status.Addresses) > 0 && n.Status.Addresses[0].Address == addr.String()
	})
}

// oracleEligible returns the nodes that are eligible for the address.
func oracleEligible(s Snapshot, addr netip.Addr) []string {
	holding := oracleHolders(s, addr)
	if len(holding) == 0 || oracleNodeAddress(s, addr) {
		return nil
	}
	pool := oracleAnnouncedPool(s, holding, addr)
	var could []*corev1.Node
	for _, n := range s.Nodes {
		advertised := pool == "q" || pool == "p" && n.Labels["x"] == "y"
		_, excluded := n.Labels["node.kubernetes.io/exclude-from-external-load-balancers"]
		away := !config.NodeReady(n) && slices.ContainsFunc(s.Nodes, config.NodeReady)
		if advertised && !excluded && !away && s.Interfaces[n.Name] != nil {
			could = append(could, n)
		}
	}
	return oracleServingNodes(s, holding, could)
}

// oracleAnnouncedPool returns the pool that the address is announced under: of those
// that apply for its Services the first that is announced, as p and q are, and does not
// contain it any more.
func oracleAnnouncedPool(s Snapshot, holding []*corev1.Service, addr netip.Addr) string {
	var pools []string
	for _, svc := range holding {
		if name := oracleCurrentPool(s, svc, addr); name != "" {
			pools = append(pools, name)
		}
	}
	for _, contains := range []bool{false, true} {
		for _, name := range pools {
			if (name == "p" || name == "q") && oracleContains(s, name, addr) == contains {
				return name
			}
		}
	}
	return strings.Join(slices.Compact(pools), " ") // not announced
}

// oracleCurrentPool returns the pool that applies to the Service's address.
func oracleCurrentPool(s Snapshot, svc *corev1.Service, addr netip.Addr) string {
	recorded, containing := config.RecordedPool(svc, addr), ""
	exists := slices.ContainsFunc(s.Config.Pools, func(p config.Pool) bool { return p.Name == recorded })
	for _, name := range []string{"p", "q"} {
		if oracleContains(s, name, addr) {
			containing = name
		}
	}
	switch {
	case containing == "" || recorded == containing:
		return recorded
	case recorded == "":
		return containing
	case !exists && oracleSelects(s, containing):
		return containing
	case !exists:
		return recorded
	case oracleSelects(s, recorded) && !oracleSelects(s, containing):
		return recorded
	}
	return containing
}

func oracleContains(s Snapshot, pool string, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Config.Pools, func(p config.Pool) bool {
		return p.Name == pool && slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Contains(addr) })
	})
}

// oracleSelects reports whether the pool, which exists, may serve the Services of the
// tests. See drawAllocation.
func oracleSelects(s Snapshot, pool string) bool {
	p := s.Config.Pools[slices.IndexFunc(s.Config.Pools, func(p config.Pool) bool { return p.Name == pool })]
	labelled := len(p.NamespaceSelectors) > 0 && len(s.Namespaces) > 0 && s.Namespaces[0].Labels["team"] == "a"
	return p.AnyNamespace || slices.Equal(p.Namespaces, []string{"ns"}) || labelled
}

// oracleServingNodes returns the nodes that serve all of the Services or, if none
// does, any of them.
func oracleServingNodes(s Snapshot, holding []*corev1.Service, could []*corev1.Node) []string {
	var any, all []string
	for _, n := range could {
		count := 0
		for _, svc := range holding {
			if oracleServes(s, svc, n) {
				count++
			}
		}
		if count > 0 {
			any = append(any, n.Name)
		}
		if count == len(holding) {
			all = append(all, n.Name)
		}
	}
	if len(all) > 0 {
		return all
	}
	return any
}

func oracleServes(s Snapshot, svc *corev1.Service, n *corev1.Node) bool {
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return true
	}
	anyReady, ready, serving := false, false, false
	for _, slice := range s.Slices {
		if slice.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, e := range slice.Endpoints {
			anyReady = anyReady || *e.Conditions.Ready
			ready = ready || *e.Conditions.Ready && *e.NodeName == n.Name
			serving = serving || *e.Conditions.Serving && *e.NodeName == n.Name
		}
	}
	return ready || !anyReady && serving
}

// TestLawStable checks that removing a node moves only the addresses that it owned.
func TestLawStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		for _, svc := range s.Services {
			svc.Spec.ExternalTrafficPolicy = "" // removing endpoints moves addresses of other nodes
		}
		if len(s.Nodes) == 0 {
			return
		}
		before, _ := ownersOf(s)
		gone := rapid.IntRange(0, len(s.Nodes)-1).Draw(t, "gone")
		name := s.Nodes[gone].Name
		s.Nodes = slices.Delete(slices.Clone(s.Nodes), gone, gone+1)
		if !slices.ContainsFunc(s.Nodes, config.NodeReady) {
			return // readiness then does not count
		}
		after, _ := ownersOf(s)
		for addr, o := range before {
			if o[0] != name && !slices.Equal(o, after[addr]) {
				t.Fatalf("%s was removed, and %s moved from %v to %v", name, addr, o, after[addr])
			}
		}
	})
}

// TestLawProxyNotReady checks that when the kube-proxy of a node stops answering, or answers again,
// an address moves only from or to this node.
func TestLawProxyNotReady(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		if len(s.Nodes) == 0 {
			return
		}
		before, _ := ownersOf(s)
		changed := rapid.SampledFrom(s.Nodes).Draw(t, "changed").Name
		s.ProxyNotReady[changed] = !s.ProxyNotReady[changed]
		after, _ := ownersOf(s)
		for addr, o := range before {
			if !slices.Equal(o, after[addr]) && o[0] != changed && after[addr][0] != changed {
				t.Fatalf("%s changed, and %s moved from %v to %v", changed, addr, o, after[addr])
			}
		}
	})
}

// TestLawJoin checks that no address moves when a Service with the same endpoints as
// the holder of an address joins it.
func TestLawJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		if len(s.Services) == 0 {
			return
		}
		addr := netip.MustParseAddr(rapid.SampledFrom(s.Services).Draw(t, "joined").Status.LoadBalancer.Ingress[0].IP)
		holding := oracleHolders(s, addr)
		if len(holding) == 0 {
			return
		}
		before, _ := ownersOf(s)
		twin := holding[0].DeepCopy()
		twin.Name, twin.CreationTimestamp = "twin", metav1.Unix(8, 0)
		for _, slice := range s.Slices {
			if slice.Labels[discoveryv1.LabelServiceName] == holding[0].Name {
				also := slice.DeepCopy()
				also.Labels[discoveryv1.LabelServiceName] = twin.Name
				s.Slices = append(s.Slices, also)
				break
			}
		}
		s.Services = append(s.Services, twin)
		after, _ := ownersOf(s)
		for a := range before {
			if !slices.Equal(before[a], after[a]) {
				t.Fatalf("a Service joined %s, and %s moved from %v to %v", addr, a, before[a], after[a])
			}
		}
	})
}
