package plan

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
)

// TestUnknownOutcome: after a write with an unknown outcome the Service has the addresses
// of both states, and a change, until a newer version has been observed or its deletion.
func TestUnknownOutcome(t *testing.T) {
	at := func(version string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.ResourceVersion = version }
	}
	was := fixture.Assigned("a", "192.0.2.1", "p", at("5"))
	p := planFor("a", ".2")
	unknown := func() *Overlay {
		o := &Overlay{}
		o.ObserveUnknown(PlannedService{was, &p})
		return o
	}
	shown := func(svc *corev1.Service) (all []string) {
		for _, h := range haveAddresses(svc) {
			all = append(all, h.Addr.String()+"="+h.Pool)
		}
		return all
	}
	both := []string{"192.0.2.1=p", "192.0.2.2=p"}
	o := unknown()
	for range 2 { // the same version, from the cache or by a read, proves nothing
		merged := o.Merge([]*corev1.Service{was}, "9")
		if len(merged) != 1 || !slices.Equal(shown(merged[0]), both) || merged[0] != o.Newest(was) {
			t.Fatalf("got %v", merged)
		}
		old, written := planFor("a", ".1"), p
		if old.Matches(merged[0]) || written.Matches(merged[0]) {
			t.Error("no write would follow")
		}
		o.Observe(was)
	}
	newer := fixture.Assigned("a", "192.0.2.1", "p", at("6"))
	if got := o.Merge([]*corev1.Service{newer}, "9"); got[0] != newer || len(o.assumed) != 0 {
		t.Errorf("after a newer version in the cache: %v", got)
	}
	o = unknown()
	if o.Observe(newer); o.Newest(was) != newer {
		t.Error("a newer version that a write returned is not used")
	}
	o = unknown()
	if got := o.Merge(nil, "9"); len(got) != 0 || len(o.assumed) != 0 {
		t.Errorf("after its deletion: %v", got)
	}
	// A write that assigns nothing leaves nothing to reserve.
	same := planFor("a", ".1")
	o.ObserveUnknown(PlannedService{was, &same})
	if o.Newest(was) != was {
		t.Error("the Service has changed")
	}
	// The record of the address may name either pool.
	follows := planFor("a", ".1")
	follows.AllocatedFrom = config.FormatAllocation(config.Records{{Addr: netip.MustParseAddr("192.0.2.1"), Value: "q"}}, was.UID)
	o.ObserveUnknown(PlannedService{was, &follows})
	records := config.OwnAllocation(o.Newest(was))
	if len(records) != 2 || records[0].Value != "p" || records[1].Value != "q" || !slices.Equal(shown(o.Newest(was)), []string{"192.0.2.1=p"}) {
		t.Errorf("after a write of another pool: %v", records)
	}
	// A Service that waits for the release of its recorded address does not show it.
	lost := service("a", fixture.Recorded("192.0.2.2=p"), at("5"))
	interim := PlannedService{lost, &p}.interimPlan(Unreleased{netip.MustParseAddr("192.0.2.2"): {key("b")}})
	o = &Overlay{}
	o.ObserveUnknown(PlannedService{lost, &interim})
	if c := (PlannedService{o.Newest(lost), &p}); len(c.addedAddrs()) != 1 {
		t.Errorf("the address counts as shown: %+v", c.Service.Status)
	}
}
