package plan

import (
	"testing"

	"pgregory.net/rapid"
)

// TestStaleCache: whatever the watches have not brought yet, and whatever
// happens to pools, Services and controllers, no address is given to two
// Services that do not share it, and none changes but by its Service's request.
func TestStaleCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if wrong := simulate(t, disabledRules{}); wrong != "" {
			t.Fatal(wrong)
		}
	})
}

// TestStaleCacheNeedsItsRules: without any one of the safety rules the same
// simulation does go wrong, so it would notice if one were lost.
func TestStaleCacheNeedsItsRules(t *testing.T) {
	for name, lax := range map[string]disabledRules{
		"own writes": {noOverlay: true}, "fresh first list": {noFreshList: true}, "doubt after a lost answer": {noUnknownOutcome: true},
		"optimistic locking": {noLocking: true}, "recorded pools": {noPools: true}, "recorded terms of sharing": {noTerms: true},
		"what others hold is taken": {noHeldAddresses: true}, "who lets go first": {noOrder: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 20_000 {
				wrong := rapid.Custom(func(t *rapid.T) string { return simulate(t, lax) }).Example(seed)
				if wrong != "" {
					t.Logf("run %d: %s", seed, wrong)
					return
				}
			}
			t.Error("nothing went wrong in 20,000 runs")
		})
	}
}
