package plan

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

const everyAddress = "0.0.0.0-255.255.255.255"

// reportedState is what the speaker of a node reports in its Speaker and its L2Node.
type reportedState struct {
	node string
	v1alpha1.SpeakerStatus
	Interfaces []v1alpha1.Interface
}

type reports []reportedState

// reportOf returns the reports of a node with an interface eth0.
func reportOf(node, subnet string, change func(*reportedState)) reportedState {
	s := reportedState{node: node, Interfaces: []v1alpha1.Interface{{Name: "eth0", Addresses: []string{subnet}}}}
	change(&s)
	return s
}

func (r reports) objects() (speakers []*v1alpha1.Speaker, l2nodes []*v1alpha1.L2Node) {
	for _, s := range r {
		speakers = append(speakers, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: s.node}, Status: s.SpeakerStatus})
		l2nodes = append(l2nodes, fixture.L2Node(s.node, s.Interfaces...))
	}
	return speakers, l2nodes
}

// onInterface reports the addresses as announced on the interface.
func onInterface(name string, addrs ...string) func(*reportedState) {
	return func(s *reportedState) {
		s.Announcing = append(s.Announcing, v1alpha1.Announcement{Interfaces: []string{name}, Addresses: addrs})
	}
}

// toPeer reports the addresses as advertised to the peer.
func toPeer(name string, addrs ...string) func(*reportedState) {
	return func(s *reportedState) {
		s.Announcing = append(s.Announcing, v1alpha1.Announcement{Peers: []string{name}, Addresses: addrs})
	}
}

// refused reports the addresses as not announced.
func refused(reason v1alpha1.Reason, addrs ...string) func(*reportedState) {
	return func(s *reportedState) {
		s.Unannounced = append(s.Unannounced, v1alpha1.AddressReason{Reason: reason, Message: "why", Addresses: addrs})
	}
}

// warned reports a warning about the addresses.
func warned(reason v1alpha1.Reason, addrs ...string) func(*reportedState) {
	return func(s *reportedState) {
		s.Warnings = append(s.Warnings, v1alpha1.AddressReason{Reason: reason, Message: "why", Addresses: addrs})
	}
}

