package plan

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// TestEndpointFamilies checks which endpoints of which EndpointSlices count.
func TestEndpointFamilies(t *testing.T) {
	ofType := func(slice *discoveryv1.EndpointSlice, of discoveryv1.AddressType) *discoveryv1.EndpointSlice {
		slice.AddressType = of
		return slice
	}
	unknown := endpoints("s", "a down")
	unknown.Endpoints[0].Conditions = discoveryv1.EndpointConditions{}
	for _, row := range []struct {
		name   string
		slices []*discoveryv1.EndpointSlice
		want   string // the families with endpoints
	}{
		{"no slice", nil, ""},
		{"a slice without endpoints", []*discoveryv1.EndpointSlice{endpoints("s")}, ""},
		{"ready", []*discoveryv1.EndpointSlice{endpoints("s", "a ready")}, "IPv4"},
		{"terminating, but serving", []*discoveryv1.EndpointSlice{endpoints("s", "a down", "b serving")}, "IPv4"},
		{"neither", []*discoveryv1.EndpointSlice{endpoints("s", "a down")}, ""},
		{"without conditions", []*discoveryv1.EndpointSlice{unknown}, "IPv4"},
		{"without a node", []*discoveryv1.EndpointSlice{endpoints("s", "* ready")}, "IPv4"},
		{"in the second slice", []*discoveryv1.EndpointSlice{endpoints("s", "a down"), endpoints("s", "a ready")}, "IPv4"},
		{"of the other family", []*discoveryv1.EndpointSlice{ofType(endpoints("s", "a ready"), discoveryv1.AddressTypeIPv6)}, "IPv6"},
		{"FQDN", []*discoveryv1.EndpointSlice{ofType(endpoints("s", "a ready"), discoveryv1.AddressTypeFQDN)}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			svc := service("s", "203.0.113.5", "p", fixture.WithIPs("2001:db8::5"), fixture.Recorded("203.0.113.5=p", "2001:db8::5=p"))
			var has []string
			families := maps.Collect(EndpointFamilies(svc, row.slices))
			for family, any := range families {
				if any {
					has = append(has, string(family.Type))
				}
			}
			if len(families) != 2 || strings.Join(has, " ") != row.want {
				t.Errorf("got %v", families)
			}
		})
	}
}

// endpointKeys returns the keys of both families of Services, or of those that are named
// "NAME TYPE".
func endpointKeys(names ...string) map[EndpointFamily]bool {
	keys := map[EndpointFamily]bool{}
	for _, text := range names {
		name, of, one := strings.Cut(text, " ")
		for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			if !one || string(family) == of {
				keys[EndpointFamily{fixture.Key(name), family}] = true
			}
		}
	}
	return keys
}

func advertised(s *v1alpha1.BGPAdvertisementSpec) {
	s.WithoutEndpoints = v1alpha1.WithoutEndpointsAdvertise
}

