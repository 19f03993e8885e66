package config

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestWeightedScores fixes some scores: all versions of the speaker on a segment must
// compute the same.
func TestWeightedScores(t *testing.T) {
	for _, row := range []struct {
		hash   uint64
		weight int32
		want   uint64
	}{
		{0, 1, 1 << 18},
		{1, 1, 1 << 18},
		{1 << 63, 1, 1 << 24},
		{1 << 63, 100, 100 << 24},
		{1 << 62, 1, 1 << 23},
		{3 << 62, 7, 282963616},
		{math.MaxUint64, 1, 1 << 56},
		{math.MaxUint64, 100, 100 << 56},
		{math.MaxUint64, 0, 0},
		{0, 0, 0},
		{RendezvousScore(RankSeed("node-1"), netip.MustParseAddr("192.0.2.10")), 3, 1374739262},
	} {
		if got := WeightedScore(row.hash, row.weight); got != row.want {
			t.Errorf("hash %#x, weight %d: got %d, want %d", row.hash, row.weight, got, row.want)
		}
	}
}

// TestLawWeightedScore checks that the score is precise, that it increases with the weight,
// and that nodes of equal weight rank as by the hash.
func TestLawWeightedScore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, weight := rapid.Uint64().Draw(t, "a"), rapid.Int32Range(1, v1alpha1.MaxNodeWeight).Draw(t, "weight")
		b := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(a-min(a, 1000), a)).Draw(t, "b")
		a, b = max(a, b), min(a, b)
		if WeightedScore(a, weight) < WeightedScore(b, weight) {
			t.Fatalf("%#x scores less than %#x", a, b)
		}
		if WeightedScore(a, weight-1) >= WeightedScore(a, weight) {
			t.Fatalf("%#x scores as much with the weight %d as with %d", a, weight-1, weight)
		}
		exact := (64 - math.Log2(float64(max(b, 1)))) * (1 << 32)
		if got := float64(negativeLog2(b)); math.Abs(got-exact) > 1.001 {
			t.Fatalf("%#x: -log2 is %f, want %f", b, got, exact)
		}
	})
}

// TestWeightedShares checks that the nodes rank first for their share of the addresses.
func TestWeightedShares(t *testing.T) {
	const addresses = 20_000
	for _, weights := range [][]int32{{1, 1, 1}, {1, 2, 5}, {0, 3, 3}, {0, 0}, {100, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {10, 20, 30, 40}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			owned, sum := make([]int, len(weights)), 0.0
			for addr, i := netip.MustParseAddr("10.1.0.0"), 0; i < addresses; addr, i = addr.Next(), i+1 {
				best, first := [2]uint64{}, 0
				for n, w := range weights {
					hash := RendezvousScore(RankSeed(fmt.Sprintf("node-%d", n)), addr)
					if score := [2]uint64{WeightedScore(hash, w), hash}; score[0] > best[0] || score[0] == best[0] && score[1] > best[1] {
						best, first = score, n
					}
				}
				owned[first]++
			}
			for _, w := range weights {
				sum += float64(w)
			}
			for n, w := range weights {
				share := float64(w) / sum
				if sum == 0 {
					share = 1 / float64(len(weights))
				}
				want, deviation := addresses*share, math.Sqrt(addresses*share*(1-share))
				if math.Abs(float64(owned[n])-want) > 4*deviation {
					t.Errorf("node %d of weight %d owns %d addresses, want %.0f ± %.0f", n, w, owned[n], want, deviation)
				}
			}
		})
	}
}

func BenchmarkWeightedScore(b *testing.B) {
	var hash uint64
	for b.Loop() {
		hash = RendezvousScore(hash, netip.Addr{})
		WeightedScore(hash, 3)
	}
}
