package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

var (
	node     = fixture.Node
	labelled = fixture.Labelled
	service  = fixture.Assigned

	notReady  = fixture.NotReady
	local     = fixture.Local
	endpoints = fixture.EndpointSlice
	peer      = fixture.BGPPeer
	bgpad     = fixture.BGPAdvertisement
)

func newInterface(name string, prefixes ...string) l2.Interface {
	l := l2.Interface{Name: name}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return l
}

func TestStatusRoundTrip(t *testing.T) {
	interfaces := []l2.Interface{newInterface("eth0", "192.0.2.1/24", "2001:db8::1/64"), newInterface("named"), newInterface("eth1")}
	a, b, c := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("192.0.2.9")
	refusal := v1alpha1.Refusal{Reason: v1alpha1.NoInterface, Message: "message"}
	o := observedState{
		version: "v1", interfaces: interfaces, proxyNotReady: true,
		config: config.Config{L2Advertisements: []config.L2Advertisement{{Interfaces: []string{"named"}}}},
		claims: map[netip.Addr]l2.Claim{
			a: {Interfaces: []string{"eth0"}}, b: {Interfaces: []string{"eth0", "named"}}, c: {Interfaces: []string{"eth0"}},
		},
		plan: plan.Plan{Unannounced: map[netip.Addr]v1alpha1.Refusal{
			netip.MustParseAddr("203.0.113.1"): refusal, netip.MustParseAddr("203.0.113.2"): refusal,
		}},
	}
	got := speakerStatus(v1alpha1.SpeakerStatus{}, o)
	speaker := &v1alpha1.Speaker{Status: got}
	l2node := &v1alpha1.L2Node{}
	if l2node.Status, _ = l2NodeStatus(o); l2node.Status.Version != "v1" || !l2node.Status.ProxyNotReady || got.Version != "v1" {
		t.Errorf("got %+v, and version %q", l2node.Status, got.Version)
	}
	back := plan.ReportedInterfaces(l2node)
	if len(back) != 2 || !slices.Equal(back[0].Prefixes, interfaces[0].Prefixes) || back[1].Name != "named" {
		t.Errorf("interfaces %v", back)
	}
	before := previouslyAnnounced(speaker)
	if want := []netipx.IPRange{netipx.IPRangeFrom(a, c)}; !slices.Equal(before.Ranges(), want) {
		t.Errorf("announced %v", before.Ranges())
	}
	ended := endedRanges(before, map[netip.Addr]bool{b: true})
	if len(ended) != 2 || formatRange(ended[0]) != a.String() || formatRange(ended[1]) != c.String() {
		t.Errorf("ended %v", ended)
	}
	if len(got.Announcing) != 2 || len(got.Unannounced) != 1 || got.AnnouncedAddresses != 3 ||
		!slices.Equal(got.Unannounced[0].Addresses, []string{"203.0.113.1-203.0.113.2"}) {
		t.Errorf("got %+v", got)
	}
}

// TestReportIsBounded checks that a report of any size is within the bounds of the
// schema, that it states what is left out, and that 5,000 addresses without two
// consecutive ones are complete.
func TestReportIsBounded(t *testing.T) {
	claims := map[netip.Addr]l2.Claim{}
	claim := func(n int) {
		for i := len(claims); i < n; i++ {
			claims[netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)})] = l2.Claim{Interfaces: []string{"eth0"}}
		}
	}
	var aliases []string
	for i := range 2 * v1alpha1.MaxReportedSubnets {
		aliases = append(aliases, fmt.Sprintf("192.0.%d.%d/32", i/100, i%100))
	}
	eth0 := newInterface("eth0", append(aliases, "198.51.100.1/24", "0.0.0.0/0")...)
	observed := observedState{claims: claims, interfaces: []l2.Interface{eth0}}

	claim(5000)
	got := speakerStatus(v1alpha1.SpeakerStatus{}, observed)
	if n := len(got.Announcing[0].Addresses); n != 5000 || got.AnnouncedAddresses != 5000 {
		t.Errorf("%d of %d addresses are reported", n, got.AnnouncedAddresses)
	}
	// The default route's prefix and all of the aliases but 127 are left out.
	l2node, _ := l2NodeStatus(observed)
	subnets := l2node.Interfaces[0].Addresses
	if len(subnets) != v1alpha1.MaxReportedSubnets-1 || subnets[0] != "198.51.100.1/24" || got.Omitted != int64(len(aliases)-len(subnets)+2) {
		t.Errorf("%d omitted; interfaces %v", got.Omitted, l2node.Interfaces)
	}

	claim(v1alpha1.MaxReportedAddresses + 7)
	observed.interfaces = nil
	refusal := v1alpha1.Refusal{Reason: v1alpha1.NoInterface, Message: strings.Repeat("é", 5000)}
	observed.plan.Unannounced = map[netip.Addr]v1alpha1.Refusal{netip.MustParseAddr("203.0.113.1"): refusal}
	got = speakerStatus(v1alpha1.SpeakerStatus{}, observed)
	if n := len(got.Announcing[0].Addresses); n != v1alpha1.MaxReportedAddresses || got.Omitted != 7+1 || len(got.Unannounced) != 0 {
		t.Errorf("%d addresses, %d omitted, and %d groups", n, got.Omitted, len(got.Unannounced))
	}
	clear(claims)
	got = speakerStatus(v1alpha1.SpeakerStatus{}, observed)
	if message := got.Unannounced[0].Message; len(message) > v1alpha1.MaxReportedMessage || !strings.HasSuffix(message, "é…") {
		t.Errorf("the message has %d bytes", len(message))
	}
}

