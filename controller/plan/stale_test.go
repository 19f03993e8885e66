package plan

import (
	"testing"

	"pgregory.net/rapid"
)

// TestStaleCache: however stale the caches are, and whatever happens to pools, Services
// and controllers, no address is assigned to two Services that do not share it, and
// none changes without a request of its Service.
func TestStaleCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if violation := simulate(t, disabledRules{}); violation != "" {
			t.Fatal(violation)
		}
	})
}

// TestStaleCacheNeedsItsRules: without any one of the safety rules the same
// simulation fails, so that it detects if one is lost.
func TestStaleCacheNeedsItsRules(t *testing.T) {
	for name, lax := range map[string]disabledRules{
		"own writes": {noOverlay: true}, "fresh first list": {noFreshList: true}, "unknown outcome after a lost answer": {noUnknownOutcome: true},
		"optimistic locking": {noLocking: true}, "recorded pools": {noPools: true}, "recorded terms of sharing": {noTerms: true},
		"held addresses are taken": {noHeldAddresses: true}, "releases are written first": {noOrder: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 20_000 {
				violation := rapid.Custom(func(t *rapid.T) string { return simulate(t, lax) }).Example(seed)
				if violation != "" {
					t.Logf("run %d: %s", seed, violation)
					return
				}
			}
			t.Error("no violation in 20,000 runs")
		})
	}
}
