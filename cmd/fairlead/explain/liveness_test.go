package explain

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// TestLiveness checks which node is shown as the one that announces an address, and what
// happens next. A, B and C are the nodes in the order of their ranks. Node x is not selected.
func TestLiveness(t *testing.T) {
	const addr = "192.0.2.16"
	ranked := []string{"a", "b", "c"}
	slices.SortFunc(ranked, func(x, y string) int {
		score := func(n string) uint64 { return config.RendezvousScore(config.RankSeed(n), netip.MustParseAddr(addr)) }
		if score(x) > score(y) {
			return -1
		}
		return 1
	})
	a, b, c := ranked[0], ranked[1], ranked[2]
	now := time.Unix(400, 0)
	announces := func(from ...string) v1alpha1.SpeakerStatus {
		group := v1alpha1.Announcement{Interfaces: []string{"eth0"}, Addresses: []string{"192.0.2.10-192.0.2.20"}}
		for _, node := range from {
			group.TakenOver = append(group.TakenOver, v1alpha1.Takeover{Node: node, Since: metav1.Unix(100, 0), Message: "it did not answer"})
		}
		return v1alpha1.SpeakerStatus{Announcing: []v1alpha1.Announcement{group}}
	}
	changed := func(s v1alpha1.SpeakerStatus, second int64) v1alpha1.SpeakerStatus {
		at := metav1.Unix(second, 0)
		s.LastChangeTime = &at
		return s
	}
	observing := func(s v1alpha1.SpeakerStatus, node string) v1alpha1.SpeakerStatus {
		s.Neighbors = []v1alpha1.Neighbor{{Node: node, Interface: "eth0", State: "Live", BFD: "Up"}}
		return s
	}
	filtered := func(node string) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{Neighbors: []v1alpha1.Neighbor{{Node: node, Interface: "eth0", State: "Live", BFD: "Down", Filtered: true}}}
	}
	const by = "it has taken over from A at 1970-01-01T00:01:40Z (5m0s ago): it did not answer"
	for _, row := range []struct {
		name     string
		reports  map[string]v1alpha1.SpeakerStatus
		failback v1alpha1.Failback
		removed  string   // a node that is about to be removed
		want     []string // lines, with A, B and C for the nodes
		without  []string
	}{
		{"the owner", map[string]v1alpha1.SpeakerStatus{a: announces()}, "", "", []string{
			"* A answers on eth0 highest rank of the eligible nodes", "- B NotOwner", "- C NotOwner", "if A fails: B, then C",
		}, []string{"warning", "takes it back"}},
		{"none reports", nil, "", "", []string{"* A answers on eth0 highest rank", "if A fails: B, then C"}, []string{"warning"}},
		{"taken over", map[string]v1alpha1.SpeakerStatus{b: announces(a)}, "", "", []string{
			"* B answers on eth0 " + by, "- A TakenOver ranks higher, but B announces it", "- C NotOwner",
			"A takes it back 30 s after it is live again", "if B fails: C",
		}, []string{"warning", "if B fails: A", "its own report"}},
		{"never taken back, and live again", map[string]v1alpha1.SpeakerStatus{b: observing(announces(a), a)}, v1alpha1.FailbackNever, "", []string{
			"* B answers", "if B fails: A, then C",
		}, nil},
		{"never taken back", map[string]v1alpha1.SpeakerStatus{b: announces(a)}, v1alpha1.FailbackNever, "", []string{
			"* B answers", "A does not take it back (failback: Never), unless B fails, ends or is not eligible any more",
		}, []string{"30 s"}},
		{"the last report of the owner is older", map[string]v1alpha1.SpeakerStatus{a: changed(announces(), 50), b: announces(a)}, "", "", []string{
			"* B answers on eth0 " + by, "- A TakenOver ranks higher, but B announces it; its own report is from before the takeover",
		}, []string{"warning"}},
		{"contradicting", map[string]v1alpha1.SpeakerStatus{a: changed(announces(), 150), b: announces(a)}, "", "", []string{
			"* A answers on eth0 highest rank", "* B answers on eth0 " + by, "report to announce it; while both speakers run",
		}, []string{"if A fails", "if B fails"}},
		{"from both others", map[string]v1alpha1.SpeakerStatus{b: changed(announces(a), 50), c: announces(a, b)}, "", "", []string{
			"* C answers on eth0 " + by, "- A TakenOver", "- B TakenOver ranks higher, but C announces it; its own report is from before the takeover",
		}, []string{"warning", "if C fails"}},
		{"kept until the new node takes it", map[string]v1alpha1.SpeakerStatus{b: announces()}, "", "", []string{
			"* B answers on eth0 it keeps it for now, although A ranks higher", "- A TakenOver", "A takes it back",
		}, []string{"warning"}},
		{"a node that is not eligible", map[string]v1alpha1.SpeakerStatus{"x": announces(a)}, "", "", []string{
			"* A answers", "warning: only x reports to announce it, on eth0; that does not count, because the node is not eligible",
		}, []string{"* x", "taken over"}},
		{"one that is not eligible besides the owner", map[string]v1alpha1.SpeakerStatus{a: announces(), "x": announces(a)}, "", "", []string{
			"* A answers", "- x NodeNotSelected",
		}, []string{"warning", "taken over"}},
		{"filtered", map[string]v1alpha1.SpeakerStatus{a: announces(), c: filtered(a)}, "", "", []string{
			"warning: C reports that A answers ARP or Neighbor Discovery on eth0 but not BFD, so that it takes over only after up to 3.5 s: " +
				"is UDP port 3784 filtered between A and C?",
		}, nil},
		{"filtered to a node that does not announce it", map[string]v1alpha1.SpeakerStatus{a: announces(), c: filtered(b)}, "", "", nil, []string{"warning"}},
		{"until another node announces it", map[string]v1alpha1.SpeakerStatus{a: announces()}, "", a, []string{
			"* A answers on eth0 it keeps it for now, although B ranks higher", "- B TakenOver ranks higher, but A announces it",
			"B takes it over as soon as its kube-proxy serves it: A is about to be removed", "if A fails: B, then C",
		}, []string{"* B", "warning"}},
		{"another node announces it", map[string]v1alpha1.SpeakerStatus{b: announces()}, "", a, []string{
			"* B answers on eth0 highest rank of the eligible nodes", "- A NodeBeingRemoved has the taint ToBeDeletedByClusterAutoscaler, and another node",
			"if B fails: C",
		}, []string{"* A", "warning"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			collection := objects.Collection{
				Objects: config.Objects{
					Pools: []*v1alpha1.IPAddressPool{fixture.Pool("lan", "192.0.2.0/24")},
					L2Advertisements: []*v1alpha1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.L2AdvertisementSpec{
						NodeSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"lan": "yes"}}}, Failback: row.failback,
					}}},
				},
				Services: []*corev1.Service{fixture.Assigned("web", addr, "lan")},
			}
			for _, name := range []string{a, b, c, "x"} {
				node := fixture.Node(name, fixture.Labelled("lan", map[bool]string{true: "no", false: "yes"}[name == "x"]))
				if name == row.removed {
					fixture.Tainted("ToBeDeletedByClusterAutoscaler")(node)
				}
				collection.Nodes = append(collection.Nodes, node)
				collection.L2Nodes = append(collection.L2Nodes, fixture.L2Node(name, v1alpha1.Interface{
					Name: "eth0", Addresses: []string{"192.0.2.1/24"},
				}))
				if report, ok := row.reports[name]; ok {
					collection.Speakers = append(collection.Speakers, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: report})
				}
			}
			e, err := Service(collection.Snapshot(now, providers.Policy{Mode: providers.BareMetal}), types.NamespacedName{Namespace: "ns", Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(strings.Fields(e.Announcements[0].sectionText()), " ")
			got = regexp.MustCompile(`(rank \d, )?score [0-9.]+ `).ReplaceAllString(got, "")
			named := func(text string) string {
				return regexp.MustCompile(`\b[ABC]\b`).ReplaceAllStringFunc(text, func(letter string) string { return ranked[letter[0]-'A'] })
			}
			for _, want := range row.want {
				if !strings.Contains(got, named(want)) {
					t.Errorf("got\n%s\nwithout %q", e.Announcements[0].sectionText(), named(want))
				}
			}
			for _, without := range row.without {
				if strings.Contains(got, named(without)) {
					t.Errorf("got\n%s\nwith %q", e.Announcements[0].sectionText(), without)
				}
			}
		})
	}
}
