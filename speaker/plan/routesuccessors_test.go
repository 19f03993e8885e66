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
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// TestRouteSuccessors checks for how long node-1 keeps its route after its last ready endpoint,
// and while it is about to be removed, and that Explain and the reports of all nodes agree.
func TestRouteSuccessors(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.5")
	synced, drained := RouteSuccessor{Node: "node-2", Synced: true}, RouteSuccessor{Node: "node-2", Synced: true, Drained: true}
	for _, row := range []struct {
		name      string
		policy    string   // Cluster if ""
		endpoints []string // of the Service
		tainted   []string // nodes
		speakers  string   // nodes with a speaker; all if ""
		excluded  string
		unknown   bool // node-1 does not advertise the address yet
		known     RouteSuccessor

		routed    string // "yes", "shutdown" with GRACEFUL_SHUTDOWN, or ""
		successor string
		explained string // the nodes that advertise, according to Explain
	}{
		{
			name: "ready on both", policy: "Local", endpoints: []string{"node-1 ready", "node-2 ready"}, known: synced,
			routed: "yes", successor: "node-2", explained: "node-1 node-2",
		},
		{name: "the only endpoint", policy: "Local", endpoints: []string{"node-1 ready"}, routed: "yes", explained: "node-1"},
		{
			name: "terminating, ready elsewhere for a moment", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"},
			routed: "yes", successor: "node-2", explained: "node-2",
		},
		{name: "and for long", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"}, known: synced, explained: "node-2"},
		{
			name: "another successor", policy: "Local", endpoints: []string{"node-1 serving", "node-3 ready"}, known: synced,
			routed: "yes", successor: "node-3", explained: "node-3",
		},
		{
			name: "the known successor of two", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready", "node-3 ready"},
			known: RouteSuccessor{Node: "node-3"}, routed: "yes", successor: "node-3", explained: "node-2 node-3",
		},
		{name: "ended", policy: "Local", endpoints: []string{"node-1 down", "node-2 ready"}, explained: "node-2"},
		{name: "none", policy: "Local", endpoints: []string{"node-2 ready"}, explained: "node-2"},
		{
			name: "terminating, not advertised yet", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"}, unknown: true,
			explained: "node-2",
		},
		{
			name: "terminating everywhere", policy: "Local", endpoints: []string{"node-1 serving", "node-2 serving"}, known: synced,
			routed: "yes", successor: "node-2", explained: "node-1 node-2",
		},
		{
			name: "ready where no speaker runs", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"}, speakers: "node-1",
			routed: "yes", explained: "node-1 node-2",
		},
		{
			name: "ready on an excluded node only", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"}, excluded: "node-2",
			routed: "yes", explained: "node-1",
		},
		{
			name: "terminating on an excluded node", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"}, excluded: "node-1",
			known: synced, explained: "node-2",
		},
		{
			name: "terminating, ready on a node that is being removed", policy: "Local", endpoints: []string{"node-1 serving", "node-2 ready"},
			tainted: []string{"node-2"}, known: synced, explained: "node-2",
		},

		{name: "being removed", tainted: []string{"node-1"}, routed: "shutdown", successor: "node-2", explained: "node-2 node-3"},
		{
			name: "being removed, synced", tainted: []string{"node-1"}, known: synced,
			routed: "shutdown", successor: "node-2", explained: "node-2 node-3",
		},
		{name: "being removed, drained", tainted: []string{"node-1"}, known: drained, explained: "node-2 node-3"},
		{name: "being removed, not advertised yet", tainted: []string{"node-1"}, unknown: true, explained: "node-2 node-3"},
		{
			name: "being removed, another successor", tainted: []string{"node-1", "node-2"}, known: drained,
			routed: "shutdown", successor: "node-3", explained: "node-3",
		},
		{
			name: "all being removed", tainted: []string{"node-1", "node-2", "node-3"}, known: drained,
			routed: "shutdown", successor: "node-2", explained: "node-1 node-2 node-3",
		},
		{
			name: "being removed, no other speaker", tainted: []string{"node-1"}, speakers: "node-1",
			routed: "shutdown", explained: "node-1 node-2 node-3",
		},
		{
			name: "being removed, all others excluded", tainted: []string{"node-1"}, excluded: "node-2 node-3",
			routed: "shutdown", explained: "node-1",
		},
		{
			name: "being removed, the only endpoint", policy: "Local", tainted: []string{"node-1"}, endpoints: []string{"node-1 ready"}, known: drained,
			routed: "shutdown", explained: "node-1",
		},
		{
			name: "being removed, a second endpoint", policy: "Local", tainted: []string{"node-1"},
			endpoints: []string{"node-1 ready", "node-2 ready"}, routed: "shutdown", successor: "node-2", explained: "node-2",
		},
		{
			name: "being removed, its endpoint moves", policy: "Local", tainted: []string{"node-1"},
			endpoints: []string{"node-1 serving", "node-2 ready"}, routed: "shutdown", successor: "node-2", explained: "node-2",
		},
		{
			name: "being removed, its endpoint has moved", policy: "Local", tainted: []string{"node-1"},
			endpoints: []string{"node-1 serving", "node-2 ready"}, known: synced, explained: "node-2",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{Interfaces: map[string][]l2.Interface{}}
			for _, name := range []string{"node-1", "node-2", "node-3"} {
				n := node(name)
				if slices.Contains(row.tainted, name) {
					tainted(taintToBeDeleted)(n)
				}
				if strings.Contains(row.excluded, name) {
					n.Labels[corev1.LabelNodeExcludeBalancers] = ""
				}
				if row.speakers == "" || row.speakers == name {
					s.Interfaces[name] = nil
				}
				s.Nodes = append(s.Nodes, n)
			}
			svc := service("s", addr.String(), "p")
			if row.policy == "Local" {
				local(svc)
			}
			s.Services, s.Slices = []*corev1.Service{svc}, []*discoveryv1.EndpointSlice{endpoints("s", row.endpoints...)}
			s.Config, _ = config.Parse(config.Objects{
				BGPPeers: []*v1alpha1.BGPPeer{peer("a", "192.0.2.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")},
			})
			s.Local.Drained = true // only of those that are excluded
			for _, n := range s.Nodes {
				s.Node = n.Name
				if refusal, refused := Decide(s).Unannounced[addr]; refused {
					t.Errorf("%s reports %v", n.Name, refusal)
				}
			}
			if !row.unknown {
				s.Local.Advertised = map[netip.Addr][]int{addr: {0}}
				s.Local.DataPathReady = map[netip.Addr]bool{} // what is advertised does not wait for it
			}
			s.Node, s.Local.RouteSuccessors = "node-1", map[netip.Addr]RouteSuccessor{addr: row.known}
			want := map[string][]string{"yes": {"a: 203.0.113.5/32 lp 100"}, "shutdown": {"a: 203.0.113.5/32 lp 0 65535:0"}}[row.routed]
			p := Decide(s)
			if got := advertisedRoutes(p); !slices.Equal(got, want) || p.RouteSuccessors[addr] != row.successor {
				t.Errorf("got %q with the successor %q, want %q", got, p.RouteSuccessors[addr], want)
			}
			var explained []string
			s.Node, s.Local = "", LocalFacts{}
			for _, state := range Explain(s, svc)[0].Nodes {
				if len(state.Routes) > 0 {
					explained = append(explained, state.Node)
				} else if state.Reason == "" {
					t.Errorf("%s has neither a route nor a reason", state.Node)
				}
			}
			if got := strings.Join(explained, " "); got != row.explained {
				t.Errorf("Explain returns routes of %q, want %q", got, row.explained)
			}
		})
	}
}

