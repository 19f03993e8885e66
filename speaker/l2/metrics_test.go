package l2

import (
	"net"
	"net/netip"
	"testing"

	"k8s.io/component-base/metrics/legacyregistry"
)

// counterValue returns the value of the counter for vip0 and the family.
func counterValue(t *testing.T, name, family string) (value float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == name && labels["interface"] == "vip0" && labels["family"] == family {
				value = m.GetCounter().GetValue()
			}
		}
	}
	return value
}

// TestFrameCounters checks that sent answers and announcements are counted, and that
// probes, and questions that are not answered, are not.
func TestFrameCounters(t *testing.T) {
	registerMetrics()
	announceOnce(t)
	testFamilies(t, func(t *testing.T, f familyTest) {
		label := map[bool]string{true: "ipv4", false: "ipv6"}[f.vip.Is4()]
		values := func() [2]float64 {
			return [2]float64{
				counterValue(t, "fairlead_speaker_l2_requests_answered_total", label),
				counterValue(t, "fairlead_speaker_l2_announcements_sent_total", label),
			}
		}
		before := values()
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		r, s := newSimulatedResponder(t, f.family, mac, func() {})
		defer r.closeAndWait()
		if err := r.set(map[netip.Addr]mode{f.vip: announcing, f.other: probing}); err != nil {
			t.Fatal(err)
		}
		announcements := len(f.announce(mac, f.vip))
		for range announcements + probes {
			s.receiveFrame(t)
		}
		for range 2 {
			if len(f.answersTo(t, s, f.question(clientMAC, f.client, f.vip, nil), f.vip)) == 0 {
				t.Error("the question is not answered")
			}
			f.answersTo(t, s, f.question(clientMAC, f.client, f.other, nil), f.vip)
		}
		// For each question, answersTo asks another one that is answered.
		want := [2]float64{before[0] + 6, before[1] + float64(announcements)}
		eventually(t, "the frames are counted", func() bool { got := values(); return got[0] >= want[0] && got[1] >= want[1] })
		r.closeAndWait()
		if got := values(); got != want {
			t.Errorf("answers and announcements: %v, before %v, want %v", got, before, want)
		}
	})
}
