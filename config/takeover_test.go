package config

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestCurrentReports checks whose report counts when two nodes report to announce one address,
// b having taken it over from a at second 100.
func TestCurrentReports(t *testing.T) {
	from := func(node string) []v1alpha1.Takeover {
		return []v1alpha1.Takeover{{Node: node, Since: metav1.Unix(100, 0)}}
	}
	at := func(second int64) *metav1.Time { t := metav1.NewTime(time.Unix(second, 0)); return &t }
	for _, row := range []struct {
		name string
		a, b AnnouncementReport
		want bool
	}{
		{"taken over", AnnouncementReport{LastChange: at(50)}, AnnouncementReport{TakenOver: from("a")}, true},
		{"by a clock that is ahead", AnnouncementReport{LastChange: at(105)}, AnnouncementReport{TakenOver: from("a")}, true},
		{"the time is not known", AnnouncementReport{}, AnnouncementReport{TakenOver: from("a")}, true},
		{"changed since", AnnouncementReport{LastChange: at(131)}, AnnouncementReport{TakenOver: from("a")}, false},
		{"from another node", AnnouncementReport{LastChange: at(50)}, AnnouncementReport{TakenOver: from("c")}, false},
		{"not taken over", AnnouncementReport{LastChange: at(50)}, AnnouncementReport{}, false},
		{"from each other", AnnouncementReport{LastChange: at(50), TakenOver: from("b")}, AnnouncementReport{TakenOver: from("a")}, false},
	} {
		row.a.Node, row.b.Node = "a", "b"
		if got := CurrentReports([]AnnouncementReport{row.a, row.b}); slices.Equal(got, []int{1}) != row.want || !row.want && len(got) != 2 {
			t.Errorf("%s: got %v", row.name, got)
		}
	}
	circle := []AnnouncementReport{{Node: "a", TakenOver: from("b")}, {Node: "b", TakenOver: from("c")}, {Node: "c", TakenOver: from("a")}}
	if got := CurrentReports(circle); len(got) != 3 {
		t.Errorf("in a circle: got %v", got)
	}
	if got := CurrentReports([]AnnouncementReport{{Node: "a", TakenOver: from("a")}}); len(got) != 1 {
		t.Errorf("from itself: got %v", got)
	}
}
