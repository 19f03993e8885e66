package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func TestBGPPeerStatus(t *testing.T) {
	session := func(s v1alpha1.Session) []v1alpha1.Session { s.Peer = "tor"; return []v1alpha1.Session{s} }
	up := session(v1alpha1.Session{State: "Established"})
	for _, tt := range []struct {
		name     string
		sessions map[string][]v1alpha1.Session // of node-1, node-2; a nil list is a speaker without one
		notReady bool                          // node-2
		summary  string
		reason   v1alpha1.Reason // of Established
		ready    v1alpha1.Reason
		message  string
	}{
		{
			"all",
			map[string][]v1alpha1.Session{"node-1": up, "node-2": up},
			false, "Established 2/2", v1alpha1.Established,
			v1alpha1.Ready, "every session",
		},
		{
			"one is refused",
			map[string][]v1alpha1.Session{"node-1": up, "node-2": session(v1alpha1.Session{State: "Connect", LastError: "connection refused"})},
			false, "Established 1/2", v1alpha1.SessionDown, v1alpha1.Ready, "node-2: connection refused",
		},
		{
			"one is not tried",
			map[string][]v1alpha1.Session{
				"node-1": up,
				"node-2": session(v1alpha1.Session{State: "Idle", Problem: "no Secret", ProblemReason: v1alpha1.NoSecret}),
			},
			false, "Established 1/2", v1alpha1.SessionDown, v1alpha1.NoSecret, "node-2: no Secret",
		},
		{
			"the report of a node that is not Ready does not count",
			map[string][]v1alpha1.Session{"node-1": up, "node-2": up},
			true, "Established 1/2", v1alpha1.SessionDown,
			v1alpha1.Ready, "node-2: its speaker has not reported",
		},
		{"no speaker", nil, false, "Established 0/2", v1alpha1.SessionDown, v1alpha1.Ready, "node-1: its speaker has not reported; node-2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Snapshot{
				Nodes: []*corev1.Node{readyNode("node-1"), readyNode("node-2")},
				Objects: config.Objects{BGPPeers: []*v1alpha1.BGPPeer{{
					ObjectMeta: metav1.ObjectMeta{Name: "tor"},
					Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.1"},
				}}},
			}
			if tt.notReady {
				s.Nodes[1].Status.Conditions[0].Status = corev1.ConditionUnknown
			}
			for name, sessions := range tt.sessions {
				s.Speakers = append(s.Speakers, &v1alpha1.Speaker{
					ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerStatus{Sessions: sessions},
				})
			}
			got := Decide(s).BGPPeers["tor"]
			is := apimeta.FindStatusCondition(got.Conditions, v1alpha1.ConditionEstablished)
			ready := apimeta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady)
			if got.Summary != tt.summary || is.Reason != string(tt.reason) ||
				ready.Reason != string(tt.ready) || !strings.Contains(is.Message, tt.message) {
				t.Errorf("got %+v, want %s, %s, %s, and %q", got, tt.summary, tt.reason, tt.ready, tt.message)
			}
		})
	}
}

// TestAnnouncedByBGP: the condition does not list nodes and peers, so that no change
// of these changes every Service.
func TestAnnouncedByBGP(t *testing.T) {
	speaker := func(node string, peers ...string) *v1alpha1.Speaker {
		return &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: v1alpha1.SpeakerStatus{
			Announcing:  []v1alpha1.Announcement{{Peers: peers, Addresses: []string{"203.0.113.1-203.0.113.9", "2001:db8::1"}}},
			Unannounced: []v1alpha1.AddressReason{{Reason: v1alpha1.NoSession, Message: "why", Addresses: []string{"203.0.113.1-203.0.113.20"}}},
		}}
	}
	nodes := []*corev1.Node{readyNode("node-1"), readyNode("node-2")}
	c, _ := config.Parse(config.Objects{
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{fixture.BGPAdvertisement("all")},
		BGPPeers:          []*v1alpha1.BGPPeer{fixture.BGPPeer("a", "192.0.2.1"), fixture.BGPPeer("b", "192.0.2.2")},
	})
	one := &decision{reports: newSpeakerReports(c, nodes, []*v1alpha1.Speaker{speaker("node-1", "a")}, nil)}
	two := &decision{reports: newSpeakerReports(c, nodes, []*v1alpha1.Speaker{speaker("node-1", "a", "b"), speaker("node-2", "b")}, nil)}
	for text, want := range map[string]v1alpha1.Reason{
		"203.0.113.5": v1alpha1.Announced, "2001:db8::1": v1alpha1.Announced,
		"203.0.113.12": v1alpha1.NoSession, "203.0.113.99": v1alpha1.NoSpeaker,
	} {
		held := []allocator.Held{{Addr: netip.MustParseAddr(text)}}
		a, b := one.announcedCondition(held), two.announcedCondition(held)
		if a.Reason != string(want) || a != b {
			t.Errorf("%s is %+v and %+v, want %s", text, a, b, want)
		}
	}
}

