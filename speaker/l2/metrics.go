package l2

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	requestsAnswered = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "fairlead_speaker_l2_requests_answered_total",
		Help:           "ARP requests and Neighbor Solicitations for announced addresses that were answered, by interface and family (ipv4, ipv6).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"interface", "family"})

	announcementsSent = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "fairlead_speaker_l2_announcements_sent_total",
		Help:           "Gratuitous ARP and unsolicited Neighbor Advertisement frames that were sent, by interface and family (ipv4, ipv6).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"interface", "family"})
)

// familyLabel returns the value of the label family.
func familyLabel(f family) string {
	if f == (arpFamily{}) {
		return "ipv4"
	}
	return "ipv6"
}

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(requestsAnswered, announcementsSent) })
