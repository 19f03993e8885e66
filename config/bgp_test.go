package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestBGPProblems: each thing that cannot be used is named, and nothing else is
// lost.
func TestBGPProblems(t *testing.T) {
	length := int32(24)
	preferred := int64(200)
	born := func(n int64) metav1.ObjectMeta {
		return metav1.ObjectMeta{CreationTimestamp: metav1.Unix(n, 0)}
	}
	named := func(m metav1.ObjectMeta, name string) metav1.ObjectMeta { m.Name = name; return m }
	c, problems := Parse(Objects{
		Pools: []*v1alpha1.IPAddressPool{{
			ObjectMeta: named(born(1), "p"),
			Spec:       v1alpha1.IPAddressPoolSpec{Addresses: []v1alpha1.AddressRange{"203.0.113.0-203.0.114.10"}},
		}},
		BFDProfiles: []*v1alpha1.BFDProfile{
			{ObjectMeta: named(born(1), "fastest"), Spec: v1alpha1.BFDProfileSpec{TransmitInterval: 10}},
			{
				ObjectMeta: named(born(1), "fast"),
				Spec:       v1alpha1.BFDProfileSpec{TransmitInterval: 50, ReceiveInterval: 60, DetectMultiplier: 4, MinimumTTL: 250},
			},
		},
		BGPPeers: []*v1alpha1.BGPPeer{
			{
				ObjectMeta: named(born(2), "a"),
				Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64512, PeerAddress: "192.0.2.1", BFDProfile: "fast"},
			},
			{
				ObjectMeta: named(born(3), "c"),
				Spec: v1alpha1.BGPPeerSpec{
					MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.3", BFDProfile: "fastest", EnableGracefulRestart: true,
				},
			},
			{
				ObjectMeta: named(born(1), "b"),
				Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, DynamicASN: "external", PeerAddress: "2001:db8::1", BFDProfile: "gone"},
			},
		},
		Communities: []*v1alpha1.Community{
			{
				ObjectMeta: named(born(1), "first"),
				Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{
					{Name: "x", Value: "1:2"}, {Name: "no-export", Value: "1:3"},
				}},
			},
			{
				ObjectMeta: named(born(2), "second"),
				Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{
					{Name: "x", Value: "9:9"}, {Name: "big", Value: "70000:1"}, {Name: "y", Value: "large:70000:1:2"},
				}},
			},
		},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
			{
				ObjectMeta: named(born(1), "one"),
				Spec: v1alpha1.BGPAdvertisementSpec{
					AggregationLength: &length,
					Peers:             []string{"a", "nobody"},
					Communities:       []string{"x", "y", "big", "no-export", "1:2:3"},
				},
			},
			{
				ObjectMeta: named(born(1), "two"),
				Spec: v1alpha1.BGPAdvertisementSpec{
					LocalPref:         &preferred,
					AggregationLength: &length,
					NodeSelectors:     []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}},
				},
			},
		},
	})
	var got []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s %s %s %s", p.Kind, p.Name, p.Field, p.Reason))
	}
	want := []string{
		"BGPPeer b spec.bfdProfile UnknownBFDProfile",
		"BGPPeer c spec.bfdProfile BFDTooFast",
		"Community first spec.communities[1].name DuplicateCommunity",
		"Community second spec.communities[0].name DuplicateCommunity",
		"Community second spec.communities[1].value InvalidCommunity",
		"BGPAdvertisement one spec.peers[1] UnknownPeer",
		"BGPAdvertisement one spec.communities[2] UnknownCommunity",
		"BGPAdvertisement one spec.communities[4] UnknownCommunity",
		"BGPAdvertisement one spec.aggregationLength AggregateBeyondPool",
		"BGPAdvertisement two spec.nodeSelectors[0] InvalidSelector",
		"BGPAdvertisement two spec.aggregationLength AggregateBeyondPool",
		"BGPAdvertisement two spec.localPref ConflictingAttributes",
	}
	if !slices.Equal(got, want) {
		t.Errorf("problems\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	if len(c.BGPPeers) != 3 || c.BGPPeers[0].Name != "b" {
		t.Fatalf("peers %+v, want all, the oldest first", c.BGPPeers)
	}
	b, a := c.BGPPeers[0], c.BGPPeers[1]
	bfd := BFDProfile{Transmit: 50 * time.Millisecond, Receive: 60 * time.Millisecond, Multiplier: 4, MinTTL: 250}
	if a.BFD == nil || *a.BFD != bfd || !a.Internal() {
		t.Errorf("peer a %+v", a)
	}
	if b.BFD != nil || b.Internal() || b.HoldTime != 9*time.Second || b.Port != 179 || !b.IPv4 || !b.IPv6 {
		t.Errorf("peer b %+v", b)
	}
	if got, want := strings.Join(c.BGPAdvertisements[0].Communities, " "), "1:2 65535:65281 70000:1:2"; got != want {
		t.Errorf("communities %q, want %q", got, want)
	}
}

// TestAggregatesOfManyRanges: a pool has one problem, however many ranges it has.
func TestAggregatesOfManyRanges(t *testing.T) {
	four, six := int32(30), int32(64)
	_, problems := Parse(Objects{
		Pools: []*v1alpha1.IPAddressPool{pool("p", 1, "192.0.2.0/30", "192.0.2.9", "192.0.2.11", "192.0.2.16/31", "2001:db8::7")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{
			{ObjectMeta: metav1.ObjectMeta{Name: "ad"}, Spec: v1alpha1.BGPAdvertisementSpec{AggregationLength: &four, AggregationLengthV6: &six}},
		},
	})
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{
		`BGPAdvertisement ad: spec.aggregationLength: 192.0.2.9-192.0.2.9 and 2 more ranges of IPAddressPool "p" are not aligned to /30: ` +
			`addresses outside of whole aggregates are advertised as host routes`,
		`BGPAdvertisement ad: spec.aggregationLengthV6: 2001:db8::7-2001:db8::7 of IPAddressPool "p" is not aligned to /64: ` +
			`addresses outside of whole aggregates are advertised as host routes`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// FuzzCommunity: whatever is accepted is in range and means the same when read
// again.
func FuzzCommunity(f *testing.F) {
	for _, seed := range []string{"1:2", "large:1:2:3", "65536:1", "large:4294967296:0:0", "-1:1", "01:1", "::", "no-export"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value, err := parseCommunity(text)
		if err != nil {
			return
		}
		again := value
		if strings.Count(value, ":") == 2 {
			again = "large:" + value
		}
		if back, err := parseCommunity(again); err != nil || back != value {
			t.Errorf("%q is %q, which is %q (%v)", text, value, back, err)
		}
	})
}
