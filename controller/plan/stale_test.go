package plan

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestStaleCache: however stale the caches are, and whatever happens to pools, Services
// and controllers, no address is assigned to two Services that do not share it, and
// none changes without a request of its Service.
func TestStaleCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if violation := simulate(t, disabledRules{}, false); violation != "" {
			t.Fatal(violation)
		}
	})
}

// TestStaleCacheWithOtherWriters: the same is true while other controllers and tools
// write statuses, tenants forge records and managed fields, Services are replaced, copied
// and restored, and nodes join with held addresses. Each Service is assigned an address
// that its status has lost again, and the controllers reach a fixed point.
func TestStaleCacheWithOtherWriters(t *testing.T) {
	for range 20 { // the rarest mistake so far took one history in several thousand
		rapid.Check(t, func(t *rapid.T) {
			if violation := simulate(t, disabledRules{}, true); violation != "" {
				t.Fatal(violation)
			}
		})
	}
}

// TestStaleCacheNeedsItsRules: without any one of the safety rules the same
// simulation fails, so that it detects if one is lost.
func TestStaleCacheNeedsItsRules(t *testing.T) {
	for name, lax := range map[string]disabledRules{
		"own writes": {noOverlay: true}, "fresh first list": {noFreshList: true}, "unknown outcome after a lost answer": {noUnknownOutcome: true},
		"a read proves nothing about a write in flight": {onlyReads: true}, "failed releases": {ignoresFailures: true},
		"optimistic locking": {noLocking: true}, "recorded pools": {noPools: true, rulesOfEvidence: rulesOfEvidence{noManagers: true}}, "recorded terms of sharing": {noTerms: true},
		"held addresses are taken": {noHeldAddresses: true}, "releases are written first": {noOrder: true},
	} {
		t.Run(name, func(t *testing.T) { needRule(t, lax, false) })
	}
	for name, lax := range map[string]disabledRules{
		"deleted pools stay selected": {noDeletedPools: true}, "optimistic locking of the selected pools": {noStatusLocking: true},
	} {
		t.Run(name, func(t *testing.T) { needRule(t, lax, true) })
	}
	for name, l := range map[string]rulesOfEvidence{
		"UID in records": {noUID: true}, "selection of recorded addresses": {noSelection: true},
		"managed fields prove less than records": {managersWin: true}, "managed fields": {noManagers: true},
		"a status is not a record": {statusWins: true}, "recorded addresses are assigned again": {noGivingBack: true},
		"addresses of nodes": {adoptsOnNodes: true}, "records of other Services are requests": {noCopies: true},
	} {
		t.Run(name, func(t *testing.T) { needRule(t, disabledRules{rulesOfEvidence: l}, true) })
	}
}

// TestStalePoolsDropNoName: a pool was labelled, selected by the previous leader, and
// deleted. The next leader, which may have seen the pool without the label only, keeps its
// name because its first sync waits for all changes of pools.
func TestStalePoolsDropNoName(t *testing.T) {
	for _, lax := range []disabledRules{{}, {noPoolCheck: true}} {
		rapid.Check(t, func(t *rapid.T) {
			server := newSimulatedAPIServer()
			server.advertisements = selectingAdvertisements().L2Advertisements
			server.pools = [][]*v1alpha1.IPAddressPool{{tieredPool("p", "core")}, {tieredPool("p", "edge")}, {}}
			server.selected = append(server.selected, selectedPools{[]string{"p"}, 1})
			server.put(fixture.Assigned("a", "192.0.2.1", "p"))
			leader := &simulatedController{overlay: &Overlay{}, unsure: true, reliable: true, seen: server.now, status: 1}
			leader.reconcile(t, server, lax)
			if dropped := server.violation != ""; dropped != lax.noPoolCheck {
				t.Errorf("without the check %v: got %q", lax.noPoolCheck, server.violation)
			}
		})
	}
}

// needRule fails if no history without the rules violates a law.
func needRule(t *testing.T, lax disabledRules, others bool) {
	for seed := range 20_000 {
		violation := rapid.Custom(func(t *rapid.T) string { return simulate(t, lax, others) }).Example(seed)
		if violation != "" {
			t.Logf("run %d: %s", seed, violation)
			return
		}
	}
	t.Error("no violation in 20,000 runs")
}
