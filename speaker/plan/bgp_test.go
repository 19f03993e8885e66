package plan

import (
	"fmt"
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
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

func newPool(name string, addresses ...string) *v1alpha1.IPAddressPool {
	p := &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(a))
	}
	return p
}

// deletedPool returns a pool that is being deleted and still has its finalizer.
func deletedPool(name string, addresses ...string) *v1alpha1.IPAddressPool {
	p := newPool(name, addresses...)
	p.Labels, p.DeletionTimestamp = map[string]string{"tier": "edge"}, &metav1.Time{}
	return p
}

func ptrTo[T any](n T) *T { return &n }

// advertisedRoutes returns the routes and problems of the plan's sessions as text.
func advertisedRoutes(p Plan) (lines []string) {
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
	aggregated := func(s *v1alpha1.BGPAdvertisementSpec) { s.AggregationLength = ptrTo(int32(24)) }
	toAll := []*v1alpha1.BGPAdvertisement{bgpad("all")}
	advertisedBefore := LocalFacts{Advertised: map[netip.Addr][]int{netip.MustParseAddr("203.0.113.5"): {0}}}
	toPeerA := config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: toAll}
	for _, tt := range []struct {
		name     string
		objects  config.Objects
		services []*corev1.Service
		slices   []*discoveryv1.EndpointSlice
		node     *corev1.Node
		local    LocalFacts
		want     []string
		reason   v1alpha1.Reason // of 203.0.113.5, if no node announces it
	}{
		{
			name: "every peer gets the route", want: []string{"a: 203.0.113.5/32 lp 100", "b: 203.0.113.5/32 lp 100"},
			objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")}, BGPAdvertisements: toAll},
		},
		{
			name: "attributes", want: []string{"a: 203.0.113.5/32 lp 200 med 7 prepend 2 64512:1 64512:2 64512:3:4 65535:65281"},
			objects: config.Objects{
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				Communities: []*v1alpha1.Community{{Spec: v1alpha1.CommunitySpec{
					Communities: []v1alpha1.NamedCommunity{{Name: "ours", Value: "64512:2"}},
				}}},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
					bgpad("1", func(s *v1alpha1.BGPAdvertisementSpec) {
						s.LocalPref, s.MED, s.ASPathPrepend, s.Communities = ptrTo(int64(200)), ptrTo(int64(7)), 2, []string{"ours", "no-export"}
					}),
					bgpad("2", func(s *v1alpha1.BGPAdvertisementSpec) {
						s.LocalPref, s.Communities = ptrTo(int64(50)), []string{"large:64512:3:4", "64512:01"}
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
				Pools:    []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.0/24")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", aggregated)},
			},
		},
		{
			name: "an aggregate beyond the pool", want: []string{"a: 203.0.113.5/32 lp 100"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.0-203.0.113.100")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", aggregated)},
			},
		},
		{
			name:     "a pool that was shrunk: aggregates for what it still contains, host routes otherwise",
			want:     []string{"a: 203.0.113.128/25 lp 100", "a: 203.0.113.5/32 lp 100"},
			services: []*corev1.Service{service("s", "203.0.113.5", "p"), service("r", "203.0.113.200", "p")},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.128/25")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", func(s *v1alpha1.BGPAdvertisementSpec) {
					s.AggregationLength = ptrTo(int32(25))
				})},
			},
		},
		{
			name: "a pool that is being deleted, by its label", want: []string{"a: 203.0.113.0/24 lp 100"},
			objects: config.Objects{
				Pools: []*v1alpha1.IPAddressPool{deletedPool("p", "203.0.113.0/24")}, BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("edge", aggregated, func(s *v1alpha1.BGPAdvertisementSpec) {
					s.IPAddressPoolSelectors = matchLabel("tier", "edge")
				})},
			},
		},
		{
			name: "a Service that is being renumbered, from pool to pool",
			want: []string{"a: 198.51.100.7/32 lp 100", "a: 203.0.113.5/32 lp 50"},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", func(s *corev1.Service) {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: "198.51.100.7"})
				fixture.Recorded(strings.Split(s.Annotations[v1alpha1.AnnotationAllocatedFrom], ",")[0], "198.51.100.7=q")(s)
			})},
			objects: config.Objects{
				Pools: []*v1alpha1.IPAddressPool{newPool("q", "198.51.100.0/24")}, BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
					bgpad("p", func(s *v1alpha1.BGPAdvertisementSpec) {
						s.IPAddressPools, s.LocalPref = []string{"p"}, ptrTo(int64(50))
					}),
					bgpad("q", func(s *v1alpha1.BGPAdvertisementSpec) { s.IPAddressPools = []string{"q"} }),
				},
			},
		},
		{
			name: "an aggregate and host routes", want: []string{"a: 203.0.113.0/24 lp 100", "a: 203.0.113.5/32 lp 100 65535:65281"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.0/24")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("1", aggregated), bgpad("2", func(s *v1alpha1.BGPAdvertisementSpec) {
					s.Communities = []string{"no-export"}
				})},
			},
		},
		{
			name: "local without an endpoint here", want: nil,
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)},
			slices:   []*discoveryv1.EndpointSlice{endpoints("s", "node-2 ready")},
			objects:  toPeerA,
		},
		{
			name: "local without any endpoint", want: nil, reason: v1alpha1.NoEndpoints,
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)},
			objects:  toPeerA,
		},
		{
			name: "local with an endpoint here", want: []string{"a: 203.0.113.5/32 lp 100"},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)},
			slices:   []*discoveryv1.EndpointSlice{endpoints("s", "node-1 ready")},
			objects:  toPeerA,
		},
		{
			name: "an excluded node asks for graceful shutdown",
			want: []string{"a: 203.0.113.5/32 lp 0 65535:0"}, node: node("node-1", excluding),
			objects: toPeerA,
		},
		{
			name: "and then withdraws", want: nil, node: node("node-1", excluding), local: LocalFacts{Drained: true},
			objects: toPeerA,
		},
		{
			name: "not before the data path", want: nil, local: LocalFacts{DataPathReady: map[netip.Addr]bool{}},
			objects: toPeerA,
		},
		{
			name: "an aggregate that is not possible: communities are merged",
			want: []string{"a: 203.0.113.5/32 lp 100 64512:1 65535:65281"},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.0/28")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")},
				BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
					bgpad("1", func(s *v1alpha1.BGPAdvertisementSpec) { s.Communities = []string{"64512:1"} }),
					bgpad("2", aggregated, func(s *v1alpha1.BGPAdvertisementSpec) { s.Communities = []string{"no-export"} }),
				},
			},
		},
		{
			name: "no aggregate under Local", want: []string{"a: 203.0.113.5/32 lp 100"},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local)},
			slices:   []*discoveryv1.EndpointSlice{endpoints("s", "node-1 ready")},
			objects: config.Objects{
				Pools:    []*v1alpha1.IPAddressPool{newPool("p", "203.0.113.0/24")},
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all", aggregated)},
			},
		},
		{
			name: "a speaker that shuts down asks for graceful shutdown",
			want: []string{"a: 203.0.113.5/32 lp 0 65535:0"}, local: LocalFacts{Leaving: true},
			objects: toPeerA,
		},
		{
			name: "but it advertises nothing new", want: nil, local: LocalFacts{Leaving: true}, node: node("node-1", notReady),
			objects: toPeerA,
		},
		{
			name: "a deleted node asks for graceful shutdown", want: []string{"a: 203.0.113.5/32 lp 0 65535:0"},
			node:  node("node-1", func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{} }),
			local: advertisedBefore, objects: toPeerA,
		},
		{
			name: "so does a node that is being removed", want: []string{"a: 203.0.113.5/32 lp 0 65535:0"},
			node: node("node-1", tainted(taintToBeDeleted)), local: advertisedBefore, objects: toPeerA,
		},
		{
			name: "an empty password counts as missing",
			want: []string{"a: 203.0.113.5/32 lp 100", "a: NoSecret"}, local: LocalFacts{Passwords: map[string]bgp.Secret{"x": ""}},
			objects: config.Objects{BGPAdvertisements: toAll, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecret = &v1alpha1.SecretReference{Name: "x"} }),
			}},
		},
		{
			name: "a new address needs only kube-proxy",
			want: []string{"a: 203.0.113.5/32 lp 100"}, local: LocalFacts{DataPathReady: map[netip.Addr]bool{}, ProxyReady: true},
			objects: toPeerA,
		},
		{
			name: "under Local it needs its health check", want: nil, local: LocalFacts{DataPathReady: map[netip.Addr]bool{}, ProxyReady: true},
			services: []*corev1.Service{service("s", "203.0.113.5", "p", local, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 30000 })},
			slices:   []*discoveryv1.EndpointSlice{endpoints("s", "node-1 ready")},
			objects:  toPeerA,
		},
		{
			name:  "two peers with the same router",
			want:  []string{"a: 203.0.113.5/32 lp 100", "b: 203.0.113.5/32 lp 100", "b: DuplicatePeer"},
			local: LocalFacts{Gateways: map[string]netip.Addr{"IPv4": netip.MustParseAddr("192.0.2.1")}},
			objects: config.Objects{BGPAdvertisements: toAll, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1"), peer("b", "", func(s *v1alpha1.BGPPeerSpec) { s.DefaultGateway = "IPv4" }),
			}},
		},
		{
			name: "a missing password, and an interface without a router",
			want: []string{"a: 203.0.113.5/32 lp 100", "a: NoSecret", "b: 203.0.113.5/32 lp 100", "b: NoRouter"},
			objects: config.Objects{BGPAdvertisements: toAll, BGPPeers: []*v1alpha1.BGPPeer{
				peer("a", "192.0.2.1", func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecret = &v1alpha1.SecretReference{Name: "x"} }),
				peer("b", "", func(s *v1alpha1.BGPPeerSpec) { s.Interface = "eth1" }),
			}},
		},
		{
			name: "a router in a VRF", want: []string{"a: 203.0.113.5/32 lp 100", "a: UnsupportedVRF"},
			local:   LocalFacts{Interfaces: []l2.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}, VRF: "blue"}}},
			objects: toPeerA,
		},
		{
			name: "no peer", want: nil, reason: v1alpha1.NoPeer,
			objects: config.Objects{BGPAdvertisements: toAll},
		},
		{
			name: "a peer for the other family only", want: nil, reason: v1alpha1.NoPeer,
			objects: config.Objects{BGPAdvertisements: toAll, BGPPeers: []*v1alpha1.BGPPeer{
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
				Interfaces: map[string][]l2.Interface{"node-1": nil, "node-2": nil},
			}
			s.Config, _ = config.Parse(tt.objects)
			if got := advertisedRoutes(Decide(s)); !slices.Equal(got, tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
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

// TestNeighborInterfaces checks that a neighbor has an interface only if there is
// exactly one with its subnet, and other routers have none.
func TestNeighborInterfaces(t *testing.T) {
	prefix := netip.MustParsePrefix
	interfaces := []l2.Interface{
		{Name: "eth0", Prefixes: []netip.Prefix{prefix("192.0.2.10/24"), prefix("2001:db8::10/64")}},
		{Name: "eth1", Prefixes: []netip.Prefix{prefix("198.51.100.10/24")}},
		{Name: "eth2", Prefixes: []netip.Prefix{prefix("198.51.100.11/24")}},
	}
	for address, want := range map[string]string{
		"192.0.2.1": "eth0", "2001:db8::1": "eth0", "198.51.100.1": "", "203.0.113.1": "",
	} {
		for _, hops := range []uint8{0, 1, 2} {
			p := config.BGPPeer{Name: "a", Address: netip.MustParseAddr(address), MyASN: 64512, PeerASN: 64513, TTLSecurity: hops}
			p.AllNodes = true
			got := newPeerings(config.Config{BGPPeers: []config.BGPPeer{p}}, node("node-1"), LocalFacts{Interfaces: interfaces}, 0)[0]
			if hops == 2 {
				want = ""
			}
			if got.Interface != want || got.Multihop != (hops == 2) {
				t.Errorf("%s, %d hops: interface %q, multihop %t", address, hops, got.Interface, got.Multihop)
			}
		}
	}
}

// TestServiceAddresses checks that the sessions have the addresses of Services that interfaces
// of the node have, also those that are not advertised, except an address of the Node.
func TestServiceAddresses(t *testing.T) {
	own := node("node-1", fixture.WithNodeAddresses("192.0.2.10"))
	s := Snapshot{
		Node: "node-1", Nodes: []*corev1.Node{own}, Interfaces: map[string][]l2.Interface{"node-1": nil},
		Services: []*corev1.Service{
			service("advertised", "203.0.113.5", "p"), service("not-advertised", "198.51.100.6", "q"), service("of-node", "192.0.2.10", "p"),
			service("elsewhere", "203.0.113.7", "p"),
		},
	}
	for _, p := range []string{"203.0.113.5/32", "198.51.100.6/24", "192.0.2.10/24", "192.0.2.11/24"} {
		s.Local.Interfaces = append(s.Local.Interfaces, l2.Interface{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix(p)}})
	}
	ad := bgpad("p", func(s *v1alpha1.BGPAdvertisementSpec) { s.IPAddressPools = []string{"p"} })
	s.Config, _ = config.Parse(config.Objects{
		BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{ad},
	})
	sessions := Decide(s).BGP
	if len(sessions) != 2 {
		t.Fatalf("%d sessions, want 2", len(sessions))
	}
	for _, p := range sessions {
		if got := fmt.Sprint(p.Peer.ServiceAddresses); got != "[203.0.113.5 198.51.100.6]" {
			t.Errorf("%s: %s", p.Config.Name, got)
		}
	}
}
