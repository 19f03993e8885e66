package config

import (
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
		"slow", v1alpha1.BFDProfileSpec{TransmitInterval: 60000, ReceiveInterval: 60000, DetectMultiplier: 255},
		BFDProfile{time.Minute, time.Minute, 255, 254, false}, "",
	},
	{
		"all", v1alpha1.BFDProfileSpec{TransmitInterval: 10, ReceiveInterval: 20, DetectMultiplier: 2, PassiveMode: true, MinimumTTL: 1},
		BFDProfile{10 * ms, 20 * ms, 2, 1, true}, "",
	},
	{"transmit", v1alpha1.BFDProfileSpec{TransmitInterval: 9}, BFDProfile{}, "spec.transmitInterval must be from 10 to 60000, not 9"},
	{"receive", v1alpha1.BFDProfileSpec{ReceiveInterval: -50}, BFDProfile{}, "spec.receiveInterval must be from 10 to 60000, not -50"},
	{"multiplier", v1alpha1.BFDProfileSpec{DetectMultiplier: 256}, BFDProfile{}, "spec.detectMultiplier must be from 2 to 255, not 256"},
	{"minimum-ttl", v1alpha1.BFDProfileSpec{MinimumTTL: 255}, BFDProfile{}, "spec.minimumTtl must be from 1 to 254, not 255"},
}

// TestBFDProfile checks profiles with valid and invalid values, and that a peer with an
// invalid one has no BFD.
func TestBFDProfile(t *testing.T) {
	for _, tt := range bfdProfiles {
		c, problems := Parse(Objects{
			BFDProfiles: []*v1alpha1.BFDProfile{{ObjectMeta: metav1.ObjectMeta{Name: tt.name}, Spec: tt.spec}},
			BGPPeers: []*v1alpha1.BGPPeer{{
				ObjectMeta: metav1.ObjectMeta{Name: "peer"},
				Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64512, PeerAddress: "192.0.2.1", BFDProfile: tt.name},
			}},
		})
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
