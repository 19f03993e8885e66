package plan

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// TestDisconnected checks that a node whose interface is down releases its addresses at
// once, and asks the segment for them when it is up again. A node that is not eligible for
// another reason goes on answering for a while.
func TestDisconnected(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.77")
	eth0, other := newInterface("eth0", "192.0.2.1/24"), newInterface("eth1", "203.0.113.1/24")
	renumbered := newInterface("eth0", "198.51.100.1/24")
	for _, tt := range []struct {
		name  string
		own   []l2.Interface
		held  bool
		keeps bool
		asks  bool
	}{
		{"connected", []l2.Interface{eth0, other}, true, true, false},
		{"disconnected", []l2.Interface{other}, true, false, false},
		{"no interface", []l2.Interface{}, true, false, false},
		{"another subnet", []l2.Interface{renumbered}, true, true, false},
		{"connected again", []l2.Interface{eth0, other}, false, true, true},
	} {
		s := Snapshot{
			Node: "a", Services: []*corev1.Service{service("web", addr.String(), "p")}, Nodes: []*corev1.Node{node("a"), node("b")},
			Interfaces: map[string][]l2.Interface{"a": tt.own, "b": nil},
		}
		s.Config, _ = config.Parse(config.Objects{L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("all", v1alpha1.L2AdvertisementSpec{})}})
		if tt.held {
			s.Local.Held, s.Local.HeldOn = map[netip.Addr]bool{addr: true}, map[netip.Addr][]string{addr: {"eth0"}}
		}
		claim, keeps := Decide(s).L2[addr]
		if keeps != tt.keeps || keeps && claim.Probe != tt.asks {
			t.Errorf("%s: claims %v, probes %v, want %v, %v", tt.name, keeps, claim.Probe, tt.keeps, tt.asks)
		}
	}
}