// TestNamedInterfacesAreReported checks that of too many interfaces, those that
// advertisements name are reported.
func TestNamedInterfacesAreReported(t *testing.T) {
	var interfaces []l2.Interface
	for i := range 2 * v1alpha1.MaxReportedInterfaces {
		interfaces = append(interfaces, newInterface(fmt.Sprintf("vlan%d", 100+i), fmt.Sprintf("10.0.%d.1/24", i)))
	}
	got, _ := l2NodeStatus(observedState{
		interfaces: interfaces, config: config.Config{L2Advertisements: []config.L2Advertisement{{Interfaces: []string{"vlan220"}}}},
	})
	if len(got.Interfaces) != v1alpha1.MaxReportedInterfaces || got.Interfaces[0].Name != "vlan220" || got.Interfaces[1].Name != "vlan100" {
		t.Errorf("%d interfaces, first %v", len(got.Interfaces), got.Interfaces[0])
	}
}

func TestUsableInterfaces(t *testing.T) {
	reported := []l2.Interface{newInterface("eth0", "192.0.2.1/24", "198.51.100.1/24"), newInterface("gone", "10.0.0.1/8")}
	live := []l2.Interface{newInterface("eth0", "192.0.2.1/24", "203.0.113.1/24"), newInterface("new", "10.0.0.1/8")}
	got := usableInterfaces(reported, live)
	if len(got) != 1 || got[0].Name != "eth0" || !slices.Equal(got[0].Prefixes, live[0].Prefixes[:1]) {
		t.Errorf("got %v", got)
	}
}

// TestSessionStatus checks that addresses count as announced only if a session carries
// them, and that an idle peer does not change the report at every attempt.
func TestSessionStatus(t *testing.T) {
	s := plan.Snapshot{
		Node: "node-1", Nodes: []*corev1.Node{node("node-1")}, Interfaces: map[string][]l2.Interface{"node-1": nil},
		Services: []*corev1.Service{service("s", "203.0.113.5", "p"), service("r", "203.0.113.6", "p"), service("v6", "2001:db8::5", "p")},
	}
	s.Config, _ = config.Parse(config.Objects{
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")},
		BGPPeers:          []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")},
	})
	up := bgp.PeerStatus{Name: "a", State: bgp.Established, IPv4: true, Since: time.Unix(100, 5), Withheld: "IPv6: not enabled"}
	down := bgp.PeerStatus{Name: "b", State: bgp.OpenSent, LastError: "connection refused", LastErrorAt: time.Unix(100, 0)}
	first := speakerStatus(v1alpha1.SpeakerStatus{}, observedState{plan: plan.Decide(s), sessions: []bgp.PeerStatus{up, down}})

	if first.SessionSummary != "1/2" || first.AnnouncedAddresses != 2 {
		t.Errorf("got %+v", first)
	}
	if len(first.Announcing) != 1 || !slices.Equal(first.Announcing[0].Peers, []string{"a"}) ||
		!slices.Equal(first.Announcing[0].Addresses, []string{"203.0.113.5-203.0.113.6"}) {
		t.Errorf("announcing %+v", first.Announcing)
	}
	want := v1alpha1.AddressReason{
		Reason:    v1alpha1.NoSession,
		Message:   "no BGP session can carry it: a: IPv6: not enabled; b: connection refused",
		Addresses: []string{"2001:db8::5"},
	}
	if len(first.Unannounced) != 1 || fmt.Sprint(first.Unannounced[0]) != fmt.Sprint(want) {
		t.Errorf("unannounced %+v, want %+v", first.Unannounced, want)
	}
	down.State, down.LastErrorAt, down.Since = bgp.Connect, time.Unix(200, 0), time.Unix(200, 0)
	second := speakerStatus(first, observedState{plan: plan.Decide(s), sessions: []bgp.PeerStatus{up, down}})
	if a, b := first.Sessions[1], second.Sessions[1]; !a.LastErrorTime.Equal(b.LastErrorTime) || a.State != b.State {
		t.Errorf("another attempt changes the report from\n%+v\nto\n%+v", a, b)
	}
}

// BenchmarkRoutes measures deciding and reporting 50,000 routes to two peers.
func BenchmarkRoutes(b *testing.B) {
	s := plan.Snapshot{Node: "node-0", Interfaces: map[string][]l2.Interface{}}
	s.Config, _ = config.Parse(config.Objects{
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")},
		BGPPeers:          []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")},
	})
	for i := range 3 {
		s.Nodes = append(s.Nodes, node(fmt.Sprintf("node-%d", i)))
	}
	for i := range 50_000 {
		s.Services = append(s.Services, service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), "p"))
	}
	sessions := []bgp.PeerStatus{{Name: "a", State: bgp.Established, IPv4: true}, {Name: "b", State: bgp.Established, IPv4: true}}
	for b.Loop() {
		speakerStatus(v1alpha1.SpeakerStatus{}, observedState{plan: plan.Decide(s), sessions: sessions})
	}
}
