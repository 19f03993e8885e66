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
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// sharedAddr is the address of all Services in the tests of sharing.
var sharedAddr = netip.MustParseAddr("203.0.113.5")

// sharingService returns a Service with that address.
func sharingService(name string, change ...func(*corev1.Service)) *corev1.Service {
	return service(name, sharedAddr.String(), "p", change...)
}

// bothLocal returns the Services x and y with externalTrafficPolicy Local.
func bothLocal() []*corev1.Service {
	return []*corev1.Service{sharingService("x", local), sharingService("y", local)}
}

func createdAt(second int64) func(*corev1.Service) {
	return func(s *corev1.Service) { s.CreationTimestamp = metav1.Unix(second, 0) }
}

// sharingSnapshot has the nodes a, b and c on one segment with a router.
func sharingSnapshot(services []*corev1.Service, slices ...*discoveryv1.EndpointSlice) Snapshot {
	s := Snapshot{Interfaces: map[string][]l2.Interface{}, Services: services, Slices: slices}
	for _, name := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, node(name))
		s.Interfaces[name] = []l2.Interface{newInterface("eth0", "203.0.113.200/24")}
	}
	s.Config, _ = config.Parse(config.Objects{
		Pools:            []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.0/24")},
		L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("p", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}})},
		BGPPeers:         []*v1alpha1.BGPPeer{peer("router", "203.0.113.1")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("p", func(s *v1alpha1.BGPAdvertisementSpec) {
			s.IPAddressPools, s.AggregationLength = []string{"p"}, ptrTo(int32(24))
		})},
	})
	return s
}

// withSecondPool adds the pool q, which had the address before and may serve Services
// that pool p, which has it now, does not select.
func withSecondPool(s Snapshot) Snapshot {
	s.Config.Pools[0].AnyService = false
	pools, _ := config.Parse(config.Objects{Pools: []*v1alpha1.IPAddressPool{newPool("q", "198.51.100.0/24")}})
	s.Config.Pools = append(s.Config.Pools, pools.Pools...)
	return s
}

// withAdvertisedPool adds an advertised pool q as withSecondPool does. Only node b
// announces it.
func withAdvertisedPool(s Snapshot) Snapshot {
	s = withSecondPool(s)
	s.Nodes[1].Labels["x"] = "y"
	q, _ := config.Parse(config.Objects{
		L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("q", v1alpha1.L2AdvertisementSpec{
			IPAddressPools: []string{"q"}, NodeSelectors: matchLabel("x", "y"),
		})},
		BGPPeers: []*v1alpha1.BGPPeer{peer("router", "203.0.113.1")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("q", func(s *v1alpha1.BGPAdvertisementSpec) {
			s.IPAddressPools, s.NodeSelectors = []string{"q"}, matchLabel("x", "y")
		})},
	})
	s.Config.L2Advertisements = append(s.Config.L2Advertisements, q.L2Advertisements...)
	s.Config.BGPAdvertisements = append(s.Config.BGPAdvertisements, q.BGPAdvertisements...)
	return s
}

