package speaker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

func peer(name, address string, change ...func(*v1alpha1.BGPPeerSpec)) *v1alpha1.BGPPeer {
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: address}}
	for _, c := range change {
		c(&p.Spec)
	}
	return p
}

func bgpad(name string, change ...func(*v1alpha1.BGPAdvertisementSpec)) *v1alpha1.BGPAdvertisement {
	ad := &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, c := range change {
		c(&ad.Spec)
	}
	return ad
}

func pool(name string, addresses ...string) *v1alpha1.IPAddressPool {
	p := &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(a))
	}
	return p
}

func num[T any](n T) *T { return &n }

// told is what the plan tells, one line a route.
func told(p Plan) (lines []string) {
	for _, peering := range p.BGP {
		if peering.Problem.Reason != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", peering.Config.Name, peering.Problem.Reason))
		}
		for prefix, a := range peering.Peer.Routes {
			line := fmt.Sprintf("%s: %s lp %d", peering.Config.Name, prefix, a.LocalPref)
			if a.HasMED {
				line += fmt.Sprintf(" med %d", a.MED)
			}
			if a.Prepend > 0 {
				line += fmt.Sprintf(" prepend %d", a.Prepend)
			}
			lines = append(lines, strings.TrimSpace(line+" "+a.Communities))
		}
	}
	slices.Sort(lines)
	return lines
}

