package plan

import (
	"maps"
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

// shared is the address of all Services in the tests of sharing.
var shared = netip.MustParseAddr("203.0.113.5")

// sharer is a Service with that address.
func sharer(name string, change ...func(*corev1.Service)) *corev1.Service {
	return service(name, shared.String(), "p", change...)
}

func created(second int64) func(*corev1.Service) {
	return func(s *corev1.Service) { s.CreationTimestamp = metav1.Unix(second, 0) }
}

// sharing is a cluster of the nodes a, b and c on one LAN with a router.
func sharing(services []*corev1.Service, slices ...*discoveryv1.EndpointSlice) Snapshot {
	s := Snapshot{Interfaces: map[string][]l2.Interface{}, Services: services, Slices: slices}
	for _, name := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, node(name))
		s.Interfaces[name] = []l2.Interface{link("eth0", "203.0.113.200/24")}
	}
	s.Config, _ = config.Parse(config.Objects{
		Pools:            []*v1alpha1.IPAddressPool{pool("p", "203.0.113.0/24")},
		L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("p", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}})},
		BGPPeers:         []*v1alpha1.BGPPeer{peer("router", "203.0.113.1")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("p", func(s *v1alpha1.BGPAdvertisementSpec) {
			s.IPAddressPools, s.AggregationLength = []string{"p"}, num(int32(24))
		})},
	})
	return s
}

// announcingBoth announces q, too, which had the address before: only by node b.
func announcingBoth(s Snapshot) Snapshot {
	s.Nodes[1].Labels["x"] = "y"
	q, _ := config.Parse(config.Objects{
		L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("q", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}, NodeSelectors: matching("x", "y")})},
		BGPPeers:         []*v1alpha1.BGPPeer{peer("router", "203.0.113.1")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("q", func(s *v1alpha1.BGPAdvertisementSpec) {
			s.IPAddressPools, s.NodeSelectors = []string{"q"}, matching("x", "y")
		})},
	})
	s.Config.L2Advertisements = append(s.Config.L2Advertisements, q.L2Advertisements...)
	s.Config.BGPAdvertisements = append(s.Config.BGPAdvertisements, q.BGPAdvertisements...)
	return s
}

func TestShare(t *testing.T) {
	now := metav1.Now()
	deleted := func(s *corev1.Service) { s.DeletionTimestamp = &now }
	another := func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationAllocatedFrom] = shared.String() + "=q" }
	for _, tt := range []struct {
		name   string
		s      Snapshot
		told   string // by these nodes, one of which answers on the LAN
		routes string
		of     string // the Service that Events are about
		reason v1alpha1.Reason
		says   string // of a node that does not announce it
	}{
		{"Cluster and Cluster", sharing([]*corev1.Service{sharer("x"), sharer("y")}), "a b c", "203.0.113.0/24", "x", "", ""},
		{"the oldest gives its name", sharing([]*corev1.Service{sharer("x", created(2)), sharer("y", created(1))}), "a b c", "203.0.113.0/24", "y", "", ""},
		{
			"Local and Local, with the same backends", sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a ready", "b ready"), endpoints("y", "a ready", "b ready")),
			"a b", "203.0.113.5/32", "x", "", "c has no ready endpoint, and externalTrafficPolicy is Local",
		},
		{
			"a list that lags, with a node in common", sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a ready", "b ready"), endpoints("y", "b ready", "c ready")),
			"b", "203.0.113.5/32", "x", "", "a has no ready endpoint of Service ns/y, which shares the address",
		},
		{
			"a list that lags, with no node in common", sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a ready"), endpoints("y", "b ready")),
			"a b", "203.0.113.5/32", "x", "", "c has no ready endpoint, and",
		},
		{
			"a list that is not there yet", sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a ready")),
			"a", "203.0.113.5/32", "x", "", "b has no ready endpoint, and",
		},
		{
			"in common is only a node that may not", func() Snapshot {
				s := sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a ready", "b ready"), endpoints("y", "b ready", "c ready"))
				s.Nodes[1] = node("b", notReady)
				return s
			}(), "a c", "203.0.113.5/32", "x", "", "b is not Ready",
		},
		{
			"terminating endpoints count for each Service on its own", sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a serving"), endpoints("y", "a serving", "b ready")),
			"a b", "203.0.113.5/32", "x", "", "",
		},
		{"no endpoint of either", sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a down")), "", "", "", v1alpha1.NoEndpoints, ""},
		{
			"Cluster and Local", sharing([]*corev1.Service{sharer("x"), sharer("y", local)}, endpoints("y", "c ready")),
			"c", "203.0.113.5/32", "x", "", "a has no ready endpoint of Service ns/y",
		},
		{"Cluster, and Local without an endpoint", sharing([]*corev1.Service{sharer("x"), sharer("y", local)}), "a b c", "203.0.113.5/32", "x", "", ""},
		{
			"one leaves", sharing([]*corev1.Service{sharer("x", deleted), sharer("y", local)}, endpoints("x", "a ready", "b ready"), endpoints("y", "b ready")),
			"b", "203.0.113.5/32", "y", "", "a has no ready endpoint, and",
		},
		{"both leave", sharing([]*corev1.Service{sharer("x", deleted), sharer("y", deleted)}), "", "", "", "", ""},
		{"records that differ: the one that is announced", sharing([]*corev1.Service{sharer("x", created(2)), sharer("y", created(1), another)}), "a b c", "203.0.113.0/24", "y", "", ""},
		{"records that differ: the one from before", announcingBoth(sharing([]*corev1.Service{sharer("x", created(1)), sharer("y", created(2), another)})), "b", "203.0.113.5/32", "x", "", ""},
		{"a record that is missing", sharing([]*corev1.Service{sharer("x", func(s *corev1.Service) { s.Annotations = nil }), sharer("y")}), "a b c", "203.0.113.0/24", "x", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var owners, tellers []string
			for range 2 { // in whatever order the Services come
				owners, tellers = nil, nil
				for _, n := range tt.s.Nodes {
					tt.s.Node = n.Name
					p := Decide(tt.s)
					if _, owns := p.L2[shared]; owns {
						owners = append(owners, n.Name)
					}
					routes := slices.Collect(maps.Keys(p.BGP[0].Peer.Routes))
					if len(p.Routed) > 0 {
						tellers = append(tellers, n.Name)
						if len(routes) != 1 || routes[0].String() != tt.routes {
							t.Errorf("%s tells %v, want %s", n.Name, routes, tt.routes)
						}
						if of := p.Services[shared].Name; of != tt.of {
							t.Errorf("%s says that the address is %s's, want %s", n.Name, of, tt.of)
						}
					}
					if r, refused := p.Unannounced[shared]; refused && r.Reason != tt.reason {
						t.Errorf("refused for %+v, want %s", r, tt.reason)
					}
				}
				if got := strings.Join(tellers, " "); got != tt.told {
					t.Errorf("told by %q, want %q", got, tt.told)
				}
				if len(owners) != min(len(tellers), 1) || len(owners) == 1 && !slices.Contains(tellers, owners[0]) {
					t.Errorf("owned by %v, told by %v", owners, tellers)
				}
				slices.Reverse(tt.s.Services)
			}
			for _, svc := range tt.s.Services {
				for _, v := range Explain(tt.s, svc) {
					if said := saidOf(v); said.owners != strings.Join(owners, " ") || said.tellers != tt.told || v.Refusal.Reason != tt.reason || !strings.Contains(said.refusals, tt.says) {
						t.Errorf("explained as %+v", v)
					}
				}
			}
		})
	}
}

