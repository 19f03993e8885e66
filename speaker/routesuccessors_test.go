package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/speaker/plan"
)

// TestRouteSuccessorFacts checks since when a successor counts as one that is ready for the
// packets, and when a node that is about to be removed has been drained for it.
func TestRouteSuccessorFacts(t *testing.T) {
	const half, drain = proxySyncDelay / 2, 3 * proxySyncDelay
	addr := netip.MustParseAddr("203.0.113.5")
	type step struct {
		after   time.Duration
		node    string // of the plan; "" if there is none
		changed bool
		fact    plan.RouteSuccessor // of the next plan, except for its node
		wait    time.Duration
	}
	synced, drained := plan.RouteSuccessor{Synced: true}, plan.RouteSuccessor{Synced: true, Drained: true}
	for _, row := range []struct {
		name     string
		excluded time.Duration // since when this node is about to be removed, before the first step; negative if later, 0 if it is not
		drain    time.Duration
		steps    []step
	}{
		{"a successor", 0, drain, []step{
			{0, "b", true, plan.RouteSuccessor{}, proxySyncDelay},
			{half, "b", false, plan.RouteSuccessor{}, half},
			{half, "b", false, synced, 0},
			{time.Hour, "b", false, synced, 0},
			{0, "", false, plan.RouteSuccessor{}, 0},
			{0, "b", true, plan.RouteSuccessor{}, proxySyncDelay},
		}},
		{"another one", 0, drain, []step{
			{0, "b", true, plan.RouteSuccessor{}, proxySyncDelay},
			{time.Hour, "c", true, plan.RouteSuccessor{}, proxySyncDelay},
		}},
		{"about to be removed for long", time.Hour, drain, []step{
			{0, "b", true, plan.RouteSuccessor{}, proxySyncDelay},
			{proxySyncDelay, "b", false, synced, drain - proxySyncDelay},
			{drain - proxySyncDelay, "b", false, drained, 0},
		}},
		{"about to be removed later", -time.Hour, drain, []step{
			{0, "b", true, plan.RouteSuccessor{}, proxySyncDelay},
			{time.Hour, "b", false, synced, drain},
			{drain, "b", false, drained, 0},
		}},
		{"a short drain delay", time.Hour, 0, []step{
			{0, "b", true, plan.RouteSuccessor{}, proxySyncDelay},
			{half, "b", false, plan.RouteSuccessor{}, half},
			{half, "b", false, drained, 0},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var s routeSuccessors
			began := time.Now()
			now, excludedSince := began, time.Time{}
			if row.excluded != 0 {
				excludedSince = began.Add(-row.excluded)
			}
			for i, step := range row.steps {
				now = now.Add(step.after)
				planned := map[netip.Addr]string{}
				if step.node != "" {
					planned[addr], step.fact.Node = step.node, step.node
				}
				changed := s.observe(planned, now)
				facts, wait := s.facts(excludedSince, row.drain, now)
				if changed != step.changed || facts[addr] != step.fact || wait != step.wait {
					t.Fatalf("step %d: changed %t, %+v, wait %s; want %+v", i, changed, facts[addr], wait, step)
				}
			}
		})
	}
}

// TestRemainingDrain checks how long a speaker that ends waits until it withdraws its routes.
func TestRemainingDrain(t *testing.T) {
	const drain = 5 * time.Second
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, row := range []struct {
		name             string
		excluded, newest time.Time
		want             time.Duration
	}{
		{"not excluded", time.Time{}, ago(time.Second), drain},
		{"excluded a moment ago", ago(time.Second), time.Time{}, drain - time.Second},
		{"excluded long ago", ago(time.Hour), ago(time.Hour), drain - time.Hour},
		{"excluded long ago, another node serves since a moment ago", ago(time.Hour), ago(time.Second), drain - time.Second},
	} {
		e := shutdownPolicy{drainDelay: drain, excludedSince: row.excluded}
		var s routeSuccessors
		if s.observe(map[netip.Addr]string{netip.MustParseAddr("203.0.113.5"): "b"}, row.newest); row.newest.IsZero() {
			s = nil
		}
		if got := e.remainingDrain(s.newest(), now); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}
