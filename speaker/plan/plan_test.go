package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

func newInterface(name string, prefixes ...string) l2.Interface {
	l := l2.Interface{Name: name}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return l
}

func l2ad(name string, spec v1alpha1.L2AdvertisementSpec) *v1alpha1.L2Advertisement {
	return &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func parseL2(ads ...*v1alpha1.L2Advertisement) config.Config {
	c, _ := config.Parse(config.Objects{L2Advertisements: ads})
	return c
}

func matchLabel(key, value string) []metav1.LabelSelector {
	return []metav1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
}

// decideForAllNodes returns the owners of the one address of the snapshot, each as
// "NODE:INTERFACES", or the refusal, as each node decides on its own.
func decideForAllNodes(t *testing.T, s Snapshot) (owners []string, refusal v1alpha1.Refusal) {
	t.Helper()
	reports := 0
	for _, n := range s.Nodes {
		s.Node = n.Name
		p := Decide(s)
		for _, c := range p.L2 {
			owners = append(owners, n.Name+":"+strings.Join(c.Interfaces, ","))
		}
		for _, r := range p.Unannounced {
			refusal = r
			reports++
		}
	}
	if len(owners) > 0 && reports > 0 || reports > 1 {
		t.Errorf("owners %v, and %d nodes report %v", owners, reports, refusal)
	}
	return owners, refusal
}

func TestDecide(t *testing.T) {
	lan, lan6 := map[string][]l2.Interface{}, map[string][]l2.Interface{}
	for i, n := range []string{"a", "b", "c"} {
		lan[n] = []l2.Interface{newInterface("eth0", fmt.Sprintf("192.0.2.%d/24", i+1))}
		lan6[n] = []l2.Interface{newInterface("eth0", fmt.Sprintf("2001:db8::a%d/64", i+1))} // without IPv4
	}
	three := []*corev1.Node{node("a"), node("b"), node("c")}
	all := parseL2(l2ad("all", v1alpha1.L2AdvertisementSpec{}))
	exclude := labelled(corev1.LabelNodeExcludeBalancers, "")
	const addr = "192.0.2.77"

	// snapshot returns three nodes on one segment, with an advertisement for all pools
	// and a Service with an address, to which the changes have been applied.
	snapshot := func(changes ...func(*Snapshot)) Snapshot {
		s := Snapshot{Config: all, Services: []*corev1.Service{service("s", addr, "p")}, Nodes: three, Interfaces: lan}
		for _, change := range changes {
			change(&s)
		}
		return s
	}
	advertised := func(spec v1alpha1.L2AdvertisementSpec) func(*Snapshot) {
		return func(s *Snapshot) { s.Config = parseL2(l2ad("x", spec)) }
	}
	onInterfaces := func(names ...string) func(*Snapshot) {
		return advertised(v1alpha1.L2AdvertisementSpec{Interfaces: names})
	}
	nodes := func(all ...*corev1.Node) func(*Snapshot) { return func(s *Snapshot) { s.Nodes = all } }
	holding := func(addr string, changes ...func(*corev1.Service)) func(*Snapshot) {
		return func(s *Snapshot) { s.Services = []*corev1.Service{service("s", addr, "p", changes...)} }
	}
	localTo := func(slices ...*discoveryv1.EndpointSlice) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Services, s.Slices = []*corev1.Service{service("s", addr, "p", local)}, slices
		}
	}
	interfaces := func(byNode map[string][]l2.Interface) func(*Snapshot) {
		return func(s *Snapshot) { s.Interfaces = byNode }
	}
	inVRF := func(name, addr string) l2.Interface {
		i := newInterface(name, addr)
		i.VRF = "blue"
		return i
	}
	onPool := func(name string) func(*Snapshot) {
		return advertised(v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{name}})
	}
	selecting := advertised(v1alpha1.L2AdvertisementSpec{NodeSelectors: matchLabel("x", "y")})
	removed := func(name, taint string) *corev1.Node { return node(name, tainted(taint)) }
	deletedNode := func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

	for _, row := range []struct {
		name   string
		s      Snapshot
		owners int    // number of owners
		among  string // nodes that may own it
		reason v1alpha1.Reason
		says   string // part of the refusal's message
	}{
		{"one of all", snapshot(), 1, "a b c", "", ""},
		{"no advertisement", snapshot(func(s *Snapshot) { s.Config = config.Config{} }), 0, "", v1alpha1.NoAdvertisement, `pool "p"`},
		{"an advertisement of another pool", snapshot(onPool("q")), 0, "", v1alpha1.NoAdvertisement, ""},
		{"a pool that is gone, by name", snapshot(onPool("p")), 1, "a b c", "", ""},
		{
			"not ready, excluded, deleted", snapshot(nodes(node("a", notReady), node("b", exclude), node("c", deletedNode))),
			0, "", v1alpha1.NoEligibleNode, "b has the label",
		},
		{"being removed", snapshot(nodes(removed("a", taintToBeDeleted), node("b"), removed("c", taintDisrupted))), 1, "b", "", ""},
		{"being deleted, with a finalizer", snapshot(nodes(node("a"), node("b", deletedNode, fixture.WithFinalizer))), 1, "a", "", ""},
		{"all being removed", snapshot(nodes(removed("a", taintToBeDeleted), removed("b", taintDisrupted))), 1, "a b", "", ""},
		{
			"Local: being removed, with the only endpoint",
			snapshot(nodes(removed("a", taintToBeDeleted), node("b")), localTo(endpoints("s", "a ready"))), 1, "a", "", "",
		},
		{
			"out of service", snapshot(nodes(removed("a", corev1.TaintNodeOutOfService))),
			0, "", v1alpha1.NoEligibleNode, "a has the taint node.kubernetes.io/out-of-service",
		},
		{
			"excluded false is included", snapshot(nodes(node("a", notReady), node("b", labelled(corev1.LabelNodeExcludeBalancers, "false")))),
			1, "b", "", "",
		},
		{"all not ready: the control plane was unavailable", snapshot(nodes(node("a", notReady), node("b", notReady))), 1, "a b", "", ""},
		{
			"a speaker without interfaces in its report", snapshot(interfaces(map[string][]l2.Interface{"a": nil})),
			0, "", v1alpha1.NoInterface, "a has not reported any interfaces",
		},
		{
			"a foreign class, with a record",
			snapshot(holding(addr, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptrTo("example.com/lb") })),
			0, "", "", "",
		},
		{"selected nodes", snapshot(selecting, nodes(node("a"), node("b", labelled("x", "y")), node("c"))), 1, "b", "", ""},
		{"no node selected", snapshot(selecting), 0, "", v1alpha1.NoEligibleNode, "selected by no L2Advertisement"},
		{
			"no subnet", snapshot(holding("203.0.113.1")),
			0, "", v1alpha1.NoInterface, "a has only eth0 192.0.2.0/24; b has only",
		},
		{"no subnet, but a named interface", snapshot(onInterfaces("eth0"), holding("203.0.113.1")), 1, "a b c", "", ""},
		{
			"in a VRF", snapshot(interfaces(map[string][]l2.Interface{"a": {inVRF("eth0", "192.0.2.1/24")}})),
			0, "", v1alpha1.NoInterface, "a has only eth0 192.0.2.0/24 (in VRF blue, where addresses cannot be announced)",
		},
		{
			"a named interface in a VRF", snapshot(onInterfaces("eth0"), interfaces(map[string][]l2.Interface{"a": {inVRF("eth0", "192.0.2.1/24")}})),
			0, "", v1alpha1.NoInterface, "a has eth0 in VRF blue, where addresses cannot be announced",
		},
		{"no interface of the name", snapshot(onInterfaces("eth9")), 0, "", v1alpha1.NoInterface, "a usable interface named eth9"},
		{"no speaker on two of three", snapshot(interfaces(map[string][]l2.Interface{"b": lan["b"]})), 1, "b", "", ""},
		{
			"Local: the ready one", snapshot(localTo(endpoints("s", "a down", "b ready", "c serving"), endpoints("t", "a ready"))),
			1, "b", "", "",
		},
		{"Local: serving, when none is ready", snapshot(localTo(endpoints("s", "a down", "c serving"))), 1, "c", "", ""},
		{
			"Local: none", snapshot(localTo(endpoints("s", "a down"))),
			0, "", v1alpha1.NoEndpoints, "externalTrafficPolicy is Local",
		},
		{"Local: without a node name", snapshot(localTo(endpoints("s", "* ready"))), 1, "a b c", "", ""},
		{"IPv6", snapshot(holding("2001:db8::1"), interfaces(lan6)), 1, "a b c", "", ""},
		{"IPv6: no subnet", snapshot(holding("2001:db8::1")), 0, "", v1alpha1.NoInterface, "a has only eth0 192.0.2.0/24"},
		{"a Service that was replaced", snapshot(holding(addr, replaced, managed)), 1, "a b c", "", ""},
		{"a status of another controller", snapshot(holding(addr, replaced)), 0, "", "", ""},
		{
			"an address of a node", snapshot(nodes(node("a"), node("b", fixture.WithNodeAddresses(addr)), node("c"))),
			0, "", v1alpha1.NodeAddress, addr + " is an address of Node b",
		},
		{"being deleted", snapshot(holding(addr, fixture.Deleting)), 0, "", "", ""},
		{
			"interfaces on one segment with different names have one owner",
			snapshot(onInterfaces("eth0", "enp3s0"), holding("203.0.113.1"), interfaces(map[string][]l2.Interface{
				"a": {newInterface("eth0", "192.0.2.1/24")}, "b": {newInterface("enp3s0", "192.0.2.2/24")},
				"c": {newInterface("eth0", "192.0.2.3/25")},
			})), 1, "a b c", "", "",
		},
		{
			"two segments have an owner each",
			snapshot(onInterfaces("eth0", "eth1"), holding("203.0.113.1"), nodes(three[:2]...), interfaces(map[string][]l2.Interface{
				"a": {newInterface("eth0", "192.0.2.1/24")}, "b": {newInterface("eth1", "198.51.100.2/24")},
			})), 2, "a b", "", "",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			owners, refusal := decideForAllNodes(t, row.s)
			if len(owners) != row.owners || refusal.Reason != row.reason || !strings.Contains(refusal.Message, row.says) {
				t.Errorf("owners %v, refusal %+v; want %d of %s, %q", owners, refusal, row.owners, row.among, row.reason)
			}
			for _, o := range owners {
				if name, _, _ := strings.Cut(o, ":"); !slices.Contains(strings.Fields(row.among), name) {
					t.Errorf("%s owns it, but must not", o)
				}
			}
			for _, v := range Explain(row.s, row.s.Services[0]) {
				if v.Refusal != refusal {
					t.Errorf("explained as %+v, decided as %+v", v.Refusal, refusal)
				}
			}
		})
	}
}

