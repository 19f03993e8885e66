package doctor

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// brokenCluster returns a cluster with one problem of each kind.
func brokenCluster() objects.Snapshot {
	node := func(name string) *corev1.Node {
		ready := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: ready}}
	}
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	configured := config.Objects{
		Pools: []*v1alpha1.IPAddressPool{
			{ObjectMeta: named("lan"), Spec: v1alpha1.IPAddressPoolSpec{Addresses: []v1alpha1.AddressRange{
				"192.0.2.9-192.0.2.1",
				"192.0.2.20",
			}}},
			{ObjectMeta: named("unused"), Spec: v1alpha1.IPAddressPoolSpec{Addresses: []v1alpha1.AddressRange{"198.51.100.0/24"}}},
		},
		BGPPeers: []*v1alpha1.BGPPeer{
			{ObjectMeta: named("tor-a"), Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.1"}},
			{ObjectMeta: named("tor-b"), Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.2"}},
		},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
			{ObjectMeta: named("all"), Spec: v1alpha1.BGPAdvertisementSpec{IPAddressPools: []string{"lan"}}},
		},
	}
	reported := func(name string, b v1alpha1.Session) *v1alpha1.Speaker {
		a := v1alpha1.Session{
			Peer: "tor-a", State: "Established", Families: []string{"IPv4"}, Routes: 7, BFD: "Up", NextHops: []string{"192.0.2.21"},
			Withheld: "IPv6: the peer does not have the family enabled",
		}
		return &v1alpha1.Speaker{ObjectMeta: named(name), Status: v1alpha1.SpeakerStatus{Sessions: []v1alpha1.Session{a, b}}}
	}
	c := objects.Collection{
		MissingCRDs: []string{"communities.fairlead.io"},
		Objects:     configured, Nodes: []*corev1.Node{node("node-1"), node("node-2"), node("node-3")},
		Speakers: []*v1alpha1.Speaker{
			reported("node-1", v1alpha1.Session{
				Peer: "tor-b", State: "Connect", LastError: "connection refused by 192.0.2.2 port 179", FailedAt: "connect",
			}),
			reported("node-2", v1alpha1.Session{
				Peer: "tor-b", State: "Connect", LastError: "expected AS 64513, but the peer's OPEN has AS 64999", FailedAt: "asn",
			}),
		},
	}
	return c.Snapshot(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), providers.Policy{})
}

func TestExamine(t *testing.T) {
	var out strings.Builder
	if err := Examine(brokenCluster()).Text(&out); err != nil {
		t.Fatal(err)
	}
	// The column widths are not compared.
	got := strings.TrimSpace(strings.Join(strings.Fields(strings.ReplaceAll(out.String(), "\n", " | ")), " "))
	want := strings.Join([]string{
		`BROKEN BGPPeer tor-b from node-1 SessionDown connection refused by 192.0.2.2 port 179`,
		`BROKEN BGPPeer tor-b from node-2 SessionDown expected AS 64513, but the peer's OPEN has AS 64999`,
		`BROKEN BGPPeer tor-b from node-3 NoSpeaker the speaker of the node has not reported this session`,
		`BROKEN CustomResourceDefinition communities.fairlead.io KindMissing it is not installed; ` +
			`install it: kubectl apply --server-side -k deploy`,
		`DEGRADED BGPPeer tor-a from node-1 RoutesWithheld IPv6: the peer does not have the family enabled`,
		`DEGRADED BGPPeer tor-a from node-2 RoutesWithheld IPv6: the peer does not have the family enabled`,
		`DEGRADED BGPPeer tor-a from node-3 NoSpeaker the speaker of the node has not reported this session`,
		`DEGRADED IPAddressPool lan InvertedRange spec.addresses[0]: "192.0.2.9-192.0.2.1" ends before it starts; ` +
			`did you mean "192.0.2.1-192.0.2.9"?`,
		`DEGRADED IPAddressPool unused NoAdvertisement no L2Advertisement and no BGPAdvertisement covers the pool`,
		`DEGRADED Node node-3 NoSpeaker the speaker of the node has not reported; check: kubectl -n fairlead-system get pods -o wide`,
		``,
		`PEER NODE STATE REACH TTL,PASSWORD PORT OPEN ASN FAMILIES ACCEPTS BFD ROUTES NEXT-HOPS`,
		`tor-a node-1 Established ok ok ok ok ok IPv4 ok Up 7 192.0.2.21`,
		`tor-b node-1 Connect ok ok FAIL ? ? ? ? - 0 -`,
		`tor-a node-2 Established ok ok ok ok ok IPv4 ok Up 7 192.0.2.21`,
		`tor-b node-2 Connect ok ok ok ok FAIL ? ? - 0 - |`,
	}, " | ")
	want = strings.Join(strings.Fields(want), " ")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", strings.ReplaceAll(got, " | ", "\n"), strings.ReplaceAll(want, " | ", "\n"))
	}
}

