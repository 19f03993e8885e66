package plan

import (
	"net/netip"
	"reflect"
	"slices"
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
		{"Cluster", []func(*Snapshot){proxyReady}, l2.Claim{Probe: true}, nil, false},
		{"not under Local any more", []func(*Snapshot){proxyReady, func(s *Snapshot) {
			s.Local.Reprogrammed = map[netip.Addr]bool{addr: true}
		}}, l2.Claim{Probe: true, Defer: true}, []uint16{}, false},
		{"Local", []func(*Snapshot){underLocal("a ready")}, l2.Claim{Probe: true, Defer: true}, []uint16{30000}, false},
		{"Local, ready", []func(*Snapshot){underLocal("a ready"), ready}, l2.Claim{Probe: true}, nil, false},
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