// TestSpread checks that the ranks distribute addresses evenly enough.
func TestSpread(t *testing.T) {
	s := Snapshot{Interfaces: map[string][]l2.Interface{}, Config: parseL2(l2ad("all", v1alpha1.L2AdvertisementSpec{}))}
	for i := range 5 {
		n := node(fmt.Sprintf("node-%d", i))
		s.Nodes = append(s.Nodes, n)
		s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", "10.0.0.0/8")}
	}
	for i := range 2000 {
		s.Services = append(s.Services, service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), "p"))
	}
	for _, n := range s.Nodes {
		s.Node = n.Name
		if got := len(Decide(s).L2); got < 300 || got > 500 {
			t.Errorf("%s owns %d of 2000 addresses, want about 400", n.Name, got)
		}
	}
}

// BenchmarkDecide measures plans for 10,000 addresses and 100 nodes, and for 100
// addresses and 1,000 nodes.
func BenchmarkDecide(b *testing.B) {
	for _, size := range []struct{ nodes, services int }{{100, 10_000}, {1000, 100}} {
		b.Run(fmt.Sprintf("nodes=%d/services=%d", size.nodes, size.services), func(b *testing.B) {
			s := Snapshot{Node: "node-0", Interfaces: map[string][]l2.Interface{}, Config: parseL2(l2ad("all", v1alpha1.L2AdvertisementSpec{}))}
			pools, _ := config.Parse(config.Objects{Pools: []*v1alpha1.IPAddressPool{newPool("p", "10.1.0.0/16")}})
			s.Config.Pools = pools.Pools
			for i := range size.nodes {
				n := node(fmt.Sprintf("node-%d", i), fixture.WithNodeAddresses(fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
				s.Nodes = append(s.Nodes, n)
				s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", "10.0.0.0/8")}
			}
			for i := range size.services {
				s.Services = append(s.Services, service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), "p"))
			}
			b.ReportAllocs()
			for b.Loop() {
				Decide(s)
			}
		})
	}
}
