package config

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// takeoverClockSkew is the time by which the clocks of two nodes may differ. It is shorter
// than the time after which a node takes its addresses back.
const takeoverClockSkew = 10 * time.Second

// AnnouncementReport is the report of a candidate that announces an address on the LAN.
type AnnouncementReport struct {
	Node       string
	TakenOver  []v1alpha1.Takeover
	LastChange *metav1.Time // of the report; nil if it is not known
}

// CurrentReports returns the indexes of the reports that are not out of date. One is out of
// date if another node has taken the address over from its node, and the report has not
// changed since then. Takeovers that contradict each other, and those that are older than
// the report, change nothing: it is not known which of the nodes announces the address.
// Reports can be forged, so that one which is out of date by the others may still be true.
func CurrentReports(reports []AnnouncementReport) (current []int) {
	for i, r := range reports {
		if !slices.ContainsFunc(reports, r.isSupersededBy) {
			current = append(current, i)
		}
	}
	if len(current) == 0 { // takeovers from each other
		for i := range reports {
			current = append(current, i)
		}
	}
	return current
}

func (r AnnouncementReport) isSupersededBy(o AnnouncementReport) bool {
	from := takenOverFrom(o.TakenOver, r.Node)
	return o.Node != r.Node && from != nil && (r.LastChange == nil || !r.LastChange.After(from.Since.Add(takeoverClockSkew)))
}

func takenOverFrom(all []v1alpha1.Takeover, node string) *v1alpha1.Takeover {
	if i := slices.IndexFunc(all, func(t v1alpha1.Takeover) bool { return t.Node == node }); i >= 0 {
		return &all[i]
	}
	return nil
}

// TakeoverText describes from which node addresses were taken over, when and why: the one
// of the highest rank. It is "" without one.
func TakeoverText(all []v1alpha1.Takeover) string {
	if len(all) == 0 {
		return ""
	}
	text := "taken over from " + all[0].Node + " at " + all[0].Since.UTC().Format(time.RFC3339)
	if all[0].Message != "" {
		text += ": " + all[0].Message
	}
	return text
}