// said is a verdict in short.
type said struct{ owners, tellers, refusals string }

func saidOf(v Verdict) said {
	var owners, tellers, refusals []string
	for _, n := range v.Nodes {
		if len(n.Owns) > 0 {
			owners = append(owners, n.Node)
		}
		if len(n.Tells) > 0 {
			tellers = append(tellers, n.Node)
		}
		if n.Reason != "" {
			refusals = append(refusals, n.Node+" "+n.Message)
		}
	}
	return said{strings.Join(owners, " "), strings.Join(tellers, " "), strings.Join(refusals, "; ")}
}

// TestShareSegments: on each LAN the owner serves all Services if a node there
// does, and any if none does.
func TestShareSegments(t *testing.T) {
	s := sharing([]*corev1.Service{sharer("x", local), sharer("y", local)}, endpoints("x", "a ready", "b ready", "c ready"), endpoints("y", "b ready"))
	s.Config = parse(l2ad("p", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0", "eth1"}}))
	s.Interfaces = map[string][]l2.Interface{
		"a": {link("eth0", "192.0.2.1/24")}, "b": {link("eth0", "192.0.2.2/24")}, "c": {link("eth1", "198.51.100.3/24")},
	}
	owners, _ := ownersOf(s)
	if got := owners[shared]; !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("owned by %v, want b on its LAN and c on its own", got)
	}
}

// TestShareWaits: a node that begins to announce a shared address waits for the
// health check of each Service that it serves; one that announces it already goes
// on when another joins.
func TestShareWaits(t *testing.T) {
	x, y := sharer("x", local, checkedOn(30001)), sharer("y", local, checkedOn(30000))
	both := []*discoveryv1.EndpointSlice{endpoints("x", "a ready"), endpoints("y", "a ready")}
	none, open := map[netip.Addr]bool{}, map[netip.Addr]bool{shared: true}
	told := map[netip.Addr][]int{shared: {0}}
	for _, tt := range []struct {
		name  string
		s     Snapshot
		local Local
		waits bool
		ports []uint16
	}{
		{"for both", sharing([]*corev1.Service{x, y}, both...), Local{Open: none, Proxy: true}, true, []uint16{30000, 30001}},
		{"for the one with an endpoint here", sharing([]*corev1.Service{x, y}, both[0], endpoints("y", "b ready")), Local{Open: none, Proxy: true}, true, []uint16{30001}},
		{"for that under Local", sharing([]*corev1.Service{sharer("w"), y}, both...), Local{Open: none, Proxy: true}, true, []uint16{30000}},
		{"for kube-proxy alone", sharing([]*corev1.Service{sharer("v"), sharer("w")}), Local{Open: none}, true, nil},
		{"for nothing", sharing([]*corev1.Service{sharer("v"), sharer("w")}), Local{Open: none, Proxy: true}, false, nil},
		{"one joins", sharing([]*corev1.Service{x, y}, both...), Local{Open: open, Proxy: true}, false, nil},
		{"one under Local joins", sharing([]*corev1.Service{sharer("w"), y}, both...), Local{Open: none, Routed: told, Proxy: true}, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.Node, tt.s.Local = "a", tt.local
			p := Decide(tt.s)
			asked, waits := p.Waiting[shared]
			if waits != tt.waits || !slices.Equal(asked, tt.ports) {
				t.Errorf("waits is %t, for %v", waits, asked)
			}
			if _, told := p.Routed[shared]; told == waits {
				t.Errorf("told is %t, and waits is %t", told, waits)
			}
		})
	}
}
