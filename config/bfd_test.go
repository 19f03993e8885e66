package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const ms = time.Millisecond

// bfdProfiles are the profiles of the tests: of each, its spec and how it is parsed, or part
// of the problem.
var bfdProfiles = []struct {
	name    string
	spec    v1alpha1.BFDProfileSpec
	want    BFDProfile
	problem string
}{
	{"defaults", v1alpha1.BFDProfileSpec{}, BFDProfile{300 * ms, 300 * ms, 3, 254, false}, ""},
	{
		"slow",
		v1alpha1.BFDProfileSpec{TransmitInterval: 60000, ReceiveInterval: 60000, DetectMultiplier: 255},
		BFDProfile{time.Minute, time.Minute, 255, 254, false},
		"",
	},
	{
		"all",
		v1alpha1.BFDProfileSpec{TransmitInterval: 10, ReceiveInterval: 20, DetectMultiplier: 2, PassiveMode: true, MinimumTTL: 1},
		BFDProfile{10 * ms, 20 * ms, 2, 1, true},
		"",
	},
	{"transmit", v1alpha1.BFDProfileSpec{TransmitInterval: 9}, BFDProfile{}, "spec.transmitInterval must be from 10 to 60000, not 9"},
	{"receive", v1alpha1.BFDProfileSpec{ReceiveInterval: -50}, BFDProfile{}, "spec.receiveInterval must be from 10 to 60000, not -50"},
	{"multiplier", v1alpha1.BFDProfileSpec{DetectMultiplier: 256}, BFDProfile{}, "spec.detectMultiplier must be from 2 to 255, not 256"},
	{"minimum-ttl", v1alpha1.BFDProfileSpec{MinimumTTL: 255}, BFDProfile{}, "spec.minimumTtl must be from 1 to 254, not 255"},
}

// TestBFDProfile checks profiles with valid and invalid values. A peer with an invalid one
// has no BFD, and for an advertisement the default applies.
func TestBFDProfile(t *testing.T) {
	for _, tt := range bfdProfiles {
		c, problems := Parse(Objects{
			BFDProfiles: []*v1alpha1.BFDProfile{{ObjectMeta: metav1.ObjectMeta{Name: tt.name}, Spec: tt.spec}},
			BGPPeers: []*v1alpha1.BGPPeer{{
				ObjectMeta: metav1.ObjectMeta{Name: "peer"},
				Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64512, PeerAddress: "192.0.2.1", BFDProfile: tt.name},
			}},
			L2Advertisements: []*v1alpha1.L2Advertisement{{
				ObjectMeta: metav1.ObjectMeta{Name: "ad"}, Spec: v1alpha1.L2AdvertisementSpec{BFDProfile: tt.name},
			}},
		})
		for _, p := range problems[:min(len(problems), 1)] {
			if p.String() != `L2Advertisement ad: spec.bfdProfile: BFDProfile "`+tt.name+`" is invalid: `+tt.problem+": the default of 50 ms × 3 applies" {
				t.Errorf("%s: %s", tt.name, p)
			}
			problems = problems[1:]
			tt.want = nodeSession
		}
		if got := c.L2Advertisements[0].BFD; got != tt.want {
			t.Errorf("%s: the advertisement has %+v, want %+v", tt.name, got, tt.want)
		}
		switch got := c.BGPPeers[0].BFD; {
		case tt.problem == "" && (len(problems) > 0 || got == nil || *got != tt.want):
			t.Errorf("%s: %+v, problems %v, want %+v", tt.name, got, problems, tt.want)
		case tt.problem == "":
		case len(problems) != 1 || problems[0].Reason != v1alpha1.InvalidBFDProfile || got != nil ||
			!strings.HasPrefix(problems[0].String(), "BGPPeer peer: spec.bfdProfile: ") || !strings.Contains(problems[0].Message, tt.problem):
			t.Errorf("%s: %+v, problems %v, want no BFD, and %q", tt.name, got, problems, tt.problem)
		}
	}
}

// TestNodeSessions checks the profile of an L2Advertisement without or with a missing
// BFDProfile, and that it is used once it exists.
func TestNodeSessions(t *testing.T) {
	var parser Parser
	fast := &v1alpha1.BFDProfile{
		ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Spec: v1alpha1.BFDProfileSpec{TransmitInterval: 20, ReceiveInterval: 20},
	}
	named := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "named"}, Spec: v1alpha1.L2AdvertisementSpec{BFDProfile: "fast"}}
	unnamed := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "unnamed"}}
	for _, tt := range []struct {
		profiles []*v1alpha1.BFDProfile
		want     time.Duration
		problems string
	}{
		{nil, 50 * ms, `[L2Advertisement named: spec.bfdProfile: BFDProfile "fast" does not exist: the default of 50 ms × 3 applies]`},
		{[]*v1alpha1.BFDProfile{fast}, 20 * ms, "[]"},
	} {
		c, problems, _ := parser.Parse(Objects{L2Advertisements: []*v1alpha1.L2Advertisement{unnamed, named}, BFDProfiles: tt.profiles})
		if got := fmt.Sprint(problems); got != tt.problems {
			t.Errorf("problems %s, want %s", got, tt.problems)
		}
		for _, p := range problems {
			if p.Reason != v1alpha1.UnknownBFDProfile {
				t.Errorf("reason %s", p.Reason)
			}
		}
		if got := c.L2Advertisements[0].BFD; got.Transmit != tt.want || got.Receive != tt.want || got.Multiplier != 3 {
			t.Errorf("%+v, want %s", got, tt.want)
		}
		if got := c.L2Advertisements[1].BFD; got != nodeSession {
			t.Errorf("without a profile: %+v", got)
		}
	}
}