// TestDataPathOnInterfaces checks that a node announces an address on interfaces once its own
// data path serves it, and that the node that has it goes on until then.
func TestDataPathOnInterfaces(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.77")
	held := func(s *Snapshot) {
		s.Local.Held, s.Local.HeldOn = map[netip.Addr]bool{addr: true}, map[netip.Addr][]string{addr: {"eth0"}}
	}
	answers := func(state failover.State) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Local.Settled, s.Local.Failover.Answered = true, answeredBy(addr, "b")
			s.Local.PeerFresh = map[failover.Peer]bool{{Interface: "eth0", Node: "b"}: true}
			s.Local.Failover.Peers = map[failover.Peer]failover.Status{{Interface: "eth0", Node: "b"}: {State: state}}
		}
	}
	excluded := func(s *Snapshot) { s.Nodes[0].Labels = map[string]string{corev1.LabelNodeExcludeBalancers: "true"} }
	removed := func(i int) func(*Snapshot) {
		return func(s *Snapshot) { s.Nodes[i] = node(s.Nodes[i].Name, tainted(taintToBeDeleted)) }
	}
	ready := func(s *Snapshot) { s.Local.DataPathReady[addr] = true }
	proxyReady := func(s *Snapshot) { s.Local.ProxyReady = true }
	late := func(s *Snapshot) { s.Local.DataPathLate, s.Local.ProxyNotReady = map[netip.Addr]bool{addr: true}, true }
	notReady := func(nodes ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.ProxyNotReady = map[string]bool{}
			for _, n := range nodes {
				s.ProxyNotReady[n] = true
			}
		}
	}
	underLocal := func(where ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Local.ProxyReady = true
			s.Services[0] = service("web", addr.String(), "p", local, fixture.WithHealthCheck(30000))
			s.Slices = []*discoveryv1.EndpointSlice{endpoints("web", where...)}
		}
	}
	for _, tt := range []struct {
		name       string
		changes    []func(*Snapshot)
		want       l2.Claim
		awaits     []uint16 // nil: it does not wait
		ineligible bool
	}{
		{"Cluster, before kube-proxy", nil, l2.Claim{Probe: true, Defer: true}, []uint16{}, false},
		{"Cluster, kube-proxy does not answer, but does elsewhere", []func(*Snapshot){func(s *Snapshot) {
			s.Local.DataPathLate = map[netip.Addr]bool{addr: true}
		}}, l2.Claim{Probe: true}, []uint16{}, false},
		{"the same, and other nodes do not know it yet", []func(*Snapshot){late}, l2.Claim{Probe: true, Defer: true}, []uint16{}, false},
		{"the same, on all nodes of the segment", []func(*Snapshot){late, notReady("a", "b")}, l2.Claim{Probe: true}, []uint16{}, false},
		{"kube-proxy does not answer on another node", []func(*Snapshot){proxyReady, notReady("b")}, l2.Claim{Probe: true}, nil, false},
		{"held, and kube-proxy does not answer", []func(*Snapshot){held, late, notReady("a")}, l2.Claim{}, nil, false},
		{"Cluster", []func(*Snapshot){proxyReady}, l2.Claim{Probe: true}, nil, false},
		{"not under Local any more", []func(*Snapshot){proxyReady, func(s *Snapshot) {
			s.Local.Reprogrammed = map[netip.Addr]bool{addr: true}
		}}, l2.Claim{Probe: true, Defer: true}, []uint16{}, false},
		{"Local", []func(*Snapshot){underLocal("a ready")}, l2.Claim{Probe: true, Defer: true}, []uint16{30000}, false},
		{"Local, ready", []func(*Snapshot){underLocal("a ready"), ready}, l2.Claim{Probe: true}, nil, false},
		{"Local, terminating", []func(*Snapshot){underLocal("a serving")}, l2.Claim{Probe: true}, nil, false},
		{"another node has it", []func(*Snapshot){underLocal("a ready", "b ready"), answers(failover.Live)}, l2.Claim{Withhold: true}, []uint16{30000}, false},
		{
			"another node has it without a ready endpoint",
			[]func(*Snapshot){underLocal("a ready", "b serving"), answers(failover.Live)},
			l2.Claim{Withhold: true},
			[]uint16{30000},
			false,
		},
		{"the same, ready", []func(*Snapshot){underLocal("a ready", "b serving"), answers(failover.Live), ready}, l2.Claim{}, nil, false},
		{"another node is gone", []func(*Snapshot){underLocal("a ready", "b ready"), answers(failover.Gone)}, l2.Claim{}, nil, false},
		{"held", []func(*Snapshot){held, underLocal("a ready")}, l2.Claim{}, nil, false},
		{"held, and the endpoint is serving", []func(*Snapshot){held, underLocal("a serving", "b ready")}, l2.Claim{}, nil, false},
		{"held, the endpoint is terminating, and the node is excluded", []func(*Snapshot){held, excluded, underLocal("a serving", "b ready")}, l2.Claim{}, nil, true},
		{"held, and the node is excluded, with a ready endpoint", []func(*Snapshot){held, excluded, underLocal("a ready", "b ready")}, l2.Claim{}, nil, true},
		{"held under Cluster, and the node is excluded", []func(*Snapshot){held, excluded, proxyReady}, l2.Claim{}, nil, true},
		{"held, and the node is being removed", []func(*Snapshot){held, removed(0), proxyReady, answers(failover.Live)}, l2.Claim{}, nil, false},
		{"the same, without a session", []func(*Snapshot){held, removed(0), proxyReady}, l2.Claim{}, nil, true},
		{"held, the node is being removed, and the endpoint is gone", []func(*Snapshot){
			held, removed(0), underLocal("b ready"), answers(failover.Live),
		}, l2.Claim{}, nil, true},
		{"another node has it, and is being removed", []func(*Snapshot){
			removed(1), underLocal("a ready", "b ready"), answers(failover.Live),
		}, l2.Claim{Withhold: true}, []uint16{30000}, false},
		{"the same, ready", []func(*Snapshot){
			removed(1), underLocal("a ready", "b ready"), answers(failover.Live), ready,
		}, l2.Claim{}, nil, false},
		{"held, and the endpoint is gone", []func(*Snapshot){held, underLocal("b ready")}, l2.Claim{}, nil, true},
	} {
		eth0 := func(addr string) []l2.Interface { return []l2.Interface{newInterface("eth0", addr)} }
		s := Snapshot{
			Node: "a", Services: []*corev1.Service{service("web", addr.String(), "p")}, Nodes: []*corev1.Node{node("a"), node("b")},
			Interfaces: map[string][]l2.Interface{"a": eth0("192.0.2.1/24"), "b": eth0("192.0.2.2/24")},
			Local:      LocalFacts{DataPathReady: map[netip.Addr]bool{}},
		}
		s.Config, _ = config.Parse(config.Objects{L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("all", v1alpha1.L2AdvertisementSpec{})}})
		for _, change := range tt.changes {
			change(&s)
		}
		tt.want.Interfaces = []string{"eth0"}
		p := Decide(s)
		ports, awaits := p.AwaitingDataPath[addr]
		if got := p.L2[addr]; !reflect.DeepEqual(got, tt.want) || awaits != (tt.awaits != nil) || !slices.Equal(ports, tt.awaits) || p.Ineligible[addr] != tt.ineligible {
			t.Errorf("%s: %+v, waits %v for %v, ineligible %v; want %+v, %v, %v", tt.name, got, awaits, ports, p.Ineligible[addr], tt.want, tt.awaits, tt.ineligible)
		}
	}
}