// selectingAdvertisements returns an advertisement of each kind that selects the pools
// with the label tier=edge, and has this status.selectedPools.
func selectingAdvertisements(selected ...string) (o config.Objects) {
	edge := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "edge"}}}
	l2 := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}
	l2.Spec.IPAddressPoolSelectors, l2.Status.SelectedPools = edge, selected
	bgp := &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}
	bgp.Spec.IPAddressPoolSelectors, bgp.Status.SelectedPools = edge, selected
	o.L2Advertisements, o.BGPAdvertisements = []*v1alpha1.L2Advertisement{l2}, []*v1alpha1.BGPAdvertisement{bgp}
	return o
}

func tieredPool(name, tier string) *v1alpha1.IPAddressPool {
	p := pool(name)
	p.Labels = map[string]string{"tier": tier}
	return p
}

// checkSelectedPools checks status.selectedPools of both advertisements.
func checkSelectedPools(t *testing.T, p Plan, want ...string) {
	t.Helper()
	l2, bgp := p.L2Advertisements["edge"].SelectedPools, p.BGPAdvertisements["edge"].SelectedPools
	if !slices.Equal(l2, want) || !slices.Equal(bgp, want) {
		t.Errorf("got %q and %q, want %q", l2, bgp, want)
	}
}

// TestSelectedPools checks which names status.selectedPools has after a sync.
func TestSelectedPools(t *testing.T) {
	held := fixture.Assigned("a", "192.0.2.1", "gone")
	copied := fixture.Assigned("b", "192.0.2.1", "gone")
	copied.UID = "another"
	for _, tt := range []struct {
		name     string
		status   []string
		pools    []*v1alpha1.IPAddressPool
		services []*corev1.Service
		want     []string
	}{
		{
			"selected by label, unused", nil,
			[]*v1alpha1.IPAddressPool{tieredPool("b", "edge"), tieredPool("c", "core"), tieredPool("a", "edge")},
			nil,
			[]string{"a", "b"},
		},
		{"deleted and held", []string{"gone"}, []*v1alpha1.IPAddressPool{tieredPool("a", "edge")}, []*corev1.Service{held}, []string{"a", "gone"}},
		{"deleted and not held", []string{"gone"}, nil, nil, nil},
		{"deleted, the record is of another Service", []string{"gone"}, nil, []*corev1.Service{copied}, nil},
		{
			"held by a Service that is being deleted",
			[]string{"gone"},
			nil,
			[]*corev1.Service{fixture.Assigned("a", "192.0.2.1", "gone", deleting)},
			[]string{"gone"},
		},
		{"deleted before it was in the status", nil, nil, []*corev1.Service{held}, nil},
		{"created again with other labels", []string{"gone"}, []*v1alpha1.IPAddressPool{tieredPool("gone", "core")}, []*corev1.Service{held}, nil},
		{"created again with its labels", []string{"gone"}, []*v1alpha1.IPAddressPool{tieredPool("gone", "edge")}, nil, []string{"gone"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testSnapshot(tt.services...)
			s.Objects = selectingAdvertisements(tt.status...)
			s.Objects.Pools = tt.pools
			checkSelectedPools(t, Decide(s), tt.want...)
		})
	}
}

// TestSelectedPoolsWithoutSelectors checks that the status is emptied when the selectors
// are removed.
func TestSelectedPoolsWithoutSelectors(t *testing.T) {
	s := testSnapshot(fixture.Assigned("a", "192.0.2.1", "gone"))
	s.Objects = selectingAdvertisements("gone")
	s.Objects.L2Advertisements[0].Spec = v1alpha1.L2AdvertisementSpec{}
	s.Objects.BGPAdvertisements[0].Spec = v1alpha1.BGPAdvertisementSpec{IPAddressPools: []string{"gone"}}
	checkSelectedPools(t, Decide(s))
}

// TestSelectedPoolsAreDropped checks that one Planner drops the name of a deleted pool
// when the last Service with a record of it is gone, although nothing else has changed.
func TestSelectedPoolsAreDropped(t *testing.T) {
	var planner Planner
	s := testSnapshot(fixture.Assigned("a", "192.0.2.1", "gone"), fixture.Assigned("b", "192.0.2.2", "gone"))
	s.Objects = selectingAdvertisements("gone")
	s.Objects.Pools = nil
	checkSelectedPools(t, planner.Decide(s), "gone")
	s.Services = s.Services[1:]
	checkSelectedPools(t, planner.Decide(s), "gone")
	s.Services = nil
	checkSelectedPools(t, planner.Decide(s))
}

// TestSelectedPoolsAreBounded checks that deleted pools precede the others if there are
// more than the schema allows.
func TestSelectedPoolsAreBounded(t *testing.T) {
	s := testSnapshot(fixture.Assigned("a", "192.0.2.1", "z-gone"))
	s.Objects = selectingAdvertisements("z-gone")
	s.Objects.Pools = nil
	var want []string
	for i := range maxSelectedPools + 10 {
		name := fmt.Sprintf("p%03d", i)
		s.Objects.Pools = append(s.Objects.Pools, tieredPool(name, "edge"))
		want = append(want, name)
	}
	checkSelectedPools(t, Decide(s), append(want[:maxSelectedPools-1], "z-gone")...)
}
