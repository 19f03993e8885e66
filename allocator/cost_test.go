package allocator

import "testing"

// TestCost: no shape of input makes the cost grow faster than n log n.
func TestCost(t *testing.T) {
	const n, growth = 500, 2.6 // of n log n it is 2.2
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			if small, large := steps(s, n), steps(s, 2*n); float64(large) > growth*float64(small) {
				t.Errorf("%d steps for %d, %d for twice as many: %.1f times as many", small, n, large, float64(large)/float64(small))
			}
		})
	}
}

// steps counts the steps of one decision.
func steps(s shape, n int) int {
	pools, requests := s.make(n)
	r := newRun(&runMemory{}, NewPools(pools, nil), requests)
	r.allocateAll()
	return r.steps
}