// TestWithoutEndpoints checks how an address without endpoints is announced, and that exactly
// one node reports it, with the reason that Explain shows.
func TestWithoutEndpoints(t *testing.T) {
	const condition = "no endpoint is ready or serving"
	community := func(text string) func(*v1alpha1.BGPAdvertisementSpec) {
		return func(s *v1alpha1.BGPAdvertisementSpec) { s.Communities = []string{text} }
	}
	withAds := func(s Snapshot, ads ...*v1alpha1.BGPAdvertisement) Snapshot {
		c, _ := config.Parse(config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("router", "203.0.113.1")}, BGPAdvertisements: ads})
		s.Config.BGPAdvertisements = c.BGPAdvertisements
		return s
	}
	withoutL2 := func(s Snapshot) Snapshot { s.Config.L2Advertisements = nil; return s }
	onOtherSegment := func(s Snapshot) Snapshot {
		for name := range s.Interfaces {
			s.Interfaces[name] = []l2.Interface{newInterface("eth0", "198.51.100.1/24")}
		}
		return s
	}
	one := func(change ...func(*corev1.Service)) Snapshot {
		return sharingSnapshot([]*corev1.Service{sharingService("x", change...)})
	}
	both := func(changeY ...func(*corev1.Service)) Snapshot {
		return sharingSnapshot([]*corev1.Service{sharingService("x"), sharingService("y", changeY...)})
	}
	for _, row := range []struct {
		name    string
		s       Snapshot
		without string // keys of Services
		routes  string // of the address, of each node
		l2      bool
		reason  v1alpha1.Reason
		says    string
	}{
		{"with endpoints", one(), "", "203.0.113.0/24", true, "", ""},
		{"on the LAN and by BGP", one(), "x", "", true, v1alpha1.NoEndpoints, condition + ", so that no route is advertised"},
		{"only on the LAN", withAds(one()), "x", "", true, v1alpha1.NoEndpoints, condition},
		{"only by BGP", withoutL2(one()), "x", "", false, v1alpha1.NoEndpoints, condition + ", so that no route is advertised"},
		{"of the other family", withoutL2(one()), "x IPv6", "203.0.113.0/24", false, "", ""},
		{"of this family", withoutL2(one()), "x IPv4", "", false, v1alpha1.NoEndpoints, condition + ", so that no route is advertised"},
		{"another Service", withoutL2(one()), "y", "203.0.113.0/24", false, "", ""},
		{
			"advertised by request", withoutL2(withAds(one(), bgpad("p", advertised))), "x", "203.0.113.5/32", false,
			v1alpha1.NoEndpoints, condition,
		},
		{
			"of two advertisements, the one that requests it",
			withoutL2(withAds(one(), bgpad("a", community("64512:1")), bgpad("b", community("64512:2"), advertised))), "x",
			"203.0.113.5/32 64512:2", false, v1alpha1.NoEndpoints, condition,
		},
		{
			"not on the segment", onOtherSegment(one()), "x", "", false, v1alpha1.NoEndpoints,
			condition + ", so that no route is advertised; by Layer 2: no eligible node has an interface for it",
		},
		{
			"no peer", func() Snapshot { s := withoutL2(one()); s.Config.BGPPeers = nil; return s }(), "x", "", false,
			v1alpha1.NoPeer, "no eligible node has a peer for it",
		},
		{"no advertisement", withoutL2(withAds(one())), "x", "", false, v1alpha1.NoAdvertisement, "no L2Advertisement and no BGPAdvertisement"},
		{"one of two Services", withoutL2(both()), "x", "203.0.113.0/24", false, "", ""},
		{"both Services", withoutL2(both()), "x,y", "", false, v1alpha1.NoEndpoints, condition + ", so that no route is advertised"},
		{"both, one of them under Local", both(local), "x,y", "", true, v1alpha1.NoEndpoints, condition + ", so that no route is advertised"},
		{"the one under Local", both(local), "y", "203.0.113.5/32", true, "", ""},
		{"under Local", one(local), "x", "", false, v1alpha1.NoEndpoints, "externalTrafficPolicy is Local, and no eligible node has a ready endpoint"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.s.Local.WithoutEndpoints = endpointKeys(strings.Split(row.without, ",")...)
			var reports []v1alpha1.Refusal
			owners := 0
			for _, n := range row.s.Nodes {
				row.s.Node = n.Name
				p := Decide(row.s)
				if got := strings.Join(advertisedRoutes(p), " "); got != withPeer(row.routes) {
					t.Errorf("%s advertises %q, want %q", n.Name, got, withPeer(row.routes))
				}
				if _, owns := p.L2[sharedAddr]; owns {
					owners++
				}
				reports = append(reports, p.Unannounced[sharedAddr], p.Warnings[sharedAddr])
				if p.Unannounced[sharedAddr].Reason != "" && (row.l2 || row.routes != "") || p.Warnings[sharedAddr].Reason != "" && !row.l2 && row.routes == "" {
					t.Errorf("%s reports unannounced %v, warnings %v", n.Name, p.Unannounced, p.Warnings)
				}
			}
			reports = slices.DeleteFunc(reports, func(r v1alpha1.Refusal) bool { return r == v1alpha1.Refusal{} })
			if (owners == 1) != row.l2 {
				t.Errorf("%d nodes announce it on the LAN", owners)
			}
			if row.reason == "" && len(reports) > 0 || row.reason != "" && len(reports) != 1 {
				t.Fatalf("got the reports %v", reports)
			}
			state := Explain(row.s, row.s.Services[0])[0]
			explained := state.Warning
			if !row.l2 && row.routes == "" {
				explained = state.Refusal
			}
			if row.reason != "" && (reports[0].Reason != row.reason || !strings.HasPrefix(reports[0].Message, row.says) || explained != reports[0]) {
				t.Errorf("got %+v, and Explain returns %+v", reports[0], state)
			}
		})
	}
}

