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

// TestFailover checks the findings about takeovers and BFD, of nodes that an advertisement
// selects. Node x is not selected.
func TestFailover(t *testing.T) {
	takenOver := func(from string) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{Announcing: []v1alpha1.Announcement{{
			Interfaces: []string{"eth0"}, Addresses: []string{"192.0.2.1"},
			TakenOver: []v1alpha1.Takeover{{Node: from, Since: metav1.Unix(100, 0), Message: "it did not answer"}},
		}}}
	}
	filtered := func(nodes ...string) (s v1alpha1.SpeakerStatus) {
		for _, n := range nodes {
			s.Neighbors = append(s.Neighbors, v1alpha1.Neighbor{Node: n, Interface: "eth0", Filtered: true})
		}
		return s
	}
	detects := func(node string, within int64) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{Neighbors: []v1alpha1.Neighbor{{Node: node, Interface: "eth0", DetectionMilliseconds: within}}}
	}
	const hint = "they answer ARP or Neighbor Discovery, but not BFD, so that a takeover takes up to 3.5 s: is UDP port 3784 filtered between "
	const by = "other nodes announce its addresses: b reports: taken over from a at 1970-01-01T00:01:40Z: it did not answer; " +
		"check that its speaker runs and that it is connected: kubectl -n fairlead-system get pods -o wide"
	for _, row := range []struct {
		name    string
		reports map[string]v1alpha1.SpeakerStatus
		want    []string
	}{
		{"none", map[string]v1alpha1.SpeakerStatus{"a": detects("b", 450)}, nil},
		{"taken over", map[string]v1alpha1.SpeakerStatus{"b": takenOver("a")}, []string{"DEGRADED Node a TakenOver " + by}},
		{"from a node that does not exist", map[string]v1alpha1.SpeakerStatus{"b": takenOver("z")}, nil},
		{"from a node that is not selected", map[string]v1alpha1.SpeakerStatus{"b": takenOver("x")}, nil},
		{"by a node that is not selected", map[string]v1alpha1.SpeakerStatus{"x": takenOver("a")}, nil},
		{"from itself", map[string]v1alpha1.SpeakerStatus{"b": takenOver("b")}, nil},
		{
			"filtered, as both report",
			map[string]v1alpha1.SpeakerStatus{"a": filtered("b"), "b": filtered("a")},
			[]string{"DEGRADED Nodes b and a on eth0 BFDFiltered " + hint + "the two?"},
		},
		{
			"many",
			map[string]v1alpha1.SpeakerStatus{"a": filtered("b", "c", "d"), "b": filtered("c", "d", "z")},
			[]string{"DEGRADED DaemonSet fairlead-speaker BFDFiltered 5 pairs of nodes: b and a on eth0; c and a on eth0; d and a on eth0; and 2 more: " +
				hint + "the nodes?"},
		},
		{"slow", map[string]v1alpha1.SpeakerStatus{"a": detects("b", 1050)}, []string{
			"NOTICE DaemonSet fairlead-speaker SlowDetection a failure is detected after more than 1 s between b and a on eth0 (1050 ms): " +
				"BFD packets are sent less often on segments with many nodes; select fewer nodes in the L2Advertisement to detect it earlier",
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			selector := metav1.LabelSelector{MatchLabels: map[string]string{"lan": "yes"}}
			c := objects.Collection{Objects: config.Objects{L2Advertisements: []*v1alpha1.L2Advertisement{{
				ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.L2AdvertisementSpec{NodeSelectors: []metav1.LabelSelector{selector}},
			}}}}
			for _, name := range strings.Fields("a b c d") {
				c.Nodes = append(c.Nodes, fixture.Node(name, fixture.Labelled("lan", "yes")))
			}
			c.Nodes = append(c.Nodes, fixture.Node("x"))
			for _, n := range c.Nodes {
				c.Speakers = append(c.Speakers, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Status: row.reports[n.Name]})
			}
			var got []string
			for _, f := range Examine(c.Snapshot(time.Unix(400, 0), providers.Policy{Mode: providers.BareMetal})).Findings {
				got = append(got, fmt.Sprint(f.Severity, " ", f.Object, " ", f.Reason, " ", f.Message))
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(row.want, "\n"))
			}
		})
	}
}

// TestDataPathFindings checks that nodes without an answer from kube-proxy are reported: as a
// problem if it answers on other nodes.
func TestDataPathFindings(t *testing.T) {
	const hint = "; check that kube-proxy runs there: kubectl -n kube-system get pods -o wide -l k8s-app=kube-proxy"
	for _, row := range []struct{ a, b, want string }{
		{"", "", ""},
		{"waits", "", "DEGRADED DaemonSet kube-proxy DataPathUnverified a waits" + hint},
		{"waits", "waits", "NOTICE DaemonSet kube-proxy DataPathUnverified a waits; b waits" + hint},
	} {
		c := objects.Collection{}
		for name, text := range map[string]string{"a": row.a, "b": row.b} {
			c.Nodes = append(c.Nodes, fixture.Node(name))
			c.Speakers = append(c.Speakers, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerStatus{DataPath: text}})
		}
		slices.SortFunc(c.Nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
		got := ""
		for _, f := range dataPathFindings(c.Snapshot(time.Unix(400, 0), providers.Policy{Mode: providers.BareMetal})) {
			got += fmt.Sprint(f.Severity, " ", f.Object, " ", f.Reason, " ", f.Message)
		}
		if got != row.want {
			t.Errorf("got %q, want %q", got, row.want)
		}
	}
}