// TestWarnings checks the reason of an announced address that other hosts answer for, too,
// or that has no endpoints, and whose reports about that count. Node a announces the address
// on eth0; node b is on the LAN and the reporting node of the address, but no advertisement
// selects it, unless stated otherwise.
func TestWarnings(t *testing.T) {
	const subnet = "192.0.2.1/24"
	addr := firstReportedBy("b", [2]string{"a", "b"}, "192.0.2.10")
	kernelAnswers := func(s *reportedState) { s.Interfaces[0].KernelAnswers = true }
	nothing := func(*reportedState) {}
	selectAll := func(s *Snapshot) { s.Objects.L2Advertisements[0].Spec.NodeSelectors = nil }
	for _, row := range []struct {
		name   string
		a, b   func(*reportedState)
		subnet string // of node b
		change func(*Snapshot)
		want   v1alpha1.Reason
	}{
		{"none", nothing, nothing, subnet, nil, v1alpha1.Announced},
		{"a conflict", warned(v1alpha1.AddressConflict, addr), nothing, subnet, nil, v1alpha1.AddressConflict},
		{"proxy ARP", warned(v1alpha1.ProxyARP, addr), nothing, subnet, nil, v1alpha1.ProxyARP},
		{"no endpoints", warned(v1alpha1.NoEndpoints, addr), nothing, subnet, nil, v1alpha1.NoEndpoints},
		{"no endpoints, according to no candidate", nothing, warned(v1alpha1.NoEndpoints, addr), subnet, nil, v1alpha1.Announced},
		{
			"no endpoints, and proxy ARP", warned(v1alpha1.ProxyARP, addr), warned(v1alpha1.NoEndpoints, addr), subnet,
			selectAll, v1alpha1.NoEndpoints,
		},
		{
			"no endpoints, and a conflict", warned(v1alpha1.AddressConflict, addr), warned(v1alpha1.NoEndpoints, addr), subnet,
			selectAll, v1alpha1.AddressConflict,
		},
		{"another address", warned(v1alpha1.ProxyARP, "192.0.2.8"), nothing, subnet, nil, v1alpha1.Announced},
		{"a reason that is not one of a warning", warned(v1alpha1.NoSession, addr), nothing, subnet, nil, v1alpha1.Announced},
		{"of no candidate", nothing, warned(v1alpha1.AddressConflict, everyAddress), subnet, nil, v1alpha1.Announced},
		{
			"withheld by another candidate", warned(v1alpha1.ProxyARP, addr), refused(v1alpha1.AddressConflict, addr), subnet,
			selectAll, v1alpha1.AddressConflict,
		},
		{"refused by another candidate", nothing, refused(v1alpha1.NoSession, addr), subnet, selectAll, v1alpha1.Announced},
		{"an address that a candidate has on an interface", warned(v1alpha1.KernelAnswers, addr), nothing, subnet, nil, v1alpha1.KernelAnswers},
		{"an address that no candidate has on an interface", nothing, warned(v1alpha1.KernelAnswers, addr), subnet, nil, v1alpha1.Announced},
		{
			"an address on an interface, and proxy ARP", warned(v1alpha1.KernelAnswers, addr), warned(v1alpha1.ProxyARP, addr), subnet,
			selectAll, v1alpha1.ProxyARP,
		},
		{"only the kernel of the owner", kernelAnswers, nothing, subnet, nil, v1alpha1.Announced},
		{"both kernels", kernelAnswers, kernelAnswers, subnet, nil, v1alpha1.KernelAnswers},
		{"the kernel of a node in another subnet", kernelAnswers, kernelAnswers, "198.51.100.1/24", nil, v1alpha1.Announced},
		{"the kernel of no candidate", nothing, kernelAnswers, subnet, nil, v1alpha1.Announced},
		{"the kernel of a candidate", nothing, kernelAnswers, subnet, selectAll, v1alpha1.KernelAnswers},
		{
			"both kernels, and proxy ARP", func(s *reportedState) { kernelAnswers(s); warned(v1alpha1.ProxyARP, addr)(s) }, kernelAnswers,
			subnet, nil, v1alpha1.ProxyARP,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{
				Policy:   providers.Policy{Mode: providers.BareMetal},
				Nodes:    []*corev1.Node{readyNode("a", fixture.Labelled("lan", "yes")), readyNode("b")},
				Services: []*corev1.Service{service("s", annotated(v1alpha1.AnnotationLoadBalancerIPs, addr))},
			}
			s.Speakers, s.L2Nodes = reports{
				reportOf("a", subnet, func(s *reportedState) { onInterface("eth0", addr)(s); row.a(s) }), reportOf("b", row.subnet, row.b),
			}.objects()
			s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("lan", "192.0.2.0/24")}
			s.Objects.L2Advertisements = []*v1alpha1.L2Advertisement{{
				ObjectMeta: metav1.ObjectMeta{Name: "lan"},
				Spec:       v1alpha1.L2AdvertisementSpec{NodeSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"lan": "yes"}}}},
			}}
			if row.change != nil {
				row.change(&s)
			}
			got := apimeta.FindStatusCondition(Decide(s).planOf(key("s")).Conditions, v1alpha1.ConditionAnnounced)
			warns := strings.Contains(got.Message, addr+": ")
			if got.Status != metav1.ConditionTrue || got.Reason != string(row.want) || warns != (row.want != v1alpha1.Announced) ||
				!strings.HasSuffix(got.Message, addr+" by node a on eth0") {
				t.Errorf("got %+v, want %s", got, row.want)
			}
		})
	}
}