func TestShare(t *testing.T) {
	now := metav1.Now()
	deleted := func(s *corev1.Service) { s.DeletionTimestamp = &now }
	another := fixture.Recorded(sharedAddr.String() + "=q")
	for _, tt := range []struct {
		name   string
		s      Snapshot
		nodes  string // that advertise it, one of which answers on the segment
		routes string
		of     string // the Service that Events are about
		reason v1alpha1.Reason
		says   string // part of the messages of nodes that do not announce it
	}{
		{
			"Cluster and Cluster", sharingSnapshot([]*corev1.Service{sharingService("x"), sharingService("y")}),
			"a b c", "203.0.113.0/24", "x", "", "",
		},
		{
			"Events are about the oldest", sharingSnapshot([]*corev1.Service{sharingService("x", createdAt(2)), sharingService("y", createdAt(1))}),
			"a b c", "203.0.113.0/24", "y", "", "",
		},
		{
			"Local and Local, with the same backends",
			sharingSnapshot(bothLocal(), endpoints("x", "a ready", "b ready"), endpoints("y", "a ready", "b ready")),
			"a b", "203.0.113.5/32", "x", "", "c does not have a ready endpoint, and externalTrafficPolicy is Local",
		},
		{
			"EndpointSlices that lag, with a node in common",
			sharingSnapshot(bothLocal(), endpoints("x", "a ready", "b ready"), endpoints("y", "b ready", "c ready")),
			"b", "203.0.113.5/32", "x", "", "a does not have a ready endpoint of Service ns/y, which shares the address",
		},
		{
			"EndpointSlices that lag, with no node in common", sharingSnapshot(bothLocal(), endpoints("x", "a ready"), endpoints("y", "b ready")),
			"a b", "203.0.113.5/32", "x", "", "c does not have a ready endpoint, and",
		},
		{
			"EndpointSlices that are not there yet", sharingSnapshot(bothLocal(), endpoints("x", "a ready")),
			"a", "203.0.113.5/32", "x", "", "b does not have a ready endpoint, and",
		},
		{
			"the only node in common is not eligible", func() Snapshot {
				s := sharingSnapshot(bothLocal(), endpoints("x", "a ready", "b ready"), endpoints("y", "b ready", "c ready"))
				s.Nodes[1] = node("b", notReady)
				return s
			}(), "a c", "203.0.113.5/32", "x", "", "b is not Ready",
		},
		{
			"terminating endpoints count for each Service on its own",
			sharingSnapshot(bothLocal(), endpoints("x", "a serving"), endpoints("y", "a serving", "b ready")),
			"a b", "203.0.113.5/32", "x", "", "",
		},
		{"no endpoint of either", sharingSnapshot(bothLocal(), endpoints("x", "a down")), "", "", "", v1alpha1.NoEndpoints, ""},
		{
			"Cluster and Local", sharingSnapshot([]*corev1.Service{sharingService("x"), sharingService("y", local)}, endpoints("y", "c ready")),
			"c", "203.0.113.5/32", "x", "", "a does not have a ready endpoint of Service ns/y",
		},
		{
			"Cluster, and Local without an endpoint", sharingSnapshot([]*corev1.Service{sharingService("x"), sharingService("y", local)}),
			"a b c", "203.0.113.5/32", "x", "", "",
		},
		{
			"one leaves",
			sharingSnapshot([]*corev1.Service{sharingService("x", deleted), sharingService("y", local)},
				endpoints("x", "a ready", "b ready"), endpoints("y", "b ready")),
			"b", "203.0.113.5/32", "y", "", "a does not have a ready endpoint, and",
		},
		{"both leave", sharingSnapshot([]*corev1.Service{sharingService("x", deleted), sharingService("y", deleted)}), "", "", "", "", ""},
		{
			"records that differ: the one that is announced",
			withSecondPool(sharingSnapshot([]*corev1.Service{sharingService("x", createdAt(2)), sharingService("y", createdAt(1), another)})),
			"a b c", "203.0.113.0/24", "y", "", "",
		},
		{
			"records that differ: the one from before",
			withAdvertisedPool(sharingSnapshot([]*corev1.Service{sharingService("x", createdAt(1)), sharingService("y", createdAt(2), another)})),
			"b", "203.0.113.5/32", "x", "", "",
		},
		{
			"records that differ, and the old pool is gone",
			sharingSnapshot([]*corev1.Service{sharingService("x", createdAt(2)), sharingService("y", createdAt(1), another)}),
			"a b c", "203.0.113.0/24", "y", "", "",
		},
		{
			"two Services that were replaced",
			sharingSnapshot([]*corev1.Service{sharingService("x", replaced, managed), sharingService("y", replaced, managed)}),
			"a b c", "203.0.113.0/24", "x", "", "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var owners, advertisers []string
			for range 2 { // in either order of the Services
				owners, advertisers = nil, nil
				for _, n := range tt.s.Nodes {
					tt.s.Node = n.Name
					p := Decide(tt.s)
					if _, owns := p.L2[sharedAddr]; owns {
						owners = append(owners, n.Name)
					}
					routes := slices.Collect(maps.Keys(p.BGP[0].Peer.Routes))
					if len(p.Advertised) > 0 {
						advertisers = append(advertisers, n.Name)
						if len(routes) != 1 || routes[0].String() != tt.routes {
							t.Errorf("%s advertises %v, want %s", n.Name, routes, tt.routes)
						}
						if of := p.Services[sharedAddr].Name; of != tt.of {
							t.Errorf("%s has Service %s for the address, want %s", n.Name, of, tt.of)
						}
					}
					if r, refused := p.Unannounced[sharedAddr]; refused && r.Reason != tt.reason {
						t.Errorf("refused for %+v, want %s", r, tt.reason)
					}
				}
				if got := strings.Join(advertisers, " "); got != tt.nodes {
					t.Errorf("advertised by %q, want %q", got, tt.nodes)
				}
				if len(owners) != min(len(advertisers), 1) || len(owners) == 1 && !slices.Contains(advertisers, owners[0]) {
					t.Errorf("owned by %v, advertised by %v", owners, advertisers)
				}
				slices.Reverse(tt.s.Services)
			}
			for _, svc := range tt.s.Services {
				for _, v := range Explain(tt.s, svc) {
					got := summarizeState(v)
					if got.owners != strings.Join(owners, " ") || got.advertisers != tt.nodes || v.Refusal.Reason != tt.reason ||
						!strings.Contains(got.refusals, tt.says) {
						t.Errorf("explained as %+v", v)
					}
				}
			}
		})
	}
}