// TestLawMakeBeforeBreak checks for random changes of endpoints and taints that a node whose
// kube-proxy still forwards all packets keeps its route at first; that it withdraws it when its
// successor is ready, which then advertises the address; and that another node has a route
// whenever one is withdrawn.
func TestLawMakeBeforeBreak(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.5")
	rapid.Check(t, func(t *rapid.T) {
		s, objects := drawBGPSnapshot(t)
		s.Config, _ = config.Parse(objects)
		svc := service("s", addr.String(), "p")
		s.Services, s.Slices = []*corev1.Service{svc}, drawEndpoints(t, svc, s.Nodes)
		if oracleNodeAddress(s, addr) {
			return
		}
		for _, n := range s.Nodes {
			if rapid.IntRange(0, 3).Draw(t, "no speaker") == 0 {
				delete(s.Interfaces, n.Name)
			}
		}
		planOf := func(node string, advertised map[netip.Addr][]int, successors map[netip.Addr]RouteSuccessor) Plan {
			s := s
			s.Node, s.Local.Advertised, s.Local.RouteSuccessors = node, advertised, successors
			return Decide(s)
		}
		before := map[string]Plan{}
		for _, n := range s.Nodes {
			before[n.Name] = planOf(n.Name, nil, nil)
		}
		if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			var each []string
			for _, n := range s.Nodes {
				each = append(each, n.Name+" "+rapid.SampledFrom([]string{"ready", "serving", "down"}).Draw(t, "becomes"))
			}
			s.Slices = []*discoveryv1.EndpointSlice{endpoints(svc.Name, each...)}
		}
		for _, n := range s.Nodes {
			if rapid.Bool().Draw(t, "being removed") {
				tainted(taintToBeDeleted)(n)
			}
		}
		final := map[string]bool{} // with what does not depend on time any more
		for _, n := range s.Nodes {
			was := before[n.Name].Advertised
			first := planOf(n.Name, was, nil)
			known := map[netip.Addr]RouteSuccessor{}
			for addr, node := range first.RouteSuccessors {
				known[addr] = RouteSuccessor{Node: node, Synced: true, Drained: true}
			}
			_, advertised := was[addr]
			_, kept := first.Advertised[addr]
			if forwards := oracleForwards(s, n); advertised && kept != forwards {
				t.Fatalf("%s forwards: %t, and keeps its route: %t", n.Name, forwards, kept)
			}
			if _, remains := planOf(n.Name, first.Advertised, known).Advertised[addr]; remains {
				final[n.Name] = true
			}
		}
		for _, n := range s.Nodes {
			successor, has := planOf(n.Name, before[n.Name].Advertised, nil).RouteSuccessors[addr]
			if has && !final[n.Name] && !final[successor] {
				t.Fatalf("%s yields to %s, and %v advertise", n.Name, successor, slices.Collect(maps.Keys(final)))
			}
		}
	})
}

// oracleForwards reports whether the kube-proxy of the node forwards packets to all Services.
func oracleForwards(s Snapshot, n *corev1.Node) bool {
	return !slices.ContainsFunc(s.Services, func(svc *corev1.Service) bool { return !oracleForwardsTo(s, svc, n) })
}

func oracleForwardsTo(s Snapshot, svc *corev1.Service, n *corev1.Node) bool {
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return true
	}
	return slices.ContainsFunc(s.Slices, func(slice *discoveryv1.EndpointSlice) bool {
		return slice.Labels[discoveryv1.LabelServiceName] == svc.Name && slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			return *e.NodeName == n.Name && *e.Conditions.Serving
		})
	})
}