// firstReportedBy returns the first address from the given one on that the node, of these two,
// reports if no node announces it.
func firstReportedBy(node string, of [2]string, from string) string {
	for a := netip.MustParseAddr(from); ; a = a.Next() {
		if slices.MaxFunc(of[:], func(x, y string) int {
			if config.RendezvousScore(config.RankSeed(x), a) < config.RendezvousScore(config.RankSeed(y), a) {
				return -1
			}
			return 1
		}) == node {
			return a.String()
		}
	}
}

// TestReportsOfCandidates checks that a report about an address counts only if the
// node is a candidate for it. Pool lan is announced on interfaces of rack-a, and pool wan
// by BGP from rack-b. Each Service has an address of the pool of its name.
func TestReportsOfCandidates(t *testing.T) {
	// The addresses are chosen so that the reporting node of each is known.
	reporters := [2]string{"rack-a", "rack-b"}
	lan, wan := firstReportedBy("rack-a", reporters, "192.0.2.10"), firstReportedBy("rack-b", reporters, "198.51.100.10")
	rack := func(name string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"rack": name}}
	}
	const subnet = "192.0.2.1/24"
	for _, row := range []struct {
		name     string
		speakers reports
		change   func(*Snapshot)
		lan, wan v1alpha1.Reason
	}{
		{"a candidate on the LAN", reports{reportOf("rack-a", subnet, onInterface("eth0", lan))}, nil, v1alpha1.Announced, ""},
		{
			"a candidate, with a range of all addresses",
			reports{reportOf("rack-a", subnet, onInterface("eth0", everyAddress))},
			nil, v1alpha1.Announced, "",
		},
		{"a node that is not selected", reports{reportOf("rack-b", subnet, onInterface("eth0", everyAddress))}, nil, "", ""},
		{"an interface that is not reported", reports{reportOf("rack-a", subnet, onInterface("eth1", lan))}, nil, "", ""},
		{"an interface in another subnet", reports{reportOf("rack-a", "203.0.113.1/24", onInterface("eth0", lan))}, nil, "", ""},
		{"a subnet of all addresses", reports{reportOf("rack-a", "0.0.0.0/0", onInterface("eth0", lan))}, nil, "", ""},
		{
			"an interface that is named",
			reports{reportOf("rack-a", "203.0.113.1/24", onInterface("eth0", lan))},
			func(s *Snapshot) { s.Objects.L2Advertisements[0].Spec.Interfaces = []string{"eth0"} }, v1alpha1.Announced, "",
		},
		{
			"an interface that is not named",
			reports{reportOf("rack-a", subnet, onInterface("eth0", lan))},
			func(s *Snapshot) { s.Objects.L2Advertisements[0].Spec.Interfaces = []string{"eth1"} }, "", "",
		},
		{"a speaker without a node", reports{reportOf("rack-c", subnet, onInterface("eth0", lan))}, nil, "", ""},
		{
			"a node that is not Ready",
			reports{reportOf("rack-a", subnet, onInterface("eth0", lan))},
			func(s *Snapshot) { fixture.NotReady(s.Nodes[0]) }, "", "",
		},
		{"a candidate of BGP", reports{reportOf("rack-b", subnet, toPeer("tor", wan))}, nil, "", v1alpha1.Announced},
		{"a node that the advertisement does not select", reports{reportOf("rack-a", subnet, toPeer("tor", everyAddress))}, nil, "", ""},
		{"a pool that is not advertised by BGP", reports{reportOf("rack-b", subnet, toPeer("tor", lan))}, nil, "", ""},
		{"a peer that does not select the node", reports{reportOf("rack-b", subnet, toPeer("other", wan))}, nil, "", ""},
		{"a peer that does not exist", reports{reportOf("rack-b", subnet, toPeer("none", wan))}, nil, "", ""},
		{
			"a peer without the address family",
			reports{reportOf("rack-b", subnet, toPeer("tor", wan))},
			func(s *Snapshot) { s.Objects.BGPPeers[0].Spec.AddressFamilies = []string{"IPv6"} }, "", "",
		},
		{
			"a candidate that fails to announce",
			reports{
				reportOf("rack-a", subnet, refused(v1alpha1.AnnounceFailed, lan)), reportOf("rack-b", subnet, refused(v1alpha1.NoSession, wan)),
			},
			nil, v1alpha1.AnnounceFailed, v1alpha1.NoSession,
		},
		{
			"the reporting node, which is not a candidate",
			reports{
				reportOf("rack-a", "203.0.113.1/24", refused(v1alpha1.NoInterface, lan)),
				reportOf("rack-b", subnet, refused(v1alpha1.NoInterface, everyAddress)),
			},
			func(s *Snapshot) { s.Objects.BGPAdvertisements = nil }, v1alpha1.NoInterface, v1alpha1.NoInterface,
		},
		{
			"neither a candidate nor the reporting node",
			reports{
				reportOf("rack-a", subnet, refused(v1alpha1.NoSession, wan)), reportOf("rack-b", subnet, refused(v1alpha1.NoInterface, lan)),
			},
			nil, "", "",
		},
		{"a reason that is not one of a speaker", reports{reportOf("rack-a", subnet, refused("Invented", lan))}, nil, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{
				Policy: providers.Policy{Mode: providers.BareMetal},
				Nodes: []*corev1.Node{
					readyNode("rack-a", fixture.Labelled("rack", "a")), readyNode("rack-b", fixture.Labelled("rack", "b")),
				},
				Services: []*corev1.Service{
					service("lan", annotated(v1alpha1.AnnotationLoadBalancerIPs, lan)),
					service("wan", annotated(v1alpha1.AnnotationLoadBalancerIPs, wan)),
				},
			}
			s.Speakers, s.L2Nodes = row.speakers.objects()
			s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("lan", "192.0.2.0/24"), pool("wan", "198.51.100.0/24")}
			s.Objects.L2Advertisements = []*v1alpha1.L2Advertisement{{
				ObjectMeta: metav1.ObjectMeta{Name: "lan"},
				Spec:       v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"lan"}, NodeSelectors: []metav1.LabelSelector{rack("a")}},
			}}
			s.Objects.BGPAdvertisements = []*v1alpha1.BGPAdvertisement{fixture.BGPAdvertisement("wan", func(ad *v1alpha1.BGPAdvertisementSpec) {
				ad.IPAddressPools, ad.NodeSelectors = []string{"wan"}, []metav1.LabelSelector{rack("b")}
			})}
			other := fixture.BGPPeer("other", "203.0.113.2", func(p *v1alpha1.BGPPeerSpec) { p.NodeSelectors = []metav1.LabelSelector{rack("a")} })
			s.Objects.BGPPeers = []*v1alpha1.BGPPeer{fixture.BGPPeer("tor", "203.0.113.1"), other}
			if row.change != nil {
				row.change(&s)
			}
			plan := Decide(s)
			for name, want := range map[string]v1alpha1.Reason{"lan": row.lan, "wan": row.wan} {
				got := apimeta.FindStatusCondition(plan.planOf(key(name)).Conditions, v1alpha1.ConditionAnnounced)
				if want == "" {
					want = v1alpha1.NoSpeaker
				}
				if got.Reason != string(want) {
					t.Errorf("Service %s: got %s (%s), want %s", name, got.Reason, got.Message, want)
				}
			}
		})
	}
}