func TestRoutes(t *testing.T) {
	excluding := labelled(corev1.LabelNodeExcludeBalancers, "")
	slowly := func(s *v1alpha1.BGPAdvertisementSpec) { s.AggregationLength = num(int32(24)) }
	for _, tt := range []struct {
		name     string
		objects  config.Objects
		services []*corev1.Service
		slices   []*discoveryv1.EndpointSlice
		node     *corev1.Node
		local    Local
		want     []string
		reason   v1alpha1.Reason // of 203.0.113.5, if nobody announces it
	}{
		{
			name: "each peer is told", want: []string{"a: 203.0.113.5/32 lp 100", "b: 203.0.113.5/32 lp 100"},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "attributes", want: []string{"a: 203.0.113.5/32 lp 200 med 7 prepend 2 64512:1 64512:2 64512:3:4 65535:65281"},
			objects: config.Objects{
				BGPPeers:    []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				Communities: []*v1alpha1.Community{{Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "ours", Value: "64512:2"}}}}},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
					bgpad("1", func(s *v1alpha1.BGPAdvertisementSpec) {
						s.LocalPref, s.MED, s.ASPathPrepend, s.Communities = num(int64(200)), num(int64(7)), 2, []string{"ours", "no-export"}
					}),
					bgpad("2", func(s *v1alpha1.BGPAdvertisementSpec) {
						s.LocalPref, s.Communities = num(int64(50)), []string{"large:64512:3:4", "64512:01"}
					}),
				},
			},
		},
		{
			name: "only the peers and pools that are named", want: []string{"b: 203.0.113.5/32 lp 100"},
			objects: config.Objects{
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
					bgpad("1", func(s *v1alpha1.BGPAdvertisementSpec) { s.Peers = []string{"b"} }),
					bgpad("2", func(s *v1alpha1.BGPAdvertisementSpec) { s.IPAddressPools = []string{"other"} }),
				},
			},
		},
		{
			name: "an aggregate within the pool", want: []string{"a: 203.0.113.0/24 lp 100"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{pool("p", "203.0.113.0/24")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", slowly)},
			},
		},
		{
			name: "an aggregate beyond the pool", want: []string{"a: 203.0.113.5/32 lp 100"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{pool("p", "203.0.113.0-203.0.113.100")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", slowly)},
			},
		},
		{
			name: "an aggregate and host routes", want: []string{"a: 203.0.113.0/24 lp 100", "a: 203.0.113.5/32 lp 100 65535:65281"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{pool("p", "203.0.113.0/24")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("1", slowly), bgpad("2", func(s *v1alpha1.BGPAdvertisementSpec) {
					s.Communities = []string{"no-export"}
				})},
			},
		},
		{
			name: "local without an endpoint here", want: nil,
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)}, slices: []*discoveryv1.EndpointSlice{endpoints("s", "node-2 ready")},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "local without any endpoint", want: nil, reason: v1alpha1.NoEndpoints,
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)},
			objects:  config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "local with an endpoint here", want: []string{"a: 203.0.113.5/32 lp 100"},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)}, slices: []*discoveryv1.EndpointSlice{endpoints("s", "node-1 ready")},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "an excluded node asks for other ways", want: []string{"a: 203.0.113.5/32 lp 0 65535:0"}, node: node("node-1", excluding),
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "and then withdraws", want: nil, node: node("node-1", excluding), local: Local{Drained: true},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "not before the data path", want: nil, local: Local{Open: map[netip.Addr]bool{}},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "an aggregate that cannot be made: communities are united", want: []string{"a: 203.0.113.5/32 lp 100 64512:1 65535:65281"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{pool("p", "203.0.113.0/28")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
					bgpad("1", func(s *v1alpha1.BGPAdvertisementSpec) { s.Communities = []string{"64512:1"} }),
					bgpad("2", slowly, func(s *v1alpha1.BGPAdvertisementSpec) { s.Communities = []string{"no-export"} }),
				},
			},
		},
		{
			name: "no aggregate under Local", want: []string{"a: 203.0.113.5/32 lp 100"},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)}, slices: []*discoveryv1.EndpointSlice{endpoints("s", "node-1 ready")},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{pool("p", "203.0.113.0/24")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", slowly)},
			},
		},
		{
			name: "a speaker that leaves asks for other ways", want: []string{"a: 203.0.113.5/32 lp 0 65535:0"}, local: Local{Leaving: true},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "but begins nothing on its way out", want: nil, local: Local{Leaving: true}, node: node("node-1", notReady),
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "a node that is deleted asks for other ways", want: []string{"a: 203.0.113.5/32 lp 0 65535:0"},
			node:    node("node-1", func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{} }),
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "an empty password is none", want: []string{"a: 203.0.113.5/32 lp 100", "a: NoSecret"}, local: Local{Passwords: map[string]bgp.Secret{"x": ""}},
			objects: config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecret = &v1alpha1.SecretReference{Name: "x"} }),
			}},
		},
		{
			name: "a new address needs only kube-proxy", want: []string{"a: 203.0.113.5/32 lp 100"}, local: Local{Open: map[netip.Addr]bool{}, Proxy: true},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "under Local it needs its health check", want: nil, local: Local{Open: map[netip.Addr]bool{}, Proxy: true},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 30000 })},
			slices:   []*discoveryv1.EndpointSlice{endpoints("s", "node-1 ready")},
			objects:  config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "two peers that lead to one router", want: []string{"a: 203.0.113.5/32 lp 100", "b: 203.0.113.5/32 lp 100", "b: DuplicatePeer"},
			local: Local{Gateways: map[string]netip.Addr{"IPv4": netip.MustParseAddr("192.0.2.1")}},
			objects: config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1"), peer("b", "", func(s *v1alpha1.BGPPeerSpec) { s.DefaultGateway = "IPv4" }),
			}},
		},
		{
			name: "a password that is missing, a link without a router", want: []string{"a: 203.0.113.5/32 lp 100", "a: NoSecret", "b: 203.0.113.5/32 lp 100", "b: NoRouter"},
			objects: config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecret = &v1alpha1.SecretReference{Name: "x"} }),
				peer("b", "", func(s *v1alpha1.BGPPeerSpec) { s.Interface = "eth1" }),
			}},
		},
		{
			name: "nobody to tell", want: nil, reason: v1alpha1.NoPeer,
			objects: config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}},
		},
		{
			name: "a peer for the other family only", want: nil, reason: v1alpha1.NoPeer,
			objects: config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1", func(s *v1alpha1.BGPPeerSpec) { s.AddressFamilies = []string{"IPv6"} }),
			}},
		},
		{name: "no advertisement", want: nil, reason: v1alpha1.NoAdvertisement, objects: config.Objects{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own := tt.node
			if own == nil {
				own = node("node-1")
			}
			services := tt.services
			if services == nil {
				services = []*corev1.Service{service("s", "203.0.113.5", "p")}
			}
			s := Snapshot{
				Node: "node-1", Nodes: []*corev1.Node{own, node("node-2")}, Services: services, Slices: tt.slices, Local: tt.local,
				Links: map[string][]l2.Link{"node-1": nil, "node-2": nil},
			}
			s.Config, _ = config.Parse(tt.objects)
			if got := told(Decide(s)); !slices.Equal(got, tt.want) {
				t.Errorf("told\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
			all := Decide(s).Unannounced
			s.Node = "node-2"
			maps.Copy(all, Decide(s).Unannounced)
			if got := all[netip.MustParseAddr("203.0.113.5")].Reason; got != tt.reason {
				t.Errorf("unannounced for %q, want %q", got, tt.reason)
			}
		})
	}
}

