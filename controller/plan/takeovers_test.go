package plan

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// TestTakeoverCondition checks what the condition says when node b has taken over an address
// from node a, whose last report may still have it.
func TestTakeoverCondition(t *testing.T) {
	const addr, subnet = "192.0.2.7", "192.0.2.1/24"
	const byB = addr + " by node b on eth0 (taken over from a at 1970-01-01T00:01:40Z: it did not answer)"
	takenOver := func(from string) func(*reportedState) {
		return func(s *reportedState) {
			onInterface("eth0", addr)(s)
			s.Announcing[0].TakenOver = []v1alpha1.Takeover{{Node: from, Since: metav1.Unix(100, 0), Message: "it did not answer"}}
		}
	}
	at := func(second int64) func(*reportedState) {
		return func(s *reportedState) {
			onInterface("eth0", addr)(s)
			changed := metav1.Unix(second, 0)
			s.LastChangeTime = &changed
		}
	}
	nothing := func(*reportedState) {}
	for _, row := range []struct {
		name string
		a, b func(*reportedState)
		node *corev1.Node // b
		want string
	}{
		{"taken over", nothing, takenOver("a"), readyNode("b"), byB},
		{"the report of a is older", at(50), takenOver("a"), readyNode("b"), byB},
		{"the report of a is newer", at(131), takenOver("a"), readyNode("b"), addr + " by node a on eth0 and " + byB[len(addr+" by "):]},
		{"without a takeover", at(50), onInterface("eth0", addr), readyNode("b"), addr + " by node a on eth0 and node b on eth0"},
		{"by a node that is not Ready", at(50), takenOver("a"), readyNode("b", fixture.NotReady), addr + " by node a on eth0"},
		{"by a node that is not selected", at(50), takenOver("a"), readyNode("b", fixture.Labelled("lan", "no")), addr + " by node a on eth0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{
				Policy: providers.Policy{Mode: providers.BareMetal}, Nodes: []*corev1.Node{readyNode("a"), row.node},
				Services: []*corev1.Service{service("s", annotated(v1alpha1.AnnotationLoadBalancerIPs, addr))},
			}
			s.Speakers, s.L2Nodes = reports{reportOf("a", subnet, row.a), reportOf("b", subnet, row.b)}.objects()
			s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("lan", "192.0.2.0/24")}
			s.Objects.L2Advertisements = []*v1alpha1.L2Advertisement{{
				ObjectMeta: metav1.ObjectMeta{Name: "lan"},
				Spec: v1alpha1.L2AdvertisementSpec{NodeSelectors: []metav1.LabelSelector{{
					MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "lan", Operator: metav1.LabelSelectorOpDoesNotExist}},
				}}},
			}}
			got := apimeta.FindStatusCondition(Decide(s).planOf(key("s")).Conditions, v1alpha1.ConditionAnnounced)
			if got.Status != metav1.ConditionTrue || got.Reason != string(v1alpha1.Announced) || got.Message != row.want {
				t.Errorf("got %s %s %q, want %q", got.Status, got.Reason, got.Message, row.want)
			}
		})
	}
}
