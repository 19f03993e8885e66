package plan

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// TestSessionTimers checks which of several profiles applies to the session of two nodes.
// Both come to the same result.
func TestSessionTimers(t *testing.T) {
	const ms = time.Millisecond
	profile := func(name string, transmit, receive, multiplier int32) *v1alpha1.BFDProfile {
		return &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BFDProfileSpec{
			TransmitInterval: transmit, ReceiveInterval: receive, DetectMultiplier: multiplier, PassiveMode: true,
		}}
	}
	profiles := []*v1alpha1.BFDProfile{
		profile("fast", 10, 10, 3), profile("slow", 300, 300, 3), profile("patient", 20, 20, 100), profile("invalid", 1, 1, 1),
	}
	ad := func(name, profile string, pools ...string) *v1alpha1.L2Advertisement {
		return l2ad(name, v1alpha1.L2AdvertisementSpec{IPAddressPools: pools, BFDProfile: profile})
	}
	threeTimes := func(d time.Duration) failover.Timers { return failover.Timers{Transmit: d, Receive: d, Multiplier: 3} }
	fast, slow, byDefault := threeTimes(10*ms), threeTimes(300*ms), threeTimes(50*ms)
	inP, inQ := service("p", "192.0.2.77", "p"), service("q", "192.0.2.78", "q")
	both := []*corev1.Service{inP, inQ}
	for _, tt := range []struct {
		name     string
		services []*corev1.Service
		ads      []*v1alpha1.L2Advertisement
		want     failover.Timers
		longest  time.Duration
	}{
		{"none", both, []*v1alpha1.L2Advertisement{ad("all", "")}, byDefault, 150 * ms},
		{"one", both, []*v1alpha1.L2Advertisement{ad("all", "slow")}, slow, 900 * ms},
		{"missing", both, []*v1alpha1.L2Advertisement{ad("all", "gone")}, byDefault, 150 * ms},
		{"invalid", both, []*v1alpha1.L2Advertisement{ad("all", "invalid")}, byDefault, 150 * ms},
		{"two of a pool", both[:1], []*v1alpha1.L2Advertisement{ad("a", "slow"), ad("b", "fast")}, fast, 30 * ms},
		{"one of a pool, and none", both[:1], []*v1alpha1.L2Advertisement{ad("a", "slow"), ad("b", "")}, byDefault, 150 * ms},
		{"one of a pool, and a missing one", both[:1], []*v1alpha1.L2Advertisement{ad("a", "slow"), ad("b", "gone")}, byDefault, 150 * ms},
		{"by the detection time", both[:1], []*v1alpha1.L2Advertisement{ad("a", "patient"), ad("b", "slow")}, slow, 900 * ms},
		{"two pools", both, []*v1alpha1.L2Advertisement{ad("a", "slow", "p"), ad("b", "fast", "q")}, fast, 900 * ms},
		{"two pools, one address", both[:1], []*v1alpha1.L2Advertisement{ad("a", "slow", "p"), ad("b", "fast", "q")}, slow, 900 * ms},
	} {
		for range 2 {
			s := Snapshot{
				Services: tt.services, Nodes: []*corev1.Node{node("a"), node("b")},
				Interfaces: map[string][]l2.Interface{
					"a": {newInterface("eth0", "192.0.2.1/24")}, "b": {newInterface("eth0", "192.0.2.2/24")},
				},
			}
			s.Config, _ = config.Parse(config.Objects{L2Advertisements: tt.ads, BFDProfiles: profiles})
			for self, other := range map[string]string{"a": "b", "b": "a"} {
				s.Node = self
				n, ok := Decide(s).Neighbors[failover.Peer{Interface: "eth0", Node: other}]
				if !ok || n.Timers != tt.want || n.LongestDetection != tt.longest {
					t.Errorf("%s: %s has %+v, longest %s, want %+v, %s", tt.name, self, n.Timers, n.LongestDetection, tt.want, tt.longest)
				}
			}
			// The order of objects does not matter.
			slices.Reverse(tt.services)
			slices.Reverse(tt.ads)
		}
	}
}