// stateSummary is an AddressState in short.
type stateSummary struct{ owners, advertisers, refusals string }

func summarizeState(v AddressState) stateSummary {
	var owners, advertisers, refusals []string
	for _, n := range v.Nodes {
		if len(n.Interfaces) > 0 {
			owners = append(owners, n.Node)
		}
		if len(n.Routes) > 0 {
			advertisers = append(advertisers, n.Node)
		}
		if n.Reason != "" {
			refusals = append(refusals, n.Node+" "+n.Message)
		}
	}
	return stateSummary{strings.Join(owners, " "), strings.Join(advertisers, " "), strings.Join(refusals, "; ")}
}

// TestShareSegments checks that the owner on each segment serves all Services if a
// node there does, and any of them otherwise.
func TestShareSegments(t *testing.T) {
	s := sharingSnapshot(bothLocal(), endpoints("x", "a ready", "b ready", "c ready"), endpoints("y", "b ready"))
	s.Config = parseL2(l2ad("p", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0", "eth1"}}))
	s.Interfaces = map[string][]l2.Interface{
		"a": {newInterface("eth0", "192.0.2.1/24")}, "b": {newInterface("eth0", "192.0.2.2/24")}, "c": {newInterface("eth1", "198.51.100.3/24")},
	}
	owners, _ := ownersOf(s)
	if got := owners[sharedAddr]; !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("owned by %v, want b on its segment and c on its own", got)
	}
}

// TestShareWaits checks that a node that begins to advertise a shared address waits
// for the health check of each Service that it serves, and that a node that already
// advertises it goes on when another Service joins.
func TestShareWaits(t *testing.T) {
	x, y := sharingService("x", local, checkedOn(30001)), sharingService("y", local, checkedOn(30000))
	both := []*discoveryv1.EndpointSlice{endpoints("x", "a ready"), endpoints("y", "a ready")}
	none, open := map[netip.Addr]bool{}, map[netip.Addr]bool{sharedAddr: true}
	advertised := map[netip.Addr][]int{sharedAddr: {0}}
	for _, tt := range []struct {
		name  string
		s     Snapshot
		local LocalFacts
		waits bool
		ports []uint16
	}{
		{
			"for both", sharingSnapshot([]*corev1.Service{x, y}, both...),
			LocalFacts{DataPathReady: none, ProxyReady: true},
			true,
			[]uint16{30000, 30001},
		},
		{
			"for the one with an endpoint here", sharingSnapshot([]*corev1.Service{x, y}, both[0], endpoints("y", "b ready")),
			LocalFacts{DataPathReady: none, ProxyReady: true},
			true,
			[]uint16{30001},
		},
		{
			"for that under Local", sharingSnapshot([]*corev1.Service{sharingService("w"), y}, both...),
			LocalFacts{DataPathReady: none, ProxyReady: true},
			true,
			[]uint16{30000},
		},
		{
			"for kube-proxy alone", sharingSnapshot([]*corev1.Service{sharingService("v"), sharingService("w")}),
			LocalFacts{DataPathReady: none},
			true, nil,
		},
		{
			"for nothing", sharingSnapshot([]*corev1.Service{sharingService("v"), sharingService("w")}),
			LocalFacts{DataPathReady: none, ProxyReady: true},
			false, nil,
		},
		{"one joins", sharingSnapshot([]*corev1.Service{x, y}, both...), LocalFacts{DataPathReady: open, ProxyReady: true}, false, nil},
		{
			"one under Local joins", sharingSnapshot([]*corev1.Service{sharingService("w"), y}, both...),
			LocalFacts{DataPathReady: none, Advertised: advertised, ProxyReady: true},
			false, nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.Node, tt.s.Local = "a", tt.local
			p := Decide(tt.s)
			ports, waits := p.AwaitingDataPath[sharedAddr]
			if waits != tt.waits || !slices.Equal(ports, tt.ports) {
				t.Errorf("waits is %t, for %v", waits, ports)
			}
			if _, advertised := p.Advertised[sharedAddr]; advertised == waits {
				t.Errorf("advertised is %t, and waits is %t", advertised, waits)
			}
		})
	}
}