// TestHostileReportCost checks that the memory for a report depends on the bounded
// number of its entries, not on the number of addresses or on the size of the object.
func TestHostileReportCost(t *testing.T) {
	c, _ := config.Parse(config.Objects{
		L2Advertisements:  onEth0,
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{fixture.BGPAdvertisement("all")},
		BGPPeers:          []*v1alpha1.BGPPeer{fixture.BGPPeer("tor", "203.0.113.1")},
	})
	nodes := []*corev1.Node{readyNode("n")}
	repeat := func(n int, change func(*reportedState)) func(*reportedState) {
		return func(s *reportedState) {
			for range n {
				change(s)
			}
		}
	}
	var overlapping []string
	for i := range 40_000 {
		overlapping = append(overlapping, fmt.Sprintf("10.%d.%d.0-255.255.255.255", i>>8, i&0xff))
	}
	both := strings.Split(everyAddress+" ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", " ")
	for name, change := range map[string]func(*reportedState){
		"200 bytes": func(s *reportedState) {
			onInterface("eth0", both...)(s)
			refused(v1alpha1.NoInterface, both...)(s)
			toPeer("tor", both...)(s)
		},
		"overlapping":       onInterface("eth0", overlapping...),
		"overlapping, BGP":  toPeer("tor", overlapping...),
		"refused":           refused(v1alpha1.NoInterface, overlapping...),
		"conflicts":         refused(v1alpha1.AddressConflict, overlapping...),
		"warnings":          warned(v1alpha1.ProxyARP, overlapping...),
		"groups":            repeat(20_000, onInterface("eth0", everyAddress)),
		"groups of many":    repeat(20, onInterface("eth0", overlapping...)),
		"groups of refused": repeat(20_000, refused(v1alpha1.NoInterface, everyAddress)),
	} {
		t.Run(name, func(t *testing.T) {
			speakers, l2nodes := reports{reportOf("n", "192.0.2.1/24", change)}.objects()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := newSpeakerReports(c, nodes, speakers, l2nodes)
			runtime.ReadMemStats(&after)
			limit := uint64(32 << 20)
			if name == "200 bytes" {
				limit = 1 << 20
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > limit {
				t.Errorf("%d bytes were allocated", used)
			}
			for _, n := range []int{len(r.announcing.starts), len(r.unannounced.starts), len(r.warnings.starts)} {
				if n > 2*v1alpha1.MaxReportedAddresses {
					t.Errorf("the index has %d entries", n)
				}
			}
			for _, about := range r.announcing.claims {
				if len(about) > 1 {
					t.Fatalf("%d claims of one node about one address", len(about))
				}
			}
		})
	}
}

// TestHostileReportsDecideCost checks that the memory of a whole decision is bounded,
// whatever three compromised nodes report: interfaces and subnets, sessions, peers and
// ranges of all addresses.
func TestHostileReportsDecideCost(t *testing.T) {
	subnets, peers := []string{"0.0.0.0/0", "::/0", "192.0.2.1/24"}, []string{"tor"}
	for i := range 10_000 {
		subnets = append(subnets, fmt.Sprintf("10.%d.%d.1/24", i>>8, i&0xff))
		peers = append(peers, fmt.Sprint("peer-", i))
	}
	var overlapping []string
	for i := range 40_000 { // 1 MB
		overlapping = append(overlapping, fmt.Sprintf("%d.%d.0.0-255.255.255.255", i>>8&0xff, i&0xff))
	}
	text := strings.Repeat("x", 1<<20)
	hostile := func(s *reportedState) {
		for i := range 1000 {
			s.Interfaces = append(s.Interfaces, v1alpha1.Interface{Name: fmt.Sprint("eth", i), Addresses: subnets})
			onInterface(fmt.Sprint("eth", i), overlapping...)(s)
		}
		s.Announcing = append(s.Announcing, v1alpha1.Announcement{Peers: peers, Addresses: []string{everyAddress}})
		refused(v1alpha1.NoInterface, overlapping...)(s)
		for _, p := range peers {
			s.Sessions = append(s.Sessions, v1alpha1.Session{Peer: p, State: "Idle", LastError: text})
		}
	}
	s := Snapshot{Policy: providers.Policy{Mode: providers.BareMetal}}
	var all reports
	for _, name := range []string{"n", "o", "p"} {
		s.Nodes = append(s.Nodes, readyNode(name))
		all = append(all, reportOf(name, "192.0.2.1/24", hostile))
	}
	s.Speakers, s.L2Nodes = all.objects()
	for i := range 50 {
		s.Services = append(s.Services, service(fmt.Sprint("s", i)))
	}
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("lan", "192.0.2.0/24")}
	s.Objects.L2Advertisements = onEth0
	s.Objects.BGPAdvertisements = []*v1alpha1.BGPAdvertisement{fixture.BGPAdvertisement("all")}
	for _, p := range peers[:100] {
		s.Objects.BGPPeers = append(s.Objects.BGPPeers, fixture.BGPPeer(p, "203.0.113.1"))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	plan := Decide(s)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
	size := 0
	for _, p := range plan.Problems {
		size += len(p.Message)
	}
	for _, p := range plan.Services {
		for _, c := range p.Plan.Conditions {
			size += len(c.Message)
		}
	}
	for _, p := range plan.BGPPeers {
		for _, c := range p.Conditions {
			size += len(c.Message)
		}
	}
	if size > 1<<20 {
		t.Errorf("the messages have %d bytes", size)
	}
}

// TestHostileReportIsReported checks that the problem of a report is counted.
func TestHostileReportIsReported(t *testing.T) {
	s := Snapshot{Nodes: []*corev1.Node{readyNode("n"), readyNode("o")}}
	s.Speakers, s.L2Nodes = reports{
		reportOf("n", "0.0.0.0/0", onInterface("eth0", "x", "192.0.2.9-192.0.2.1", "192.0.2.1")),
		reportOf("o", "192.0.2.1/24", func(s *reportedState) { s.Omitted = 5 }),
		reportOf("not-a-node", "0.0.0.0/0", func(*reportedState) {}),
	}.objects()
	got := fmt.Sprint(Decide(s).Problems)
	want := fmt.Sprint([]config.Problem{
		{
			Kind: "L2Node", Name: "n", Field: "status", Reason: v1alpha1.IncompleteReport,
			Message: "1 entries are ignored, because they are invalid or exceed the bounds",
		},
		{
			Kind: "Speaker", Name: "n", Field: "status", Reason: v1alpha1.IncompleteReport,
			Message: "2 entries are ignored, because they are invalid or exceed the bounds",
		},
		{
			Kind: "Speaker", Name: "o", Field: "status", Reason: v1alpha1.IncompleteReport,
			Message: "the speaker omitted 5 entries that exceed the bounds",
		},
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestRangeIndex compares the index with a linear search.
func TestRangeIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := func(label string) netip.Addr {
			b := rapid.SampledFrom([]byte{0, 1, 2, 3, 4, 252, 253, 254, 255}).Draw(t, label)
			if rapid.Bool().Draw(t, "IPv6") {
				x := byte(0)
				if b > 128 {
					x = 255
				}
				return netip.AddrFrom16([16]byte{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, b})
			}
			x := byte(0)
			if b > 128 {
				x = 255
			}
			return netip.AddrFrom4([4]byte{x, x, x, b})
		}
		var claims []rangeClaim[int]
		for node := range rapid.IntRange(0, 4).Draw(t, "nodes") {
			var own []rangeClaim[int]
			var set netipx.IPSetBuilder
			for range rapid.IntRange(0, 5).Draw(t, "ranges") {
				if r := netipx.IPRangeFrom(addr("from"), addr("to")); r.IsValid() {
					own = append(own, rangeClaim[int]{r, node})
					set.AddRange(r)
				}
			}
			own = disjointClaims(own)
			var disjoint netipx.IPSetBuilder
			for _, c := range own {
				disjoint.AddRange(c.IPRange)
			}
			a, _ := set.IPSet()
			b, _ := disjoint.IPSet()
			if !a.Equal(b) {
				t.Fatalf("%v became %v", a.Ranges(), own)
			}
			claims = append(claims, own...)
		}
		index := newRangeIndex(claims)
		for range 5 {
			a := addr("address")
			var want, got []int
			for _, c := range claims {
				if c.Contains(a) {
					want = append(want, c.value)
				}
			}
			for _, c := range index.about(a) {
				got = append(got, c.value)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: got %v, want %v, of %v", a, got, want, claims)
			}
		}
	})
}