// TestNeighborAddresses checks which addresses two nodes use for BFD on a segment, and which
// MAC they ask. Both choose the same pair of addresses: the session is between them.
func TestNeighborAddresses(t *testing.T) {
	const (
		v4, v6 = "192.0.2.77", "2001:db8::77" // of Services
		macA   = "02:00:00:00:00:0A"
		macB   = "02:00:00:00:00:0B"
	)
	for _, tt := range []struct {
		name          string
		addr          string // of the Service
		a, b          []string
		local, remote string // of a; "" if there is no session
	}{
		{
			"IPv4 is preferred", v6,
			[]string{"192.0.2.1/24", "2001:db8::1/64"},
			[]string{"192.0.2.2/24", "2001:db8::2/64"},
			"192.0.2.1", "192.0.2.2",
		},
		{"IPv6 only", v6, []string{"2001:db8::1/64"}, []string{"2001:db8::2/64"}, "2001:db8::1", "2001:db8::2"},
		{"one node with IPv4", v6, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"2001:db8::2/64"}, "2001:db8::1", "2001:db8::2"},
		{
			"IPv4 of other subnets", v6,
			[]string{"192.0.2.1/24", "2001:db8::1/64"},
			[]string{"198.51.100.2/24", "2001:db8::2/64"},
			"2001:db8::1", "2001:db8::2",
		},
		{
			"IPv4 without a subnet", v6,
			[]string{"192.0.2.1/32", "2001:db8::1/64"},
			[]string{"192.0.2.2/32", "2001:db8::2/64"},
			"2001:db8::1", "2001:db8::2",
		},
		{"other prefix lengths", v4, []string{"192.0.2.1/24"}, []string{"192.0.2.2/25"}, "", ""},
		{"no common subnet", v4, []string{"192.0.2.1/24"}, []string{"198.51.100.2/24"}, "", ""},
		{"IPv6 without a subnet", v6, []string{"2001:db8::1/128"}, []string{"2001:db8::2/128"}, "", ""},
		{
			"the first of several addresses of a subnet", v4,
			[]string{"192.0.2.1/24", "192.0.2.11/24"},
			[]string{"192.0.2.2/24", "192.0.2.3/24"},
			"192.0.2.1", "192.0.2.2",
		},
		{
			"the first of several addresses of an IPv6 subnet, in the order of the addresses", v6,
			[]string{"2001:db8::1/64", "2001:db8::a8bb:ccff:fedd:1/64"},
			[]string{"2001:db8::2c1f:90ff:fe00:1/64", "2001:db8::f00d/64"},
			"2001:db8::1", "2001:db8::f00d",
		},
		{
			"the first of several subnets", v4,
			[]string{"192.0.2.1/24", "203.0.113.1/24"},
			[]string{"192.0.2.2/24", "203.0.113.2/24"},
			"192.0.2.1", "192.0.2.2",
		},
		{
			"an address that both nodes have", v4,
			[]string{"192.0.2.1/24", "192.0.2.11/24"},
			[]string{"192.0.2.1/24", "192.0.2.12/24"},
			"192.0.2.11", "192.0.2.12",
		},
		{"the same addresses", v4, []string{"192.0.2.1/24"}, []string{"192.0.2.1/24"}, "", ""},
		{
			"the first subnet that both have", v4,
			[]string{"192.0.2.1/24", "198.51.100.1/24", "203.0.113.1/24"},
			[]string{"198.51.100.2/24", "203.0.113.2/24"},
			"198.51.100.1", "198.51.100.2",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eth0 := func(mac string, prefixes []string) []l2.Interface {
				i := newInterface("eth0", prefixes...)
				i.MAC = mac
				slices.SortFunc(i.Prefixes, netip.Prefix.Compare) // as l2.Interfaces does
				return []l2.Interface{i}
			}
			s := Snapshot{
				Services: []*corev1.Service{service("web", tt.addr, "p")}, Nodes: []*corev1.Node{node("a"), node("b")},
				Interfaces: map[string][]l2.Interface{"a": eth0(macA, tt.a), "b": eth0(macB, tt.b)},
			}
			s.Config = parseL2(l2ad("all", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0"}}))
			var local, remote netip.Addr
			if tt.local != "" {
				local, remote = netip.MustParseAddr(tt.local), netip.MustParseAddr(tt.remote)
			}
			for self, other := range map[string]string{"a": "b", "b": "a"} {
				s.Node = self
				n, ok := Decide(s).Neighbors[failover.Peer{Interface: "eth0", Node: other}]
				want := Neighbor{MAC: strings.ToLower(macB), Local: local, Remote: remote}
				if self == "b" {
					want = Neighbor{MAC: strings.ToLower(macA), Local: remote, Remote: local}
				}
				if !ok || n.MAC != want.MAC || n.Local != want.Local || n.Remote != want.Remote {
					t.Errorf("%s reaches %s (%v) at %q by a session from %s to %s, want %q, from %s to %s",
						self, other, ok, n.MAC, n.Local, n.Remote, want.MAC, want.Local, want.Remote)
				}
			}
		})
	}
}