// TestRouteLaws: over random clusters, an address is told by exactly the nodes
// that Explain names, never under Local from a node without an endpoint that
// serves, and it is unannounced if and only if no node tells it.
func TestRouteLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Snapshot{Links: map[string][]l2.Link{}}
		var objects config.Objects
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			n := node(fmt.Sprintf("node-%d", i))
			if rapid.Bool().Draw(t, "labelled") {
				n.Labels["rack"] = "a"
			}
			if rapid.IntRange(0, 4).Draw(t, "excluded") == 0 {
				n.Labels[corev1.LabelNodeExcludeBalancers] = ""
			}
			s.Nodes, s.Links[n.Name] = append(s.Nodes, n), nil
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
		serving := map[string]bool{}
		svc := service("s", "203.0.113.5", "p")
		if rapid.Bool().Draw(t, "local") {
			local(svc)
			var each []string
			for _, n := range s.Nodes {
				if serving[n.Name] = rapid.Bool().Draw(t, "endpoint"); serving[n.Name] {
					each = append(each, n.Name+" ready")
				}
			}
			s.Slices = []*discoveryv1.EndpointSlice{endpoints("s", each...)}
		}
		s.Services = []*corev1.Service{svc}
		s.Config, _ = config.Parse(objects)
		s.Local.Drained = true

		addr := netip.MustParseAddr("203.0.113.5")
		verdict := Explain(s, svc)[0]
		tellers, refusals := 0, 0
		for _, n := range s.Nodes {
			s.Node = n.Name
			plan := Decide(s)
			var peers []string
			for _, p := range plan.BGP {
				if _, tells := p.Peer.Routes[netip.PrefixFrom(addr, 32)]; tells {
					peers = append(peers, p.Config.Name)
				}
			}
			if len(peers) > 0 {
				tellers++
				if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !serving[n.Name] {
					t.Fatalf("%s tells the address and has no endpoint", n.Name)
				}
				if excluded(n) != "" {
					t.Fatalf("%s tells the address and is excluded", n.Name)
				}
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
		if (tellers == 0) != (refusals == 1) || refusals > 1 {
			t.Fatalf("%d nodes tell the address, and %d say that nobody can", tellers, refusals)
		}
		if (tellers == 0) != (verdict.Refusal.Reason != "") {
			t.Fatalf("%d nodes tell the address, and Explain says %q", tellers, verdict.Refusal.Reason)
		}
	})
}

// TestSessionStatus: addresses count as announced only if a session carries
// them, and an idle peer does not change the report at every attempt.
func TestSessionStatus(t *testing.T) {
	s := Snapshot{
		Node: "node-1", Nodes: []*corev1.Node{node("node-1")}, Links: map[string][]l2.Link{"node-1": nil},
		Services: []*corev1.Service{service("s", "203.0.113.5", "p"), service("r", "203.0.113.6", "p"), service("v6", "2001:db8::5", "p")},
	}
	s.Config, _ = config.Parse(config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")}})
	up := bgp.PeerStatus{Name: "a", State: bgp.Established, IPv4: true, Since: time.Unix(100, 5), Withheld: "IPv6: not enabled"}
	down := bgp.PeerStatus{Name: "b", State: bgp.OpenSent, LastError: "connection refused", LastErrorAt: time.Unix(100, 0)}
	first := status(v1alpha1.SpeakerStatus{}, outcome{plan: Decide(s), sessions: []bgp.PeerStatus{up, down}})

	if first.SessionSummary != "1/2" || first.AnnouncedAddresses != 2 {
		t.Errorf("got %+v", first)
	}
	if len(first.Announcing) != 1 || !slices.Equal(first.Announcing[0].Addresses, []string{"203.0.113.5-203.0.113.6"}) || !slices.Equal(first.Announcing[0].Peers, []string{"a"}) {
		t.Errorf("announcing %+v", first.Announcing)
	}
	want := v1alpha1.Unannounced{Reason: v1alpha1.NoSession, Message: "no BGP session can carry it: a: IPv6: not enabled; b: connection refused", Addresses: []string{"2001:db8::5"}}
	if len(first.Unannounced) != 1 || fmt.Sprint(first.Unannounced[0]) != fmt.Sprint(want) {
		t.Errorf("unannounced %+v, want %+v", first.Unannounced, want)
	}
	down.State, down.LastErrorAt, down.Since = bgp.Connect, time.Unix(200, 0), time.Unix(200, 0)
	second := status(first, outcome{plan: Decide(s), sessions: []bgp.PeerStatus{up, down}})
	if a, b := fmt.Sprintf("%+v", first.Sessions[1]), fmt.Sprintf("%+v", second.Sessions[1]); !first.Sessions[1].LastErrorTime.Equal(second.Sessions[1].LastErrorTime) || first.Sessions[1].State != second.Sessions[1].State {
		t.Errorf("another attempt changes the report from\n%s\nto\n%s", a, b)
	}
}

// BenchmarkRoutes decides 50,000 routes to two peers, and reports them.
func BenchmarkRoutes(b *testing.B) {
	s := Snapshot{Node: "node-0", Links: map[string][]l2.Link{}}
	s.Config, _ = config.Parse(config.Objects{BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")}})
	for i := range 3 {
		s.Nodes = append(s.Nodes, node(fmt.Sprintf("node-%d", i)))
	}
	for i := range 50_000 {
		s.Services = append(s.Services, service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), "p"))
	}
	sessions := []bgp.PeerStatus{{Name: "a", State: bgp.Established, IPv4: true}, {Name: "b", State: bgp.Established, IPv4: true}}
	for b.Loop() {
		status(v1alpha1.SpeakerStatus{}, outcome{plan: Decide(s), sessions: sessions})
	}
}