// withPeer returns the text of a route of 203.0.113.5 to the peer; "" without a route.
func withPeer(route string) string {
	prefix, communities, _ := strings.Cut(route, " ")
	if prefix == "" {
		return ""
	}
	return strings.TrimSpace("router: " + prefix + " lp 100 " + communities)
}

// TestLawWithoutEndpoints checks that missing endpoints change nothing but the routes of the
// addresses for which no Service has any, that an advertisement keeps these if it requests
// that, and that one node reports each address.
func TestLawWithoutEndpoints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		keep := rapid.Bool().Draw(t, "advertised without endpoints")
		c, _ := config.Parse(config.Objects{
			BGPPeers: []*v1alpha1.BGPPeer{peer("router", "192.0.2.254")},
			BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", func(s *v1alpha1.BGPAdvertisementSpec) {
				if keep {
					advertised(s)
				}
			})},
		})
		s.Config.BGPPeers, s.Config.BGPAdvertisements = c.BGPPeers, c.BGPAdvertisements
		s.Local.Drained = true // otherwise only an excluded node itself knows that it still advertises
		before := s
		var names []string
		for _, svc := range s.Services {
			if rapid.IntRange(0, 2).Draw(t, "without") > 0 {
				names = append(names, svc.Name)
			}
		}
		s.Local.WithoutEndpoints = endpointKeys(names...)
		lacks := func(addr netip.Addr) bool {
			cluster := false
			for _, svc := range oracleHolders(s, addr) {
				if !slices.Contains(names, svc.Name) {
					return false
				}
				cluster = cluster || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal
			}
			return cluster && !oracleNodeAddress(s, addr)
		}
		// speaks reports whether the node writes reports that count.
		speaks := func(n *corev1.Node) bool {
			return s.Interfaces[n.Name] != nil && (config.NodeReady(n) || !slices.ContainsFunc(s.Nodes, config.NodeReady))
		}
		reports, announced := map[netip.Addr]int{}, map[netip.Addr]bool{}
		announcers := map[netip.Addr][]*corev1.Node{} // now
		for _, n := range s.Nodes {
			s.Node, before.Node = n.Name, n.Name
			was, is := Decide(before), Decide(s)
			if !maps.EqualFunc(was.L2, is.L2, func(a, b l2.Claim) bool { return slices.Equal(a.Interfaces, b.Interfaces) }) {
				t.Fatalf("%s announced %v, and now %v", n.Name, was.L2, is.L2)
			}
			for addr := range was.L2 {
				announced[addr] = true
			}
			for addr := range was.Advertised {
				announced[addr] = true
				if _, still := is.Advertised[addr]; still != (keep || !lacks(addr)) {
					t.Fatalf("%s advertises %s: %t, and it lacks endpoints: %t", n.Name, addr, still, lacks(addr))
				}
			}
			for addr := range is.L2 {
				announcers[addr] = append(announcers[addr], n)
			}
			for addr := range is.Advertised {
				announcers[addr] = append(announcers[addr], n)
				if _, before := was.Advertised[addr]; !before {
					t.Fatalf("%s has begun to advertise %s", n.Name, addr)
				}
			}
			for addr, w := range is.Warnings {
				if w.Reason == v1alpha1.NoEndpoints {
					if reports[addr]++; !slices.Contains(announcers[addr], n) {
						t.Fatalf("%s warns about %s, and does not announce it", n.Name, addr)
					}
				}
			}
			for addr, u := range is.Unannounced {
				if u.Reason == v1alpha1.NoEndpoints && lacks(addr) {
					reports[addr]++
				}
			}
		}
		for addr := range announced {
			reporters := announcers[addr]
			if len(reporters) == 0 {
				reporters = s.Nodes
			}
			if (reports[addr] == 1) != (lacks(addr) && slices.ContainsFunc(reporters, speaks)) || reports[addr] > 1 {
				t.Fatalf("%s lacks endpoints: %t, and %d nodes report it", addr, lacks(addr), reports[addr])
			}
		}
	})
}