// TestProxyNotReady checks that a node without an answer from its kube-proxy leaves an address to
// the other node, and that Explain reports it.
func TestProxyNotReady(t *testing.T) {
	eth0 := func(addr string) []l2.Interface { return []l2.Interface{newInterface("eth0", addr)} }
	svc := service("web", "192.0.2.7", "p")
	s := Snapshot{
		Services: []*corev1.Service{svc}, Nodes: []*corev1.Node{node("a"), node("b")},
		Interfaces: map[string][]l2.Interface{"a": eth0("192.0.2.1/24"), "b": eth0("192.0.2.2/24")},
	}
	s.Config, _ = config.Parse(config.Objects{L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("all", v1alpha1.L2AdvertisementSpec{})}})
	ranked := Explain(s, svc)[0].Ranked
	s.ProxyNotReady = map[string]bool{ranked[0]: true}
	got := Explain(s, svc)[0]
	i := slices.IndexFunc(got.Nodes, func(n NodeState) bool { return n.Node == ranked[0] })
	if !slices.Equal(got.Ranked, []string{ranked[1], ranked[0]}) || !strings.Contains(got.Nodes[i].Message, "its kube-proxy does not answer") {
		t.Errorf("got %+v, without %s the rank was %v", got, ranked[0], ranked)
	}
	addr := netip.MustParseAddr("192.0.2.7")
	for i, want := range []bool{false, true} {
		s.Node = ranked[i]
		if _, owns := Decide(s).L2[addr]; owns != want {
			t.Errorf("node %s: owns it %t, want %t", s.Node, owns, want)
		}
	}
}