// TestNoFinding checks the text of a diagnosis without findings.
func TestNoFinding(t *testing.T) {
	var out strings.Builder
	if err := Examine(objects.Snapshot{}).Text(&out); err != nil || !strings.Contains(out.String(), "No problems found") {
		t.Error(out.String())
	}
}

// TestOtherHosts checks the findings about hosts and kernels that answer for addresses, and
// about an announced address without endpoints.
func TestOtherHosts(t *testing.T) {
	l2node := func(name string, kernelAnswers bool) *v1alpha1.L2Node {
		return fixture.L2Node(name, v1alpha1.Interface{Name: "eth0", Addresses: []string{"192.0.2.14/24"}, KernelAnswers: kernelAnswers})
	}
	about := func(reason v1alpha1.Reason, addr string) []v1alpha1.AddressReason {
		return []v1alpha1.AddressReason{{Reason: reason, Message: "why", Addresses: []string{addr}}}
	}
	collection := func(kernelAnswers bool) objects.Collection {
		return objects.Collection{
			Objects: config.Objects{
				Pools:            []*v1alpha1.IPAddressPool{fixture.Pool("lan", "192.0.2.0/29")},
				L2Advertisements: []*v1alpha1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}},
			},
			Services: []*corev1.Service{
				fixture.Assigned("a", "192.0.2.1", "lan"), fixture.Assigned("b", "192.0.2.2", "lan"), fixture.Assigned("c", "192.0.2.3", "lan"),
				fixture.Assigned("d", "192.0.2.4", "lan"),
			},
			Nodes: []*corev1.Node{fixture.Node("m"), fixture.Node("n")},
			Speakers: []*v1alpha1.Speaker{
				{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Status: v1alpha1.SpeakerStatus{
					Warnings: []v1alpha1.AddressReason{{Reason: v1alpha1.KernelAnswers, Message: "on lo", Addresses: []string{"192.0.2.2-192.0.2.3"}}},
				}},
				{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1alpha1.SpeakerStatus{
					Unannounced: about(v1alpha1.AddressConflict, "192.0.2.1"),
					Announcing:  []v1alpha1.Announcement{{Interfaces: []string{"eth0"}, Addresses: []string{"192.0.2.2-192.0.2.4"}}},
					Warnings: slices.Concat(about(v1alpha1.AddressConflict, "192.0.2.2"), about(v1alpha1.ProxyARP, "192.0.2.3"),
						about(v1alpha1.NoEndpoints, "192.0.2.4")),
				}},
			},
			L2Nodes: []*v1alpha1.L2Node{l2node("m", kernelAnswers), l2node("n", kernelAnswers)},
		}
	}
	want := []string{
		"BROKEN Service ns/a AddressConflict 192.0.2.1: why",
		"BROKEN Service ns/d NoEndpoints 192.0.2.4: why; 192.0.2.4 by node n on eth0",
		"DEGRADED Node m KernelAnswers on lo",
		"DEGRADED Service ns/b AddressConflict 192.0.2.2: why; 192.0.2.2 by node n on eth0",
		"DEGRADED Service ns/c ProxyARP 192.0.2.3: why; 192.0.2.3 by node n on eth0",
	}
	const kernels = "DEGRADED DaemonSet kube-proxy KernelAnswers in IPVS mode without strictARP, the kernels of these nodes answer ARP requests " +
		"for the addresses of all Services: m, n; set ipvs.strictARP: true in the configuration of kube-proxy, and restart its pods"
	for _, kernelAnswers := range []bool{false, true} {
		c := collection(kernelAnswers)
		var got []string
		for _, f := range Examine(c.Snapshot(time.Time{}, providers.Policy{Mode: providers.BareMetal})).Findings {
			switch f.Reason {
			case v1alpha1.AddressConflict, v1alpha1.ProxyARP, v1alpha1.KernelAnswers, v1alpha1.NoEndpoints:
				got = append(got, fmt.Sprint(f.Severity, " ", f.Object, " ", f.Reason, " ", f.Message))
			}
		}
		expected := want
		if kernelAnswers {
			expected = slices.Insert(slices.Clone(want), 2, kernels)
		}
		if !slices.Equal(got, expected) {
			t.Errorf("kernels answer %t: got\n%s", kernelAnswers, strings.Join(got, "\n"))
		}
	}
}

