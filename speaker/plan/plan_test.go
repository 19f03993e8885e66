package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

func link(name string, prefixes ...string) l2.Interface {
	l := l2.Interface{Name: name}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return l
}

func l2ad(name string, spec v1alpha1.L2AdvertisementSpec) *v1alpha1.L2Advertisement {
	return &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func parse(ads ...*v1alpha1.L2Advertisement) config.Config {
	c, _ := config.Parse(config.Objects{L2Advertisements: ads})
	return c
}

func matching(key, value string) []metav1.LabelSelector {
	return []metav1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
}

// decidedByAll is what all nodes do, as decided by each of them: "NODE:LINKS" or
// the refusal's reason, for the one address of the snapshot.
func decidedByAll(t *testing.T, s Snapshot) (owners []string, refusal v1alpha1.Refusal) {
	t.Helper()
	said := 0
	for _, n := range s.Nodes {
		s.Node = n.Name
		p := Decide(s)
		for _, c := range p.L2 {
			owners = append(owners, n.Name+":"+strings.Join(c.Interfaces, ","))
		}
		for _, r := range p.Unannounced {
			refusal = r
			said++
		}
	}
	if len(owners) > 0 && said > 0 || said > 1 {
		t.Errorf("owners %v, and %d nodes speak of %v", owners, said, refusal)
	}
	return owners, refusal
}

func TestDecide(t *testing.T) {
	lan := map[string][]l2.Interface{}
	for i, n := range []string{"a", "b", "c"} {
		lan[n] = []l2.Interface{link("eth0", fmt.Sprintf("192.0.2.%d/24", i+1))}
	}
	three := []*corev1.Node{node("a"), node("b"), node("c")}
	all := parse(l2ad("all", v1alpha1.L2AdvertisementSpec{}))
	one := service("s", "192.0.2.77", "p")
	exclude := labelled("node.kubernetes.io/exclude-from-external-load-balancers", "")

	for _, row := range []struct {
		name   string
		s      Snapshot
		owners int    // how many own it
		among  string // these only
		reason v1alpha1.Reason
		says   string
	}{
		{"one of all", Snapshot{Config: all, Services: []*corev1.Service{one}, Nodes: three, Interfaces: lan}, 1, "a b c", "", ""},
		{"no advertisement", Snapshot{Services: []*corev1.Service{one}, Nodes: three, Interfaces: lan}, 0, "", v1alpha1.NoAdvertisement, `pool "p"`},
		{"an advertisement of another pool", Snapshot{Config: parse(l2ad("q", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}})), Services: []*corev1.Service{one}, Nodes: three, Interfaces: lan}, 0, "", v1alpha1.NoAdvertisement, ""},
		{"a pool that is gone, by name", Snapshot{Config: parse(l2ad("p", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}})), Services: []*corev1.Service{one}, Nodes: three, Interfaces: lan}, 1, "a b c", "", ""},
		{"not ready, excluded, deleted", Snapshot{Config: all, Services: []*corev1.Service{one}, Interfaces: lan, Nodes: []*corev1.Node{node("a", notReady), node("b", exclude), node("c", func(n *corev1.Node) { now := metav1.Now(); n.DeletionTimestamp = &now })}}, 0, "", v1alpha1.NoEligibleNode, "b has the label"},
		{"excluded false is included", Snapshot{Config: all, Services: []*corev1.Service{one}, Interfaces: lan, Nodes: []*corev1.Node{node("a", notReady), node("b", labelled("node.kubernetes.io/exclude-from-external-load-balancers", "false"))}}, 1, "b", "", ""},
		{"all not ready: the control plane was away", Snapshot{Config: all, Services: []*corev1.Service{one}, Interfaces: lan, Nodes: []*corev1.Node{node("a", notReady), node("b", notReady)}}, 1, "a b", "", ""},
		{"a speaker that reports no links", Snapshot{Config: all, Services: []*corev1.Service{one}, Interfaces: map[string][]l2.Interface{"a": nil}, Nodes: three}, 0, "", v1alpha1.NoInterface, "a has reported no links"},
		{"another's class, with our finalizer", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", func(s *corev1.Service) { class := "example.com/lb"; s.Spec.LoadBalancerClass = &class })}, Nodes: three, Interfaces: lan}, 0, "", "", ""},
		{"selected nodes", Snapshot{Config: parse(l2ad("x", v1alpha1.L2AdvertisementSpec{NodeSelectors: matching("x", "y")})), Services: []*corev1.Service{one}, Interfaces: lan, Nodes: []*corev1.Node{node("a"), node("b", labelled("x", "y")), node("c")}}, 1, "b", "", ""},
		{"no node selected", Snapshot{Config: parse(l2ad("x", v1alpha1.L2AdvertisementSpec{NodeSelectors: matching("x", "y")})), Services: []*corev1.Service{one}, Interfaces: lan, Nodes: three}, 0, "", v1alpha1.NoEligibleNode, "selected by no L2Advertisement"},
		{"no subnet", Snapshot{Config: all, Services: []*corev1.Service{service("s", "203.0.113.1", "p")}, Nodes: three, Interfaces: lan}, 0, "", v1alpha1.NoInterface, "a has only eth0 192.0.2.0/24; b has only"},
		{"no subnet, but a named link", Snapshot{Config: parse(l2ad("x", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0"}})), Services: []*corev1.Service{service("s", "203.0.113.1", "p")}, Nodes: three, Interfaces: lan}, 1, "a b c", "", ""},
		{"no link of the name", Snapshot{Config: parse(l2ad("x", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth9"}})), Services: []*corev1.Service{one}, Nodes: three, Interfaces: lan}, 0, "", v1alpha1.NoInterface, "no link named eth9"},
		{"no speaker on two of three", Snapshot{Config: all, Services: []*corev1.Service{one}, Nodes: three, Interfaces: map[string][]l2.Interface{"b": lan["b"]}}, 1, "b", "", ""},
		{"Local: the ready one", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", local)}, Nodes: three, Interfaces: lan, Slices: []*discoveryv1.EndpointSlice{endpoints("s", "a down", "b ready", "c serving"), endpoints("t", "a ready")}}, 1, "b", "", ""},
		{"Local: serving, when none is ready", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", local)}, Nodes: three, Interfaces: lan, Slices: []*discoveryv1.EndpointSlice{endpoints("s", "a down", "c serving")}}, 1, "c", "", ""},
		{"Local: none", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", local)}, Nodes: three, Interfaces: lan, Slices: []*discoveryv1.EndpointSlice{endpoints("s", "a down")}}, 0, "", v1alpha1.NoEndpoints, "externalTrafficPolicy is Local"},
		{"Local: without a node name", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", local)}, Nodes: three, Interfaces: lan, Slices: []*discoveryv1.EndpointSlice{endpoints("s", "* ready")}}, 1, "a b c", "", ""},
		{"Cluster needs no endpoint", Snapshot{Config: all, Services: []*corev1.Service{one}, Nodes: three, Interfaces: lan}, 1, "a b c", "", ""},
		{"IPv6", Snapshot{Config: all, Services: []*corev1.Service{service("s", "2001:db8::1", "p")}, Nodes: three, Interfaces: lan}, 0, "", v1alpha1.UnsupportedFamily, ""},
		{"not ours", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", func(s *corev1.Service) { s.Finalizers = nil })}, Nodes: three, Interfaces: lan}, 0, "", "", ""},
		{"being deleted", Snapshot{Config: all, Services: []*corev1.Service{service("s", "192.0.2.77", "p", func(s *corev1.Service) { now := metav1.Now(); s.DeletionTimestamp = &now })}, Nodes: three, Interfaces: lan}, 0, "", "", ""},
		{"links of one LAN with different names have one owner", Snapshot{
			Config: parse(l2ad("x", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0", "enp3s0"}})), Services: []*corev1.Service{service("s", "203.0.113.1", "p")}, Nodes: three,
			Interfaces: map[string][]l2.Interface{"a": {link("eth0", "192.0.2.1/24")}, "b": {link("enp3s0", "192.0.2.2/24")}, "c": {link("eth0", "192.0.2.3/25")}},
		}, 1, "a b c", "", ""},
		{"two LANs have an owner each", Snapshot{
			Config: parse(l2ad("x", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0", "eth1"}})), Services: []*corev1.Service{service("s", "203.0.113.1", "p")}, Nodes: three[:2],
			Interfaces: map[string][]l2.Interface{"a": {link("eth0", "192.0.2.1/24")}, "b": {link("eth1", "198.51.100.2/24")}},
		}, 2, "a b", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			owners, refusal := decidedByAll(t, row.s)
			if len(owners) != row.owners || refusal.Reason != row.reason || !strings.Contains(refusal.Message, row.says) {
				t.Errorf("owners %v, refusal %+v; want %d of %s, %q", owners, refusal, row.owners, row.among, row.reason)
			}
			for _, o := range owners {
				if name, _, _ := strings.Cut(o, ":"); !slices.Contains(strings.Fields(row.among), name) {
					t.Errorf("%s owns it, who may not", o)
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

// TestSpread: the ranks share addresses out evenly enough.
func TestSpread(t *testing.T) {
	s := Snapshot{Interfaces: map[string][]l2.Interface{}, Config: parse(l2ad("all", v1alpha1.L2AdvertisementSpec{}))}
	for i := range 5 {
		n := node(fmt.Sprintf("node-%d", i))
		s.Nodes = append(s.Nodes, n)
		s.Interfaces[n.Name] = []l2.Interface{link("eth0", "10.0.0.0/8")}
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

// BenchmarkDecide plans for 10,000 addresses among 100 nodes, and for 100 among
// 1,000.
func BenchmarkDecide(b *testing.B) {
	for _, size := range []struct{ nodes, services int }{{100, 10_000}, {1000, 100}} {
		b.Run(fmt.Sprintf("nodes=%d/services=%d", size.nodes, size.services), func(b *testing.B) {
			s := Snapshot{Node: "node-0", Interfaces: map[string][]l2.Interface{}, Config: parse(l2ad("all", v1alpha1.L2AdvertisementSpec{}))}
			for i := range size.nodes {
				n := node(fmt.Sprintf("node-%d", i))
				s.Nodes = append(s.Nodes, n)
				s.Interfaces[n.Name] = []l2.Interface{link("eth0", "10.0.0.0/8")}
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