// TestReverted: a writer that reverts the controller is named from the condition, or from
// the managed fields if it has reverted the condition too.
func TestReverted(t *testing.T) {
	reverted := fixture.Assigned("a", "192.0.2.1", "lan", func(svc *corev1.Service) {
		svc.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionProvisioned, Reason: string(v1alpha1.Reverted), Message: "by x"}}
	})
	replaced := fixture.Assigned("b", "192.0.2.2", "lan", fixture.IngressManagedBy("other-lb"), func(svc *corev1.Service) {
		svc.Status.LoadBalancer.Ingress[0].IP = "203.0.113.9"
	})
	c := objects.Collection{
		Objects:  config.Objects{Pools: []*v1alpha1.IPAddressPool{fixture.Pool("lan", "192.0.2.0/28")}},
		Services: []*corev1.Service{reverted, replaced}, Nodes: []*corev1.Node{fixture.Node("n")},
	}
	s := c.Snapshot(time.Time{}, providers.Policy{Mode: providers.BareMetal})
	var got []string
	for _, f := range Examine(s).Findings {
		if f.Reason == v1alpha1.Reverted || f.Reason == v1alpha1.ControllerBehind {
			got = append(got, f.Object+": "+f.Message)
		}
	}
	want := []string{
		"Service ns/a: by x", `Service ns/b: field manager "other-lb" has replaced the addresses that the controller wrote`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestListenFailed: a program is reported while its last Event about its listener is a
// failure, until it stops repeating the Event. Events that others write are not used.
func TestListenFailed(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	event := func(name, pod, reason string, age time.Duration, change func(*corev1.Event)) *corev1.Event {
		e := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: "fairlead-system", Name: name},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "fairlead-system", Name: pod}, Reason: reason,
			Source: corev1.EventSource{Component: "fairlead-controller"}, Message: "of " + name, LastTimestamp: metav1.NewTime(now.Add(-age)),
		}
		if change != nil {
			change(e)
		}
		return e
	}
	s := objects.Snapshot{Events: []*corev1.Event{
		event("1", "fails", "ListenFailed", time.Minute, nil),
		event("2", "over", "ListenFailed", time.Minute, nil), event("3", "over", "Listening", time.Minute, nil),
		event("4", "over-in-a-second", "Listening", time.Minute, nil), event("5", "over-in-a-second", "ListenFailed", time.Minute, nil),
		event("6", "again", "Listening", time.Hour, nil), event("7", "again", "ListenFailed", 14*time.Minute, nil),
		event("8", "gone", "ListenFailed", 16*time.Minute, nil),
		event("12", "speaker", "ListenFailed", 0, func(e *corev1.Event) { e.Source.Component = "fairlead-speaker" }),
		event("9", "a", "ListenFailed", 0, func(e *corev1.Event) { e.Namespace = "tenant" }),
		event("10", "b", "ListenFailed", 0, func(e *corev1.Event) { e.Source.Component = "other" }),
		event("11", "c", "ListenFailed", 0, func(e *corev1.Event) { e.InvolvedObject.Kind = "Service" }),
	}}
	s.Controller.Now = now
	var out strings.Builder
	if err := Examine(s).Text(&out); err != nil {
		t.Fatal(err)
	}
	want := "DEGRADED  Pod fairlead-system/again    ListenFailed  of 7\n" +
		"DEGRADED  Pod fairlead-system/fails    ListenFailed  of 1\n" +
		"DEGRADED  Pod fairlead-system/speaker  ListenFailed  of 12\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
